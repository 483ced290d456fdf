"""Populations at the scale at which transport is computed: single precision suffices there."""

import math

import numpy as np

from diffusions.typing import HostArray


def standardised(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, *, apart: bool = True
) -> tuple[HostArray, HostArray]:
    """Both populations shifted and scaled so that the mean squared distance is 1.

    Args:
        x: (n, d) source particles.
        y: (m, d) target particles.
        a: (n,) source weights of sum 1.
        b: (m,) target weights of sum 1.
        apart: each is shifted to its own centre, not both to the common one; the distance between the
            centres does not count in the scale either way.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    mean_x, mean_y = a @ x, b @ y
    mean_cost = a @ ((x - mean_x) ** 2).sum(1) + b @ ((y - mean_y) ** 2).sum(1)
    # One point each: any scale will do, every plan costs the same.
    scale = math.sqrt(mean_cost) if mean_cost > 0 else 1.0
    if not apart:
        mean_x = mean_y = (mean_x + mean_y) / 2
    return (x - mean_x) / scale, (y - mean_y) / scale
