"""The shape vocabulary of every annotation in this repository.

Axis names, the same everywhere:

    batch   independent examples                  n, m    particles of one population
    d       dimension of the state space          t       snapshots (t + 1 of them make t steps)
    f       features of a linear energy           k       mixture components or centres
    s       random seeds trained side by side     c       couplings (matched pairs)

The annotations are checked at run time in the tests only (`tests/conftest.py`).
"""

from typing import TypeAlias

import jaxtyping
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

Key: TypeAlias = PRNGKeyArray
"""A typed key of `jax.random.key`, never a raw uint32 pair."""

Keys: TypeAlias = jaxtyping.Key[Array, "s"]
"""One key per seed."""

Params: TypeAlias = PyTree
"""Parameters of a network, as `init` returns them."""

HostArray: TypeAlias = np.ndarray

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "Float",
    "HostArray",
    "Int",
    "Key",
    "Keys",
    "Params",
    "PyTree",
]
