"""The loop of every sampler: one step after the other along a grid of times, as one `lax.scan`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffusions.keys import named_key
from diffusions.typing import Array, Key

Constrain = Callable[[Key, Array, Array], Array]
"""(key, z_s, s) -> z_s with what is known put in; called after every step."""


def scan_steps(
    step: Callable[[Key, Array, Array, Array], Array],
    key: Key,
    z: Array,
    times: Array,
    constrain: Constrain | None,
) -> Array:
    """Applies a step (key, z, t, s) along the grid."""

    def alone(key: Key, z: Array, memory: tuple[()], t: Array, s: Array) -> tuple[Array, tuple[()]]:
        return step(key, z, t, s), memory

    return scan_with_memory(alone, key, z, (), times, constrain)


def scan_with_memory(
    step: Callable[[Key, Array, Any, Array, Array], tuple[Array, Any]],
    key: Key,
    z: Array,
    memory: Any,
    times: Array,
    constrain: Constrain | None,
) -> Array:
    """Applies a step (key, z, memory, t, s) along the grid; step i draws from fold_in(key, i)."""

    def body(
        carry: tuple[Array, Any], inputs: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Any], None]:
        i, t, s = inputs
        own = jax.random.fold_in(key, i)
        z, memory = step(own, *carry, t, s)
        if constrain is not None:
            z = constrain(named_key(own, "constraint"), z, s)
        return (z, memory), None

    n = times.shape[0] - 1
    # Of a program that knows its times XLA's GPU compiler (JAX 0.11) follows how indices into a
    # process's tables depend on the step, and ends with an error.
    times = jax.lax.optimization_barrier(times)
    return jax.lax.scan(body, (z, memory), (jnp.arange(n), times[:-1], times[1:]))[0][0]
