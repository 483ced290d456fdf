"""Draws of a population from strata of near particles: means of few draws that vary less.

K draws of a population are split over m = max(1, K // 2) strata, n_s = 2 or 3 of them from one with
n_s / K of the weight. Of any function u of a particle, with u_k that of draw k and u_s the mean over
the draws of stratum s,

    mean    u = sum_k u_k / K                                                                       (1)
    spread  S = sum_s n_s / (n_s - 1) sum_{k in s} |u_k - u_s|^2 / K^2                              (2)

(1) is an unbiased estimate of the population's mean, whatever the strata are, and (2) of the variance
of (1) (Cochran, Sampling Techniques, 1977, chapter 5, draws in proportion to the weights of strata).
That variance is at most the one of K independent draws, smaller by what the strata's means differ.

Strata are cuts of the population's order. `compact_order` makes near particles neighbours in it, by
halving the weight across the axis of the largest variance, again and again.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, Float, HostArray, Key

HALVINGS = 7
"""Of a population: 128 cells are enough for 256 draws; cuts inside of a cell do no harm."""


def compact_order(points: HostArray, weights: HostArray, halvings: int = HALVINGS) -> HostArray:
    """An order of the rows, in which near ones are neighbours.

    Args:
        points: (n, d).
        weights: (n,), not negative.
        halvings: levels of cells.
    """

    def ordered(rows: HostArray, halvings: int) -> HostArray:
        if halvings == 0 or len(rows) < 2:
            return rows
        mass = weights[rows] if weights[rows].any() else None
        center = np.average(points[rows], axis=0, weights=mass)
        axis = np.argmax(np.average((points[rows] - center) ** 2, axis=0, weights=mass))
        rows = rows[np.argsort(points[rows, axis], kind="stable")]
        total = np.cumsum(weights[rows], dtype=np.float64)
        middle = np.clip(np.searchsorted(total, total[-1] / 2) + 1, 1, len(rows) - 1)
        return np.concatenate([ordered(part, halvings - 1) for part in np.split(rows, [middle])])

    return ordered(np.arange(len(points)), halvings)


def _sizes(draws: int) -> HostArray:
    """Draws of every stratum: three in the first one where their number is odd, two in the others.

    Raises:
        ValueError: fewer than two, of which no spread can be told.
    """
    if draws < 2:
        raise ValueError(f"a mean needs at least 2 draws, got {draws}")
    odd = draws % 2
    return np.array([3] * odd + [2] * (draws // 2 - odd))


def uniform_in_strata(key: Key, n: int, draws: int) -> Float[Array, "n k"]:
    """Shares of the weight, in [0, 1), at which particles are drawn, each inside of its own stratum.

    Args:
        key: of the randomness.
        n: how many means.
        draws: K, at least 2.
    """
    sizes = _sizes(draws)
    size = np.repeat(sizes, sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    shares = (first[None] + size[None] * jax.random.uniform(key, (n, draws))) / draws
    # The last stratum's may be rounded to 1, at which no particle is left.
    return jnp.minimum(shares, 1 - jnp.finfo(shares.dtype).epsneg)


def mean_and_spread(
    values: Float[Array, "n k d"],
) -> tuple[Float[Array, "n d"], Float[Array, "n"]]:
    """Equations (1) and (2) of values at the draws of `uniform_in_strata`."""
    draws = values.shape[1]
    of_three = 3 if _sizes(draws)[0] == 3 else 0
    first, second = values[:, of_three::2], values[:, of_three + 1 :: 2]
    spread = jnp.sum((first - second) ** 2, axis=(1, 2))  # (2) of two is their difference's square
    if of_three:
        three = values[:, :3]
        apart = three - three.mean(axis=1, keepdims=True)
        spread += 1.5 * jnp.sum(apart**2, axis=(1, 2))
    return values.mean(axis=1), spread / draws**2
