"""Layers of a PyTorch network from its state dict, whose kernels are (out, in, rows, columns)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from diffusions.typing import Array, Float, HostArray

Weights = Mapping[str, Array | HostArray]


def parameter(weights: Weights, name: str) -> Array:
    """An array of a state dict.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in weights:
        raise ValueError(f"the weights have no {name}")
    return jnp.asarray(weights[name], jnp.float32)


def convolution(
    weights: Weights,
    name: str,
    x: Float[Array, "batch height width channels"],
    *,
    stride: int = 1,
    padding: int | None = None,
) -> Float[Array, "batch height_out width_out channels_out"]:
    """`name.weight` and, where there is one, `name.bias`.

    Args:
        weights: the state dict.
        name: of the layer.
        x: images.
        stride: of both axes.
        padding: zeros on every side; absent, half the kernel's sides, so that a stride of 1 keeps x's.

    Raises:
        ValueError: there is no such layer, or it takes other channels.
    """
    kernel = parameter(weights, f"{name}.weight")
    if kernel.ndim != 4 or kernel.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{name}.weight must have shape (out, {x.shape[-1]}, rows, columns), got {kernel.shape}"
        )
    sides = [side // 2 if padding is None else padding for side in kernel.shape[2:]]
    found = jax.lax.conv_general_dilated(
        x,
        kernel.transpose(2, 3, 1, 0),
        (stride, stride),
        [(side, side) for side in sides],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    bias = f"{name}.bias"
    return found + parameter(weights, bias) if bias in weights else found


def largest(x: Float[Array, "batch height width channels"], side: int, stride: int) -> Array:
    """Largest values of windows within the image."""
    window, strides = (1, side, side, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")


def summed(x: Float[Array, "batch height width channels"], side: int) -> Array:
    """Sums of windows around every pixel, zero outside the image."""
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, side, side, 1), (1, 1, 1, 1), "SAME")
