"""Double precision for a part of a program, in the spelling of the JAX at hand."""

import contextlib

import jax


def double_precision(enabled: bool = True) -> contextlib.AbstractContextManager:
    """Switches 64-bit arithmetic on, or off, until the context is left.

    Newer releases have it as `jax.enable_x64`, older ones in `jax.experimental`.
    """
    if callable(getattr(jax, "enable_x64", None)):
        return jax.enable_x64(enabled)
    from jax import experimental

    return experimental.enable_x64(enabled)  # type: ignore[attr-defined]
