r"""A simulated time course of cells that move, spread, choose a branch, divide and die.

With z = (p, q, r_1, r_2, ...), progress p, branch q and d - 2 passive coordinates,
a^2 = 1 / (2 (d - 2)),

    V(z) = -v p + k [q^4 / 4 - s(p) q^2 / 2] + (kappa / 2) sum_i (r_i - a sin(p + i))^2,           (1)
    s(p) = logistic(4 (p - 1)),        g(z) = gamma s(p) tanh(3 q),                                (2)
    d mu / dt = div(mu grad V) + beta lap mu + g mu,                                               (3)

one valley that forks at p = 1 into two, of which the upper grows as fast as the lower dies. In more
than two dimensions z is turned: x = Q z, Q orthogonal and fixed, so that no axis of the data is one
of these. (3) is simulated by interacting particles: Euler-Maruyama steps of (1), each with
resampling in proportion to exp(h g) at its start, so that copies part by their noise at once (Del
Moral, "Feynman-Kac Formulae", 2004). Every snapshot is a population of its own: no cell is seen twice.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.keys import named_key
from diffusions.typing import Array, Float, Key

SPEED, FORK, PASSIVE = 1.0, 3.0, 4.0
"""v, k and kappa of equation (1)."""

START_DEVIATION = 0.15
SUBSTEPS_PER_TIME = 50


class BranchingCourse(NamedTuple):
    """Simulated snapshots, and what they were simulated with."""

    snapshots: Float[np.ndarray, "t n d"]
    times: Float[np.ndarray, "t"]
    mass: Float[np.ndarray, "t"]  # of the population, relative to the first snapshot's


def basis(dimension: int) -> Float[np.ndarray, "d d"]:
    """Q: the identity in two dimensions, else a fixed rotation."""
    if dimension == 2:
        return np.eye(2)
    gaussian = np.random.default_rng(dimension).normal(size=(dimension, dimension))
    q, r = np.linalg.qr(gaussian)
    return q * np.sign(np.diag(r))


@checked
def potential(x: Float[Array, "d"]) -> Float[Array, ""]:
    """V of equation (1) at a point of the data."""
    z = jnp.asarray(basis(len(x)), x.dtype).T @ x
    p, q, r = z[0], z[1], z[2:]
    valley = FORK * (q**4 / 4 - _forked(p) * q**2 / 2)
    return -SPEED * p + valley + PASSIVE / 2 * jnp.sum((r - _passive_mean(p, len(r))) ** 2)


@checked
def growth(x: Float[Array, "d"], gamma: Array | float) -> Float[Array, ""]:
    """G of equation (2), in 1 / time, at a point of the data."""
    z = jnp.asarray(basis(len(x)), x.dtype).T @ x
    return gamma * _forked(z[0]) * jnp.tanh(3.0 * z[1])


@checked
def branch(x: Float[Array, "n d"] | Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Which branch each cell is on: 1 and -1 beyond the fork, 0 before it or between the valleys."""
    z = np.asarray(x) @ basis(x.shape[1])
    return np.where((z[:, 0] > 1.0) & (np.abs(z[:, 1]) > 0.3), np.sign(z[:, 1]), 0.0)


def _forked(p: Array) -> Array:
    return jax.nn.sigmoid(4.0 * (p - 1.0))


def _passive_mean(p: Array, count: int) -> Array:
    return jnp.sin(p + jnp.arange(1, count + 1)) / np.sqrt(2.0 * max(count, 1))


@checked
def branching_course(
    key: Key,
    *,
    dimension: int = 2,
    n_cells: int = 1000,
    times: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0),
    gamma: float = 0.8,
    beta: float = 0.05,
) -> BranchingCourse:
    """Simulates equation (3).

    Args:
        key: a typed key.
        dimension: d, at least 2.
        n_cells: per snapshot.
        times: of the snapshots, rising, from 0.
        gamma: of the growth rate.
        beta: of the noise.

    Raises:
        ValueError: fewer than two dimensions, or times that do not rise from 0.
    """
    if dimension < 2:
        raise ValueError(f"a branching course needs two dimensions, got {dimension}")
    if times[0] != 0 or any(b <= a for a, b in zip(times, times[1:], strict=False)):
        raise ValueError(f"times must rise from 0, got {times}")
    counts = [max(int(t > 0), round(SUBSTEPS_PER_TIME * t)) for t in times]
    made = [
        _population(
            jax.random.fold_in(named_key(key, "population"), k),
            jnp.float32(t / max(1, n_steps)),
            jnp.int32(n_steps),
            jnp.float32(gamma),
            jnp.float32(beta),
            dimension=dimension,
            n_cells=n_cells,
        )
        for k, (t, n_steps) in enumerate(zip(times, counts, strict=True))
    ]
    return BranchingCourse(
        snapshots=np.stack([np.asarray(x) for x, _ in made]),
        times=np.asarray(times, np.float64),
        mass=np.exp([float(m) for _, m in made]),
    )


@functools.partial(jax.jit, static_argnames=("dimension", "n_cells"))
def _population(
    key: Key,
    h: Array,
    n_steps: Array,
    gamma: Array,
    beta: Array,
    *,
    dimension: int,
    n_cells: int,
) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """Cells after some steps of length h, and the logarithm of their mass."""
    mean = jnp.concatenate([jnp.zeros(2), _passive_mean(jnp.zeros(()), dimension - 2)])
    start = jax.random.normal(named_key(key, "initial"), (n_cells, dimension))
    x = (mean + START_DEVIATION * start) @ jnp.asarray(basis(dimension), jnp.float32).T

    def step(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, mass = carry
        noise_key, share_key = jax.random.split(jax.random.fold_in(named_key(key, "noise"), i))
        log_weight = h * jax.vmap(lambda a: growth(a, gamma))(x)
        moved = x - h * jax.vmap(jax.grad(potential))(x)
        moved += jnp.sqrt(2 * beta * h) * jax.random.normal(noise_key, x.shape)
        weight = jnp.exp(log_weight)
        # Systematic: a cell of weight w has floor(w) or ceil(w) successors.
        edges = jnp.cumsum(weight) / jnp.sum(weight) * n_cells
        places = jnp.arange(n_cells) + jax.random.uniform(share_key)
        kept = jnp.minimum(jnp.searchsorted(edges, places), n_cells - 1)
        return moved[kept], mass + jnp.log(jnp.mean(weight))

    return jax.lax.fori_loop(0, n_steps, step, (x, jnp.zeros(())))
