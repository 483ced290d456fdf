"""Convolutions in the forms that a device is fast at.

A vmap over kernels makes a batched product of `shifted_product`, where `lax.conv` would become a
grouped convolution, slow on every device.

On a CPU XLA hands a convolution to a fast kernel if images are (batch, height, width, channels) and
kernels (rows, columns, in, out), both as they lie in memory. It brings others into this order, those of
the gradients among them, but not inside loops, where they run ten to fifty times slower. So
`convolution` has gradients of its own, all in the fast order. For y = x * k and the gradient g in y,

    in x:  g * flipped k^T                                                                          (1)
    in k:  x^T * g^T, where a channel of x is an image and the batch are channels                   (2)
           or g^T * x^T, flipped                                                                   (2')

with strides as zeros between the entries of g. What is slid over is copied nine times, so the one with
fewer channels is: (2') has .6 times the cost of (2) where the kernel halves the channels.

An image whose pixels were doubled shows a 3 x 3 kernel only 2 x 2 different pixels. So with the rows
k_-1, k_0, k_1 of a kernel, and likewise its columns,

    y_2i = k_-1 x_(i-1) + (k_0 + k_1) x_i,   y_(2i+1) = (k_-1 + k_0) x_i + k_1 x_(i+1)               (3)

which are four small kernels on the small image and 4/9 of the products.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]
# Of equation (3): of an even and an odd row, what its two rows of pixels have of the kernel's three.
_SHARED = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])


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


def doubled(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Every pixel four times: nearest neighbours at twice the size."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def convolution_of_doubled(
    x: Float[Array, "batch height width channels_in"],
    kernel: Float[Array, "3 3 channels_in channels_out"],
) -> Float[Array, "batch 2*height 2*width channels_out"]:
    """The convolution of `doubled` images, with one pixel of zeros around, by equation (3), for CPUs.

    Args:
        x: images before they are doubled.
        kernel: its entries.
    """
    batch, height, width, _ = x.shape
    shared = _SHARED.astype(kernel.dtype)
    kernels = jnp.einsum("aip,bjq,pqcd->abijcd", shared, shared, kernel)
    rows = [
        jnp.stack(
            [convolution(x, kernels[a, b], (1, 1), ((1 - a, a), (1 - b, b))) for b in (0, 1)], 3
        )
        for a in (0, 1)
    ]
    return jnp.stack(rows, 2).reshape(batch, 2 * height, 2 * width, -1)


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
    return jax.lax.conv_general_dilated(
        g,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        _around(g, kernel.shape, sides, strides, pads),
        lhs_dilation=strides,
        dimension_numbers=_LAYOUT,
    )


def _gradient_in_k(
    g: Array, x: Array, shape: Sequence[int], strides: tuple[int, int], pads: Pads
) -> Array:
    """Equation (2'), or (2) where x has fewer channels, or zeros would come between those of g."""
    # Otherwise XLA computes g once more, pixel by pixel, where it turns the axes.
    g = jax.lax.optimization_barrier(g)
    if strides == (1, 1) and shape[2] >= shape[3]:
        flipped = jax.lax.conv_general_dilated(
            g.transpose(3, 1, 2, 0),
            x.transpose(1, 2, 0, 3),
            (1, 1),
            _around(g, shape, x.shape[1:3], strides, pads),
            dimension_numbers=_LAYOUT,
        )
        return flipped[:, ::-1, ::-1].transpose(1, 2, 3, 0)
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


def _around(
    g: Array, shape: Sequence[int], sides: Sequence[int], strides: tuple[int, int], pads: Pads
) -> list[tuple[int, int]]:
    """Zeros around g: each entry of the kernel met each pixel of x once."""
    return [
        (rows - 1 - before, side + before - 1 - stride * (size - 1))
        for rows, size, side, stride, (before, _) in zip(
            shape[:2], g.shape[1:3], sides, strides, pads, strict=True
        )
    ]
