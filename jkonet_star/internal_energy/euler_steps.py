"""Steps between snapshots, with the features of the drift at hand.

    z_i = x_i - tau b_theta(x_i),   b_theta(x) = sum_l theta_l G_l(x),                              (1)

where G_l is grad phi_l for the potential's features and mean_j w_j grad phi_l(x - x_j) for the
interaction's. All arrays are on the host; JAX computes G once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.precision import double_precision
from diffusions.typing import Array, Float, PyTree
from jkonet_star.energies.features import POPULATION_PER_BLOCK, Features
from jkonet_star.energies.models import LinearEnergy

BLOCK_BYTES = 64_000_000


@dataclasses.dataclass(frozen=True)
class Steps:
    """Consecutive snapshots and the features of the drift between them.

    Attributes:
        sources: x of every step, each (n, d).
        targets: y of every step, each (m, d).
        features: G at x, each (d, n, f).
        tau: length of every step.
    """

    sources: list[np.ndarray]
    targets: list[np.ndarray]
    features: list[np.ndarray]
    tau: Float[np.ndarray, "steps"]

    @property
    def n_features(self) -> int:
        """Number f of features."""
        return self.features[0].shape[-1]

    @property
    def n_residuals(self) -> int:
        """Coordinates of all targets."""
        return sum(y.size for y in self.targets)

    def drift(self, theta: Float[np.ndarray, "f"], step: int) -> Float[np.ndarray, "n d"]:
        """The drift b_theta at the sources of one step."""
        d, n, f = self.features[step].shape
        if not f:
            return np.zeros((n, d))
        return (self.features[step].reshape(d * n, f) @ theta).reshape(d, n).T

    def transported(self, theta: Float[np.ndarray, "f"]) -> list[np.ndarray]:
        """The z of equation (1) for every step."""
        return [
            x - t * self.drift(theta, k)
            for k, (x, t) in enumerate(zip(self.sources, self.tau, strict=True))
        ]

    def pulled_back(self, vectors: list[np.ndarray]) -> Float[np.ndarray, "f"]:
        """sum_k G^T v_k."""
        total = np.zeros(self.n_features)
        for g, v in zip(self.features, vectors, strict=True):
            total += v.T.ravel() @ g.reshape(v.size, g.shape[2])
        return total

    def information(self, weights: list[np.ndarray] | None = None) -> Float[np.ndarray, "f f"]:
        """sum_k tau_k G^T diag(o) G; o is one where no weights are given."""
        total = np.zeros((self.n_features, self.n_features))
        for k, (g, t) in enumerate(zip(self.features, self.tau, strict=True)):
            rows = g.reshape(g.shape[0] * g.shape[1], g.shape[2])
            scale = t if weights is None else t * np.tile(weights[k], g.shape[0])[:, None]
            total += (rows * scale).T @ rows
        return total


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _potential_gradients(features: Features, centers: Array, points: Array, block: int) -> Array:
    """Gradients (n, f, d) of features."""
    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(jax.vmap(functools.partial(features.jacobian, centers)), blocks)
    return parts.reshape(len(points), *parts.shape[2:])


@functools.partial(jax.jit, static_argnames=("features", "block"))
def _interaction_gradients(
    features: Features,
    centers: Array,
    points: Array,
    population: Array,
    weights: Array,
    block: int,
) -> Array:
    """Mean gradients (n, f, d) of features over a population."""
    blocks = points.reshape(-1, block, points.shape[-1])
    parts = jax.lax.map(lambda x: features.mean_jacobian(centers, x, population, weights), blocks)
    return parts.reshape(len(points), *parts.shape[2:])


def padded(points: np.ndarray, block: int, n: int = 0) -> np.ndarray:
    """The points, repeated at the end up to a multiple of the block that is at least n."""
    rows = -(-max(len(points), n) // block) * block
    return np.concatenate([points, np.repeat(points[:1], rows - len(points), axis=0)])


def drift_features(
    model: LinearEnergy,
    constants: PyTree,
    points: list[np.ndarray],
    populations: list[np.ndarray],
    population_weights: list[np.ndarray],
) -> list[Float[np.ndarray, "d n f"]]:
    """G of equation (1) at the points of every snapshot.

    Args:
        model: which features.
        constants: their radial centres.
        points: one array per snapshot.
        populations: over which the interaction is averaged, one array per snapshot.
        population_weights: their weights, of sum 1.
    """
    d = model.dimension
    columns: list[list[np.ndarray]] = [[] for _ in points]
    longest = max(len(x) for x in points)
    if model.potential_features is not None:
        features = model.potential_features
        block = min(max(1, BLOCK_BYTES // (8 * features.n_features * d)), longest)
        with double_precision():
            centers = jnp.asarray(constants["potential"], jnp.float64)
            for k, x in enumerate(points):
                rows = jnp.asarray(padded(x, block, longest), jnp.float64)
                gradients = _potential_gradients(features, centers, rows, block)
                columns[k].append(np.asarray(gradients)[: len(x)].transpose(2, 0, 1))
    if model.interaction_features is not None:
        # Single precision: a mean over the population, whose rounding is far below any noise.
        features = model.interaction_features
        pairs = 1 if features.separable else POPULATION_PER_BLOCK
        block = min(max(1, 4 * BLOCK_BYTES // (4 * features.n_features * d * pairs)), longest)
        centers = jnp.asarray(constants["interaction"], jnp.float32)
        most = max(len(y) for y in populations)
        for k, (x, y, w) in enumerate(zip(points, populations, population_weights, strict=True)):
            mean = _interaction_gradients(
                features,
                centers,
                jnp.asarray(padded(x, block, longest), jnp.float32),
                jnp.asarray(padded(y, 1, most), jnp.float32),
                jnp.asarray(np.pad(w, (0, most - len(w))), jnp.float32),
                block,
            )
            columns[k].append(np.asarray(mean)[: len(x)].transpose(2, 0, 1))
    return [
        np.concatenate([*own, np.zeros((d, len(x), 0))], axis=2, dtype=np.float64)
        for own, x in zip(columns, points, strict=True)
    ]
