"""The interaction drift of a population, in blocks.

    (grad U * mu)(x) = sum_j w_j grad U(x - y_j),   mu = sum_j w_j delta_{y_j}                      (1)

Here and everywhere in this repository the particles move by grad U itself, as the simulated data do;
a U that is not even is not replaced by its even part. The sum always runs over the whole population.
It is evaluated for `block_size` rows y_j at a time, so memory is O(n block_size d) whatever the
population's size, and each block is recomputed in the backward pass rather than stored. On a CPU the
default keeps a block's activations in its caches, a third as fast again as blocks that are not; an
accelerator needs more pairs to be busy.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusions.precision import einsum
from diffusions.typing import Array, Float, Int

PAIRS_PER_BLOCK = {"cpu": 2**12}
PAIRS_PER_BLOCK_ELSEWHERE = 2**20


def interaction_drift(
    gradient: Callable[[Float[Array, "d"]], Array],
    x: Float[Array, "n d"],
    population: Float[Array, "m d"],
    weights: Float[Array, "m"],
    *,
    block_size: int | None = None,
) -> Float[Array, "n ..."]:
    """Equation (1) at each row of x.

    Args:
        gradient: grad U, from a difference (d,) to any array; (d,) for one energy, (f, d) for the
            Jacobian of f features.
        x: where the drift is wanted.
        population: the particles y_j.
        weights: w_j; they should sum to 1.
        block_size: rows of the population per block; absent, as many as suit the device.

    Returns:
        The weighted mean, one row per row of x.
    """
    group = jnp.zeros(x.shape[0], jnp.int32)
    return grouped_interaction_drift(
        gradient, x, group, population[None], weights[None], block_size=block_size
    )


def grouped_interaction_drift(
    gradient: Callable[[Float[Array, "d"]], Array],
    x: Float[Array, "n d"],
    group: Int[Array, "n"],
    populations: Float[Array, "t m d"],
    weights: Float[Array, "t m"],
    *,
    block_size: int | None = None,
) -> Float[Array, "n ..."]:
    """Equation (1) where row i of x belongs to the population number group[i].

    Args:
        gradient: as in `interaction_drift`.
        x: where the drift is wanted.
        group: index into the populations, one per row of x.
        populations: the particles of each population.
        weights: their weights; each row should sum to 1.
        block_size: as in `interaction_drift`.
    """
    if block_size is None:
        pairs = PAIRS_PER_BLOCK.get(jax.default_backend(), PAIRS_PER_BLOCK_ELSEWHERE)
        block_size = max(1, pairs // x.shape[0])

    def block(y: Array, w: Array) -> Array:
        def one_row(a: Array, g: Array) -> Array:
            pulls = jax.vmap(lambda b: gradient(a - b))(y[:, g])
            return einsum("m...,m->...", pulls, w[:, g])

        return jax.vmap(one_row)(x, group)

    # The population's axis first, where the blocks are cut.
    rows = jnp.swapaxes(populations, 0, 1)
    return sum_over_blocks(block, rows, weights.T, block_size=block_size)


def sum_over_blocks(
    term: Callable[[Array, Array], Array],
    population: Float[Array, "m ..."],
    weights: Float[Array, "m ..."],
    *,
    block_size: int,
) -> Array:
    """Sum of term(rows, their weights) over consecutive blocks of a population.

    Args:
        term: linear in the weights; it is recomputed, not stored, in a backward pass.
        population: rows y_j.
        weights: w_j.
        block_size: rows per block; the last block is filled with rows of weight zero.
    """
    m = population.shape[0]
    n_blocks = -(-m // min(block_size, m))
    block_size = -(-m // n_blocks)
    padding = n_blocks * block_size - m
    if padding:
        # Padding repeats a real particle, so that every difference is one that `term` can meet.
        population = jnp.concatenate([population, jnp.repeat(population[:1], padding, axis=0)])
        weights = jnp.concatenate(
            [weights, jnp.zeros((padding, *weights.shape[1:]), weights.dtype)]
        )

    @jax.checkpoint
    def block_sum(start: Array) -> Array:
        y = jax.lax.dynamic_slice_in_dim(population, start, block_size)
        w = jax.lax.dynamic_slice_in_dim(weights, start, block_size)
        return term(y, w)

    first = jnp.zeros((), jnp.int32)
    if n_blocks == 1:
        return block_sum(first)

    def add_block(total: Array, start: Array) -> tuple[Array, None]:
        return total + block_sum(start), None

    shape = jax.eval_shape(block_sum, first)
    starts = jnp.arange(n_blocks, dtype=jnp.int32) * block_size
    return jax.lax.scan(add_block, jnp.zeros(shape.shape, shape.dtype), starts)[0]
