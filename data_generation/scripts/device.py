"""What computes, in words: the device and its arithmetic, as JAX is set up."""

from pathlib import Path

import jax
import jax.numpy as jnp

NVIDIA_DEVICES = "/dev/nvidia[0-9]*"
"""Where Linux shows the cards that a process may use."""


def device_name() -> str:
    """The device that computes."""
    device = jax.devices()[0]
    return f"{device.device_kind} ({device.platform})"


def unused_gpu() -> str | None:
    """That JAX computes on the processor although an NVIDIA card is there, and the remedy.

    Nothing where the user chose the platform (`JAX_PLATFORMS`).
    """
    if jax.default_backend() != "cpu" or jax.config.jax_platforms:  # type: ignore[attr-defined]
        return None
    pattern = Path(NVIDIA_DEVICES)
    if not any(pattern.parent.glob(pattern.name)):
        return None
    return (
        "no GPU is in use although an NVIDIA one is there: install the extra cuda12 or cuda13, "
        "whichever its driver supports, or set JAX_PLATFORMS=cpu to hear no more of it"
    )


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
