"""The interaction drift of a population, in blocks.

    (grad U * mu)(x) = sum_j w_j grad U(x - y_j),   mu = sum_j w_j delta_{y_j}                      (1)

The sum always runs over the whole population. It is evaluated for `block_size` rows y_j at a time,
so memory is O(n block_size d) whatever the population's size, and each block is recomputed in the
backward pass rather than stored.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusions.typing import Array, Float

DEFAULT_BLOCK_SIZE = 256


def interaction_drift(
    gradient: Callable[[Float[Array, "d"]], Array],
    x: Float[Array, "n d"],
    population: Float[Array, "m d"],
    weights: Float[Array, "m"],
    *,
    block_size: int = DEFAULT_BLOCK_SIZE,
) -> Float[Array, "n ..."]:
    """Equation (1) at each row of x.

    Args:
        gradient: grad U, from a difference (d,) to any array; (d,) for one energy, (f, d) for the
            Jacobian of f features.
        x: where the drift is wanted.
        population: the particles y_j.
        weights: w_j; they should sum to 1.
        block_size: rows of the population per block.

    Returns:
        The weighted mean, one row per row of x.
    """
    m = population.shape[0]
    block_size = min(block_size, m)
    n_blocks = -(-m // block_size)
    padding = n_blocks * block_size - m
    # Padding repeats a real particle, so that every difference is one that the gradient can meet.
    y = jnp.concatenate([population, jnp.broadcast_to(population[:1], (padding, x.shape[-1]))])
    w = jnp.concatenate([weights, jnp.zeros(padding, weights.dtype)])

    @jax.checkpoint
    def block_sum(block):
        y_block, w_block = block
        pairwise = jax.vmap(lambda a: jax.vmap(lambda b: gradient(a - b))(y_block))(x)
        return jnp.einsum("nm...,m->n...", pairwise, w_block)

    if n_blocks == 1:
        return block_sum((y, w))

    def add_block(total, block):
        return total + block_sum(block), None

    shape = jax.eval_shape(gradient, x[0])
    total = jnp.zeros((x.shape[0], *shape.shape), shape.dtype)
    blocks = (y.reshape(n_blocks, block_size, -1), w.reshape(n_blocks, block_size))
    return jax.lax.scan(add_block, total, blocks)[0]
