r"""Estimators of a sparse rank-one matrix x = u u^T from E = sym(y_t / t) = x + t^{-1/2} S.

Every estimate of x is rank one or a mixture of such; what is rank one is returned as its vector u.

Spectral (Montanari and Vu, arXiv 2503.08028). With v the top eigenvector of E and I the places of its k
largest |v_i|,

    u_i = sign(v_i) / sqrt(k) for i in I, else 0;   u <- 0 unless <E, u u^T> >= 0.8                 (1)

Power iteration: the same from v after 25 steps v <- E v / |E v|, with threshold 0.7.                (2)

Exact. For a prior with atoms x_a = u_a u_a^T of weight p_a, of which x = 0 may be one,

    E[x | y_t] = sum_a w_a x_a,   w_a ~ p_a exp(t <E, x_a> - (t/2) |x_a|_F^2)                       (3)

since the density of y_t = t x_a + W_t is proportional to exp(<y_t, x_a> - (t/2) |x_a|^2). It is the
minimiser of the mean squared error and the ideal drift of stochastic localization; its atoms number
1 + 2^{k-1} binom(n, k), so that it exists for tiny n only.

Distances between rank-one matrices need no matrix: with d = u - v and s = u + v,

    |u u^T - v v^T|_F^2 = (|d|^2 |s|^2 + (d.s)^2) / 2                                               (4)

where the familiar |u|^4 - 2 (u.v)^2 + |v|^4 would cancel.
"""

import itertools
import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.precision import einsum
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float

SPECTRAL_THRESHOLD = 0.8
POWER_THRESHOLD = 0.7
POWER_STEPS = 25
MOST_ATOMS = 1_000_000
# At n = 350 the overlap with the top eigenvector is above 0.9999, also where no signal separates it.
_KRYLOV_DIMENSION = 100
_TINY = 1e-12


@checked
def rank_one(u: Float[Array, "*batch n"]) -> Float[Array, "*batch n n"]:
    """The matrix u u^T."""
    return u[..., :, None] * u[..., None, :]


@checked
def squared_distance(
    u: Float[Array, "*batch n"], v: Float[Array, "*batch n"]
) -> Float[Array, "*batch"]:
    """Squared Frobenius distance of u u^T and v v^T, equation (4)."""
    d, s = u - v, u + v
    return 0.5 * (jnp.sum(d**2, -1) * jnp.sum(s**2, -1) + jnp.sum(d * s, -1) ** 2)


@checked
def squared_distance_to_matrix(
    matrix: Float[Array, "*batch n n"], u: Float[Array, "*batch n"]
) -> Float[Array, "*batch"]:
    """Squared Frobenius distance of a matrix and u u^T."""
    return jnp.sum((matrix - rank_one(u)) ** 2, axis=(-2, -1))


@checked
def spectral(
    edges: Float[Array, "batch n n"], k: int, threshold: float = SPECTRAL_THRESHOLD
) -> Float[Array, "batch n"]:
    """The spectral estimate, equation (1).

    Args:
        edges: E, symmetric.
        k: non-zero entries.
        threshold: least <E, u u^T> that is accepted.
    """
    return _accepted(edges, top_eigenvector(edges), k, threshold)


@checked
def power_iteration(
    edges: Float[Array, "batch n n"],
    start: Float[Array, "batch n"],
    k: int,
    threshold: float = POWER_THRESHOLD,
    n_steps: int = POWER_STEPS,
) -> Float[Array, "batch n"]:
    """The estimate by power iteration, equation (2).

    Args:
        edges: E, symmetric.
        start: unit vectors to start from.
        k: non-zero entries.
        threshold: least <E, u u^T> that is accepted.
        n_steps: iterations.
    """

    def step(_: Array, v: Array) -> Array:
        return _unit(einsum("bij,bj->bi", edges, v))

    return _accepted(edges, jax.lax.fori_loop(0, n_steps, step, start), k, threshold)


def _accepted(edges: Array, v: Array, k: int, threshold: float) -> Array:
    _, places = jax.lax.top_k(jnp.abs(v), k)

    def signs(v: Array, places: Array) -> Array:
        chosen = jnp.where(v[places] < 0, -1.0, 1.0) / math.sqrt(k)
        return jnp.zeros_like(v).at[places].set(chosen)

    u = jax.vmap(signs)(v, places)
    overlap = einsum("bi,bij,bj->b", u, edges, u)
    return jnp.where((overlap >= threshold)[:, None], u, 0.0)


