"""What computes, in words: the device and its arithmetic, as JAX is set up."""

import jax
import jax.numpy as jnp


def device_name() -> str:
    """The device that computes."""
    device = jax.devices()[0]
    return f"{device.device_kind} ({device.platform})"


def precision(numbers: str = "float32") -> str:
    """The arithmetic: the numbers of data and networks, and what JAX was told to do otherwise.

    Args:
        numbers: that the script holds its data and networks in.
    """
    told = [numbers]
    if jnp.result_type(float) == jnp.float64 and numbers != "float64":
        told.append("64-bit mode on")
    products = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if products is not None:
        told.append(f"matrix products in {products}")
    return ", ".join(told)
