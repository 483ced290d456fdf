"""Convolutions in the forms that a device is fast at.

A vmap over kernels makes a batched product of `shifted_product`, where `lax.conv` would become a
grouped convolution, slow on every device.

On a CPU XLA hands a convolution to a fast kernel if images are (batch, height, width, channels) and
kernels (rows, columns, in, out), both as they lie in memory. It brings others into this order, those of
the gradients among them, but not inside loops, where they run ten to fifty times slower. So
`convolution` has gradients of its own, all in the fast order. For y = x * k and the gradient g in y,

    in x:  g * flipped k^T                                                                          (1)
    in k:  x^T * g^T, where a channel of x is an image and the batch are channels                   (2)

with strides as zeros between the entries of g.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffusions.typing import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


def shifted_product(
    x: Float[Array, "batch height width channels_in"],
    kernel: Float[Array, "rows columns channels_in channels_out"],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Float[Array, "batch height_out width_out channels_out"]:
    """The convolution of images with a kernel, as one product with shifted copies of the images.

    Args:
        x: images.
        kernel: its entries.
        strides: down and to the right.
        pads: zeros above and below, left and right.
    """
    rows, columns = kernel.shape[:2]
    down, right = strides
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height = (padded.shape[1] - rows) // down + 1
    width = (padded.shape[2] - columns) // right + 1
    shifted = [
        padded[:, i : i + down * height : down, j : j + right * width : right]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def convolution(
    x: Float[Array, "batch height width channels_in"],
    kernel: Float[Array, "rows columns channels_in channels_out"],
    strides: tuple[int, int],
    pads: Pads,
) -> Float[Array, "batch height_out width_out channels_out"]:
    """XLA's convolution, with gradients by equations (1) and (2), for CPUs.

    Args:
        x: images.
        kernel: its entries.
        strides: down and to the right.
        pads: zeros above and below, left and right.
    """
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


@convolution.defjvp
def _convolution_jvp(
    strides: tuple[int, int],
    pads: Pads,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    y = convolution(x, kernel, strides, pads)
    # As transposes of the gradients, for these to be what the backward pass computes.
    by_x = jax.linear_transpose(lambda g: _gradient_in_x(g, kernel, x.shape[1:3], strides, pads), y)
    by_kernel = jax.linear_transpose(lambda g: _gradient_in_k(g, x, kernel.shape, strides, pads), y)
    return y, by_x(dx)[0] + by_kernel(dkernel)[0]


def _gradient_in_x(
    g: Array, kernel: Array, sides: Sequence[int], strides: tuple[int, int], pads: Pads
) -> Array:
    """Equation (1)."""
    around = [
        # As many zeros that the gradient has the size of x.
        (rows - 1 - before, side + before - 1 - stride * (size - 1))
        for rows, size, side, stride, (before, _) in zip(
            kernel.shape[:2], g.shape[1:3], sides, strides, pads, strict=True
        )
    ]
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return jax.lax.conv_general_dilated(
        g, flipped, (1, 1), around, lhs_dilation=strides, dimension_numbers=_LAYOUT
    )


def _gradient_in_k(
    g: Array, x: Array, shape: Sequence[int], strides: tuple[int, int], pads: Pads
) -> Array:
    """Equation (2)."""
    around = [
        (before, rows + stride * (size - 1) - side - before)
        for rows, size, side, stride, (before, _) in zip(
            shape[:2], g.shape[1:3], x.shape[1:3], strides, pads, strict=True
        )
    ]
    found = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        around,
        rhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )
    return found.transpose(1, 2, 0, 3)
