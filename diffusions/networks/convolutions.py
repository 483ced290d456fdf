"""Convolutions as one product with shifted copies of the image.

A vmap over kernels makes a batched product of it, where `lax.conv` would become a grouped convolution,
slow on every device; and inside a compiled loop XLA's convolutions are many times slower on a CPU.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from diffusions.typing import Array, Float


def shifted_product(
    x: Float[Array, "batch height width channels_in"],
    kernel: Float[Array, "rows columns channels_in channels_out"],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Float[Array, "batch height_out width_out channels_out"]:
    """The convolution of images with a kernel.

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