@checked
def top_eigenvector(edges: Float[Array, "batch n n"]) -> Float[Array, "batch n"]:
    """Unit eigenvector of the largest eigenvalue, by Lanczos with full reorthogonalisation.

    The start is fixed. The Krylov space has dimension 100, or n where that is less: at n = 350 the full
    decomposition takes several times longer.
    """
    batch, n, _ = edges.shape
    dimension = min(n, _KRYLOV_DIMENSION)
    # Generic: no permutation or change of signs makes it orthogonal to a sparse eigenvector.
    first = _unit(jnp.broadcast_to(1.0 + jnp.sin(1.0 + jnp.arange(n) ** 2), (batch, n)))

    def expand(basis: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        moved = einsum("bij,bj->bi", edges, basis[:, j])
        along = einsum("bji,bi->bj", basis, moved)
        rest = moved - einsum("bji,bj->bi", basis, along)
        rest = rest - einsum("bji,bj->bi", basis, einsum("bji,bi->bj", basis, rest))
        return basis.at[:, j + 1].set(_unit(rest), mode="drop"), (
            along[:, j],
            jnp.linalg.norm(rest, axis=1),
        )

    basis = jnp.zeros((batch, dimension, n), edges.dtype).at[:, 0].set(first)
    basis, (diagonal, beside) = jax.lax.scan(expand, basis, jnp.arange(dimension))
    place = jnp.arange(dimension - 1)
    small = jax.vmap(jnp.diag, in_axes=1)(diagonal)
    small = (
        small.at[:, place, place + 1].set(beside[:-1].T).at[:, place + 1, place].set(beside[:-1].T)
    )
    _, vectors = jnp.linalg.eigh(small, symmetrize_input=False)
    return _unit(einsum("bji,bj->bi", basis, vectors[:, :, -1]))


def _unit(v: Array) -> Array:
    return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), _TINY)


@flax.struct.dataclass
class AtomicPrior:
    """Finitely many matrices u_a u_a^T with their probabilities."""

    atoms: Float[Array, "a n"]  # u_a; zero is an atom like others
    log_weights: Float[Array, " a"]

    __repr__ = short_repr


def sparse_prior(n: int, k: int, zero_probability: float = 0.5) -> AtomicPrior:
    """Zero and all u u^T with u of k entries +-1/sqrt(k), once per pair {u, -u}.

    Raises:
        ValueError: there are more than a million, or the arguments are out of range.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1, ..., n = {n}, got {k}")
    if not 0 < zero_probability < 1:
        raise ValueError(f"zero_probability must be in (0, 1), got {zero_probability}")
    count = math.comb(n, k) * 2 ** (k - 1)
    if count >= MOST_ATOMS:
        raise ValueError(
            f"n = {n}, k = {k} has {count} matrices to enumerate, more than {MOST_ATOMS}"
        )
    signs = np.array([(1, *s) for s in itertools.product((1, -1), repeat=k - 1)], np.float32)
    supports = np.array(list(itertools.combinations(range(n), k)))
    atoms = np.zeros((len(supports), len(signs), n), np.float32)
    rows, columns = np.indices((len(supports), len(signs)))
    atoms[rows[..., None], columns[..., None], supports[:, None, :]] = signs / math.sqrt(k)
    atoms = np.concatenate([np.zeros((1, n), np.float32), atoms.reshape(-1, n)])
    weights = np.full(count + 1, (1 - zero_probability) / count)
    weights[0] = zero_probability
    return AtomicPrior(
        atoms=jnp.asarray(atoms), log_weights=jnp.log(jnp.asarray(weights, jnp.float32))
    )


@checked
def atom_probabilities(
    prior: AtomicPrior, edges: Float[Array, "batch n n"], t: Float[Array, " batch"]
) -> Float[Array, "batch a"]:
    """Posterior weights w_a of equation (3)."""
    overlaps = einsum("ai,bij,aj->ba", prior.atoms, edges, prior.atoms)
    squares = jnp.sum(prior.atoms**2, axis=1) ** 2
    return jax.nn.softmax(prior.log_weights + t[:, None] * (overlaps - squares / 2), axis=1)


@checked
def posterior_mean(
    prior: AtomicPrior, edges: Float[Array, "batch n n"], t: Float[Array, " batch"]
) -> Float[Array, "batch n n"]:
    """The exact Bayes estimator, equation (3)."""
    weights = atom_probabilities(prior, edges, t)
    return einsum("ba,ai,aj->bij", weights, prior.atoms, prior.atoms)
