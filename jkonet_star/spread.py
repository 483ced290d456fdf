"""Which numbers single precision holds. Imports no JAX."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

FAR = 32.0
"""Distance from zero, in units of the spread, from which an origin is needed."""
LARGEST, SMALLEST = 1e18, 1e-18
"""Spread of points and of times: beyond, their squares leave single precision."""
ROWS_AT_ONCE = 100_000
"""In double precision: a million cells need no second copy."""


def check_spread(parts: Sequence[np.ndarray], what: str) -> tuple[np.ndarray, float]:
    """Mean and spread of values that single precision holds, in double precision.

    Args:
        parts: each (n, d), one below the other.
        what: they are.

    Raises:
        ValueError: it does not hold them.
    """
    n, dimension = sum(len(part) for part in parts), parts[0].shape[1]
    size = max(max(float(part.max()), -float(part.min())) for part in parts)

    def blocks() -> Iterator[np.ndarray]:
        # At unit size neither sums nor squares leave double precision.
        for part in parts:
            for i in range(0, len(part), ROWS_AT_ONCE):
                block = part[i : i + ROWS_AT_ONCE].astype(np.float64)
                yield block / size if size > 0 else block

    mean = sum((block.sum(axis=0) for block in blocks()), np.zeros(dimension)) / n
    square = sum(float(np.sum((block - mean) ** 2)) for block in blocks()) / (n * dimension)
    center, spread = mean * size, float(np.sqrt(square)) * size
    if size > FAR * LARGEST or spread > LARGEST or 0 < max(spread, size) < SMALLEST:
        raise ValueError(
            f"{what} of size {size:g} and spread {spread:g} do not fit single precision: choose a "
            f"unit in which the spread lies between {SMALLEST:g} and {LARGEST:g}"
        )
    return center, spread


def squared_norms(of: Callable[[slice], np.ndarray], count: int) -> np.ndarray:
    """|v_i|^2 of so many rows in double precision, of which there are `ROWS_AT_ONCE` at a time.

    Args:
        of: some of the rows, (m, d).
        count: of all.
    """
    found = np.empty(count)
    for start in range(0, count, ROWS_AT_ONCE):
        own = slice(start, start + ROWS_AT_ONCE)
        found[own] = np.sum(of(own) ** 2, axis=1)
    return found
