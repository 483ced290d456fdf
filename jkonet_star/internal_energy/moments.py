"""Test functions of the weak form, and how a step's noise acts on them.

Gaussian bumps along directions w stay Gaussian under the heat semigroup P = exp(beta tau lap),

    f(x) = exp(-(w.x - c)^2 / 2 h^2),   s^2 = h^2 + 2 beta tau,                                     (1)
    P f(z) = (h / s) exp(-(w.z - c)^2 / 2 s^2),                                                     (2)

and the potential's features, smooth on the scale of the noise, follow it to first order,

    P f = f + beta tau lap f.                                                                       (3)

Bumps see noise best, as they are narrow, but along their directions only; the features see a drift
that no marginal shows.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import double_precision
from diffusions.typing import Array, Float
from jkonet_star.energies.features import Features
from jkonet_star.internal_energy.euler_steps import BLOCK_BYTES, padded

MOST_BUMPS = 60
FEWEST_BUMPS = 10
PARTICLES_PER_BUMP = 4
MOST_TESTS = 300
MOST_DIRECTIONS = 20
BUMP_WIDTH = 1.5
"""h, relative to the distance of neighbouring centres."""

Tests = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Values (n, q), gradients (d, n, q) and Laplacians (n, q) of test functions at points (n, d)."""


@dataclasses.dataclass(frozen=True)
class Bumps:
    """The functions (1).

    Attributes:
        directions: w, orthonormal rows (q, d).
        centers: c along every direction, (q, b).
        widths: h along every direction, (q,).
    """

    directions: np.ndarray
    centers: np.ndarray
    widths: np.ndarray

    def smoothed(
        self, z: Float[np.ndarray, "n d"], heat: float
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """P f, its slope along w and its Laplacian, (n, b) each, per direction; heat is beta tau."""
        parts = []
        for w, c, h in zip(self.directions, self.centers, self.widths, strict=True):
            variance = h**2 + 2.0 * heat
            offset = (z @ w)[:, None] - c
            value = (h / np.sqrt(variance)) * np.exp(offset**2 / (-2.0 * variance))
            parts.append(
                (value, -offset / variance * value, (offset**2 / variance - 1) / variance * value)
            )
        return parts


def make_bumps(pool: Float[np.ndarray, "n d"], n_particles: int, most: int = MOST_BUMPS) -> Bumps:
    """Bumps that cover the population: along the coordinates, or principal axes of too many.

    Args:
        pool: the particles of all snapshots.
        n_particles: of a snapshot.
        most: bumps of one direction.
    """
    d = pool.shape[1]
    directions = np.eye(d)
    if d > MOST_DIRECTIONS:
        _, vectors = np.linalg.eigh(np.cov(pool.T))
        directions = vectors[:, ::-1][:, :MOST_DIRECTIONS].T
    moving = np.array([np.ptp(pool @ w) > 0 for w in directions])
    directions = directions[moving]
    per_particle = max(FEWEST_BUMPS, n_particles // PARTICLES_PER_BUMP)
    n_bumps = min(most, per_particle, MOST_TESTS // len(directions))
    centers, widths = [], []
    for w in directions:
        low, high = np.quantile(pool @ w, [0.001, 0.999])
        margin = 0.02 * (high - low) + np.finfo(np.float64).tiny
        own = np.linspace(low - margin, high + margin, n_bumps)
        centers.append(own)
        widths.append(BUMP_WIDTH * (own[1] - own[0]))
    return Bumps(directions, np.stack(centers), np.array(widths))


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _potential_functions(
    features: Features, centers: Array, points: Array, block: int
) -> tuple[Array, Array, Array]:
    """Values (n, f), gradients (n, f, d) and Laplacians (n, f) of features."""

    def one(x: Array) -> tuple[Array, Array, Array]:
        jacobian = functools.partial(features.jacobian, centers)
        laplacian = sum(
            jax.jvp(lambda y, i=i: jacobian(y)[:, i], (x,), (unit,))[1]
            for i, unit in enumerate(jnp.eye(features.dimension, dtype=x.dtype))
        )
        return features.values(centers, x), jacobian(x), jnp.asarray(laplacian)

    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(jax.vmap(one), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(len(points), *leaf.shape[2:]), parts)


def potential_tests(features: Features, centers: np.ndarray) -> Tests:
    """The potential's features as test functions of the weak form."""
    block = max(1, BLOCK_BYTES // (8 * features.n_features * (features.dimension + 2)))

    def tests(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own = min(block, len(points))
        with double_precision():
            value, gradient, laplacian = _potential_functions(
                features,
                jnp.asarray(centers, jnp.float64),
                jnp.asarray(padded(points, own), jnp.float64),
                own,
            )
        n = len(points)
        moved = np.moveaxis(np.asarray(gradient[:n]), 2, 0)
        return np.asarray(value)[:n], moved, np.asarray(laplacian)[:n]

    return tests
