r"""Smoothed L2 distance between a generated Gaussian and a set of points, in log space.

The set x_1 ... x_N is smoothed by Gaussian kernels of bandwidth h, and

    D = int (p_gen - 1/N sum_i K_h(. - x_i))^2 dx                                                   (1)
      = int p_gen^2 + 1/N^2 sum_ij N(x_i - x_j; 0, 2 h^2 I) - 2/N sum_i N(x_i; mu, S + h^2 I).

The first term is the same for every set (and infinite while S is singular): it is left out. In units of
(4 pi s^2)^{-d/2} and with

    h = c s N^{-1/d}                                                                                (2)

the N terms i = j sum to c^{-d} whatever N is, and are left out as well: the others are many orders of
magnitude smaller, and would be lost in rounding. There remain

    pairs = c^{-d} / N sum_{i != j} exp(-|x_i - x_j|^2 / 4 h^2)                                     (3)
    cross = 1/N sum_i 2^{d/2} s^d det(Q)^{1/2} exp(-1/2 (x_i - mu)^T Q (x_i - mu)),
    Q = (S + h^2 I)^{-1}                                                                            (4)
    D - const = pairs - 2 cross,    Delta = D(train) - D(original).                                 (5)

In 100 dimensions both are far below one: their logarithms are kept, and Delta's.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.linear_denoiser.model import GaussianLaw, OneStepModel
from diffusions.precision import matmul
from diffusions.typing import Array, Float

BLOCK_SIZE = 1000


class SignedLog(NamedTuple):
    """The number sign * exp(log)."""

    sign: Float[Array, "..."]  # -1, 0 or 1
    log: Float[Array, "..."]


def bandwidth(model: OneStepModel, n_points: int, scale: float = 1.0) -> float:
    """H of equation (2).

    Args:
        model: gives s and d.
        n_points: N.
        scale: c.
    """
    return scale * model.std * n_points ** (-1.0 / model.dimension)


@checked(d=lambda model: model.dimension)
@functools.partial(jax.jit, static_argnames=("model", "scale", "block_size"))
def log_pairs(
    model: OneStepModel,
    points: Float[Array, "n d"],
    *,
    scale: float = 1.0,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, ""]:
    """Logarithm of equation (3): every pair once, one block of squared distances at a time.

    Args:
        model: gives s and d.
        points: the set.
        scale: c of equation (2).
        block_size: points per block; memory is its square.

    Returns:
        The logarithm, -inf for a single point.
    """
    n, d = points.shape
    block_size = min(block_size, n)
    n_blocks = -(-n // block_size)
    h = bandwidth(model, n, scale)
    # |x - y|^2 is taken from norms and products, which lose least when they are small.
    scaled = (points - points.mean(axis=0)) / (2.0 * h)
    padding = n_blocks * block_size - n
    squares = jnp.pad(jnp.sum(scaled**2, axis=1), (0, padding), constant_values=jnp.inf)
    squares = squares.reshape(n_blocks, block_size)
    blocks = jnp.pad(scaled, ((0, padding), (0, 0))).reshape(n_blocks, block_size, d)
    itself = jnp.eye(block_size, dtype=bool)

    def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        i, j = pair
        products = matmul(blocks[i], blocks[j].T)
        exponents = 2.0 * products - squares[i][:, None] - squares[j]
        exponents = jnp.where((i == j) & itself, -jnp.inf, exponents)
        # A block beside the diagonal stands for its mirror image too.
        block = jax.nn.logsumexp(exponents) + jnp.where(i == j, 0.0, math.log(2.0))
        return jnp.logaddexp(total, block), None

    rows, columns = np.triu_indices(n_blocks)
    start = jnp.full((), -jnp.inf, points.dtype)
    total, _ = jax.lax.scan(add, start, (jnp.asarray(rows), jnp.asarray(columns)))
    return total - math.log(n) - d * math.log(scale)


@checked(d=lambda model: model.dimension)
def log_cross(
    model: OneStepModel, law: GaussianLaw, points: Float[Array, "n d"], *, scale: float = 1.0
) -> Float[Array, ""]:
    """Logarithm of equation (4), with S + h^2 I diagonal in the law's directions and h^2 beside them.

    Args:
        model: gives s and d.
        law: what is generated.
        points: the set.
        scale: c of equation (2).
    """
    n, d = points.shape
    rank = law.std.shape[0]
    h2 = bandwidth(model, n, scale) ** 2
    variance = law.std**2 + h2
    with jax.default_matmul_precision("highest"):
        offset = points - law.mean
        within = offset @ law.directions
        distance = jnp.sum(within**2 / variance, axis=1)
        if rank < d:
            outside = offset - within @ law.directions.T
            distance += jnp.sum(outside**2, axis=1) / h2
    log_determinant = jnp.sum(jnp.log(variance)) + (d - rank) * math.log(h2)
    log_factor = 0.5 * d * math.log(2.0) + d * math.log(model.std) - 0.5 * log_determinant
    return jax.nn.logsumexp(-0.5 * distance) - math.log(n) + log_factor


@checked
def difference(
    train: tuple[Float[Array, "*batch"], Float[Array, "*batch"]],
    original: tuple[Float[Array, "*batch"], Float[Array, "*batch"]],
) -> SignedLog:
    """Delta of equation (5).

    Args:
        train: (log pairs, log cross) of the training set.
        original: the same of the original set.
    """
    log2 = math.log(2.0)
    gain = jnp.logaddexp(train[0], original[1] + log2)
    loss = jnp.logaddexp(original[0], train[1] + log2)
    larger, smaller = jnp.maximum(gain, loss), jnp.minimum(gain, loss)
    return SignedLog(sign=jnp.sign(gain - loss), log=larger + jnp.log(-jnp.expm1(smaller - larger)))
