"""Which numbers single precision holds. Imports no JAX."""

import numpy as np

FAR = 32.0
"""Distance from zero, in units of the spread, from which an origin is needed."""
LARGEST, SMALLEST = 1e18, 1e-18
"""Spread of points and of times: beyond, their squares leave single precision."""


def check_spread(values: np.ndarray, what: str) -> tuple[np.ndarray, float]:
    """Mean and spread of values that single precision holds.

    Args:
        values: (n, d), in double precision.
        what: they are.

    Raises:
        ValueError: it does not hold them.
    """
    size = float(np.abs(values).max())
    # At unit size neither sums nor squares leave double precision.
    unit = values / size if size > 0 else values
    center = unit.mean(axis=0) * size
    spread = float(np.sqrt(np.mean((unit - unit.mean(axis=0)) ** 2))) * size
    if size > FAR * LARGEST or spread > LARGEST or 0 < max(spread, size) < SMALLEST:
        raise ValueError(
            f"{what} of size {size:g} and spread {spread:g} do not fit single precision: choose a "
            f"unit in which the spread lies between {SMALLEST:g} and {LARGEST:g}"
        )
    return center, spread
