"""Arrays that a processor's devices can take over as they are. Imports no JAX.

XLA computes on memory that begins at a multiple of 64 bytes. What NumPy allocates begins 16 bytes
behind a page, and is copied before a program sees it: of a million cells that is every array twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes, the length of a cache line."""


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """What `numpy.empty` does, at a multiple of `ALIGNMENT` bytes.

    Args:
        shape: of the array.
        dtype: of its entries.
    """
    dtype = np.dtype(dtype)
    if not dtype.itemsize:
        return np.empty(shape, dtype)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + n_bytes].view(dtype).reshape(shape)
