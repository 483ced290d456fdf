r"""Whether snapshots may be samples of one law, judged by the moments of each.

With f what is compared of each particle, f_k its mean over the n_k particles of snapshot k, f that over
all N, and T the sum of (f - mean)(f - mean)^T over all particles, Pillai's trace (Ann. Math. Stat. 26,
1955)

    P = tr T^{-1} B,   B = sum_k n_k (f_k - f)(f_k - f)^T                                         (1)

has the mean p h / (N - 1) under every exchange of particles between the snapshots, whatever their law,
for p values and h = K - 1: T knows no snapshots, so that it is not what few particles of each make of a
covariance. With s = min(p, h) and nu = N - K it is judged by

    P / s  ~  Beta(p h / 2, s (nu - p + s) / 2),                                                   (2)

which has that mean, and is exact for normal values and s = 1. P says little where p nears nu: of the
values below, the first are taken of which there are at most nu / `PER_VALUE`, else the directions of
largest variance of the last.

    z, z_i z_j  |  z, z_i^2  |  z,    z_i = (x_i - mean_i) / deviation_i.                          (3)

Means and deviations are those of all particles together, so that no unit of a coordinate matters.
"""

import numpy as np
from scipy.special import betainc

from diffusions.typing import Float, HostArray
from jkonet_star.snapshots import Snapshots
from jkonet_star.units import ROUNDING

PER_VALUE = 5
"""Particles beyond one of each snapshot, for each value that is compared."""
MOST_CROSSED = 10
"""Dimensions up to which products of two coordinates count in (3)."""
_NARROWEST = 1e-9
"""Of the largest variance: below it, a direction of (3) is one of the others."""


def equal_laws(snapshots: Snapshots) -> float:
    """The p-value of equal means and second moments, of those that so many particles can compare.

    Args:
        snapshots: relative to any origin.
    """
    z, mass, worth = _standard(snapshots)
    d, freedom = snapshots.dimension, worth.sum() - len(worth)
    if d <= MOST_CROSSED and d + d * (d + 1) // 2 <= freedom / PER_VALUE:
        i, j = np.triu_indices(d)
    elif 2 * d <= freedom / PER_VALUE:
        i = j = np.arange(d)
    else:
        i = j = np.arange(0)
    return _equality(np.concatenate([z, z[..., i] * z[..., j]], axis=-1), mass, worth)


def equal_means(snapshots: Snapshots) -> float:
    """The p-value of equal means alone.

    Args:
        snapshots: relative to any origin.
    """
    return _equality(*_standard(snapshots))


def _standard(
    snapshots: Snapshots,
) -> tuple[Float[np.ndarray, "t n d"], Float[np.ndarray, "t n"], Float[np.ndarray, "t"]]:
    """The z of (3), how many particles each is worth, and how many each snapshot is."""
    weights = np.asarray(snapshots.weights, np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    worth = 1.0 / (weights**2).sum(axis=1)
    mass = worth[:, None] * weights
    points = np.asarray(snapshots.points, np.float64)
    return _scaled(points, mass, ROUNDING * np.abs(points).max(axis=(0, 1))), mass, worth


def _scaled(
    values: Float[np.ndarray, "t n p"], mass: Float[np.ndarray, "t n"], least: HostArray
) -> Float[np.ndarray, "t n p"]:
    """Values of mean 0 and deviation 1; zero where the deviation is no more than the least."""
    share = mass / mass.sum()
    away = values - np.einsum("kn,kni->i", share, values)
    deviation = np.sqrt(np.einsum("kn,kni->i", share, away**2))
    return away / np.where(deviation > least, deviation, np.inf)


def _equality(
    values: Float[np.ndarray, "t n p"],
    mass: Float[np.ndarray, "t n"],
    worth: Float[np.ndarray, "t"],
) -> float:
    """The p-value of equation (2)."""
    freedom = float(worth.sum() - len(worth))
    if freedom < 1:
        return 1.0
    f = _scaled(values, mass, np.zeros(values.shape[-1]))
    variances, directions = np.linalg.eigh(
        np.einsum("kn,kni,knj->ij", mass, f, f, optimize=True) / worth.sum()
    )
    kept = variances > _NARROWEST * max(variances[-1], np.finfo(float).tiny)
    kept[: -max(1, int(freedom / PER_VALUE))] = False
    p, h = int(kept.sum()), len(worth) - 1
    if p == 0:
        return 1.0
    means = np.einsum("kn,kni->ki", mass, f) / worth[:, None]
    across = (means @ directions[:, kept]) ** 2 / variances[kept]
    trace = float(worth @ across.sum(axis=1) / worth.sum())
    s = min(p, h)
    return float(betainc(s * (freedom - p + s) / 2, p * h / 2, max(0.0, 1.0 - trace / s)))
