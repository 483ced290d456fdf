"""Velocities without divergence: what no potential can say.

With S_m a basis of the skew-symmetric matrices, one for each plane (i, j) of coordinates, and functions
phi_m of x,

    c(x) = sum_m S_m grad phi_m(x),    S_m = e_i e_j^T - e_j e_i^T,    div c = 0,                   (1)

since S_m : hess phi_m = 0 for a skew S_m and a symmetric Hessian. In the plane phi is the stream
function. Fields of both kinds exist (S grad phi = -grad V with V and phi harmonic): (1) beside a
potential is unique up to those.

There are d (d - 1) / 2 planes; above `MOST_PLANES` those of the first coordinates are taken, which are
the widest ones where the coordinates are principal components.
"""

import math

import numpy as np

from diffusions.typing import Float

MOST_PLANES = 15

Planes = tuple[tuple[int, int], ...]


def coordinate_planes(dimension: int) -> Planes:
    """The pairs (i, j), i < j, of as many coordinates as give at most `MOST_PLANES`."""
    most = (1 + math.isqrt(1 + 8 * MOST_PLANES)) // 2
    n = min(dimension, most)
    return tuple((i, j) for i in range(n) for j in range(i + 1, n))


def skew_basis(planes: Planes, dimension: int) -> Float[np.ndarray, "m d d"]:
    """S_m of equation (1)."""
    basis = np.zeros((len(planes), dimension, dimension), np.float32)
    for m, (i, j) in enumerate(planes):
        basis[m, i, j], basis[m, j, i] = 1.0, -1.0
    return basis
