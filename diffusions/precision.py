"""Products in single precision on every device, and double precision for a part of a program.

JAX multiplies float32 matrices in TF32 on NVIDIA cards, with three digits: enough for networks of
images, and not for least squares, densities and distances. What is computed here, other than those
networks, takes its products and its Flax layers from this module.
"""

import contextlib
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import experimental

einsum = functools.partial(jnp.einsum, precision="highest")
matmul = functools.partial(jnp.matmul, precision="highest")
dense = functools.partial(nn.Dense, precision="highest")


def double_precision(enabled: bool = True) -> contextlib.AbstractContextManager:
    """Switches 64-bit arithmetic on, or off, until the context is left.

    Newer releases have it as `jax.enable_x64`, older ones in `jax.experimental`.
    """
    if callable(getattr(jax, "enable_x64", None)):
        return jax.enable_x64(enabled)
    return experimental.enable_x64(enabled)  # type: ignore[attr-defined]
