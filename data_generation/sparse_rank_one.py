r"""Sparse rank-one matrices and their noisy observations (Montanari and Vu, arXiv 2503.08028, Eq. 16).

    x = 0 with probability p, else x = u u^T, u uniform over the k-sparse vectors with entries
    +-1/sqrt(k)                                                                                     (1)
    y_t = t x + W_t,   W_t of independent N(0, t) entries in R^{n x n}                              (2)
    E = sym(y_t / t) = x + t^{-1/2} S,   S = (G + G^T)/2                                            (3)

So |x|_F is 0 or 1. x is symmetric, hence E is sufficient for x, and S has variance 1 on the diagonal
and 1/2 off it. Arrays hold u, never x: a rank-one matrix is its vector up to sign.

Every sample has a key of its own, so that a population is the same however it is cut into batches.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Array, Float, Key, Keys


@checked
def sample_keys(key: Key, start: int | Array, n_samples: int) -> Array:
    """Keys of samples, from index `start` on, of the population that `key` names.

    Args:
        key: of the population.
        start: index of the first; may be traced.
        n_samples: how many; static.
    """
    indices = start + jnp.arange(n_samples, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


@checked
def sparse_vectors(
    keys: Keys, n: int, k: int, zero_probability: float = 0.5
) -> Float[Array, "batch n"]:
    """Sparse vectors u, equation (1); zero vectors where x = 0.

    Args:
        keys: one per sample.
        n: dimension.
        k: non-zero entries.
        zero_probability: p.

    Raises:
        ValueError: k is not in 1, ..., n, or p not in [0, 1].
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1, ..., n = {n}, got {k}")
    if not 0 <= zero_probability <= 1:
        raise ValueError(f"zero_probability must be in [0, 1], got {zero_probability}")

    def one(key: Key) -> Array:
        support_key, sign_key, zero_key = jax.random.split(key, 3)
        # The k largest of n independent uniform numbers stand at a uniform subset of places.
        _, support = jax.lax.top_k(jax.random.uniform(support_key, (n,), jnp.float32), k)
        plus = jax.random.bernoulli(sign_key, jnp.float32(0.5), (k,))
        signs = jnp.where(plus, 1.0, -1.0).astype(jnp.float32) / np.sqrt(k).astype(np.float32)
        present = ~jax.random.bernoulli(zero_key, jnp.float32(zero_probability))
        return jnp.zeros(n, jnp.float32).at[support].set(jnp.where(present, signs, 0.0))

    return jax.vmap(one)(keys)


@checked
def symmetric_noise(keys: Keys, n: int) -> Float[Array, "batch n n"]:
    """The noise S, equation (3), of symmetric matrices.

    Each pair i <= j is drawn once: S[i, j] is entry (min, distance) of a table, where the distance runs
    around the circle of n nodes. That halves the draws, and needs no transposition.
    """
    pairs, scale = _pair_table(n)

    def one(key: Key) -> Array:
        return jax.random.normal(key, ((n // 2 + 1) * n,), jnp.float32)

    drawn = jax.vmap(one)(keys)
    return jnp.take(drawn, pairs.ravel(), axis=1).reshape(-1, n, n) * scale


def _pair_table(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where S[i, j] is drawn, and its standard deviation."""
    i, j = np.indices((n, n), dtype=np.int32)
    ahead = (j - i) % n
    distance = np.minimum(ahead, n - ahead)
    # From i to j or from j to i, whichever is shorter; opposite nodes have no shorter way.
    start = np.where(2 * ahead < n, i, j)
    start = np.where(2 * distance == n, np.minimum(i, j), start)
    scale = np.where(i == j, 1.0, np.sqrt(0.5)).astype(np.float32)
    return distance * n + start, scale


@checked
def observations(
    keys: Keys, u: Float[Array, "batch n"], t: Float[Array, " batch"]
) -> Float[Array, "batch n n"]:
    """Noisy observations E of rank-one matrices, equation (3).

    Args:
        keys: one per sample; not those that drew u.
        u: of x = u u^T.
        t: times, positive; infinity observes x itself.
    """
    noise = symmetric_noise(keys, u.shape[1])
    return u[:, :, None] * u[:, None, :] + noise * jax.lax.rsqrt(t)[:, None, None]
