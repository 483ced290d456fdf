"""Batches of images on the device, made inside a compiled step from the bytes that live there.

    x = u / 127.5 - 1,   u in {0, ..., 255}                                                          (1)

so that the data lie on a grid of step 1/127.5 in [-1, 1]. Bytes take a quarter of the memory: all of
CIFAR-10 is 150 MB.
"""

import jax
import jax.numpy as jnp

from diffusions.typing import Array, Float, Int, Key

GRID_STEP = 1 / 127.5
"""Distance of neighbouring values of equation (1)."""


def image_batch(
    key: Key, images: Array, indices: Int[Array, "batch"], *, flip: bool = True
) -> Float[Array, "batch height width channels"]:
    """Gathers a batch, normalises it, and mirrors a random half of it left to right.

    Args:
        key: of the flips.
        images: uint8 (n, height, width, channels).
        indices: of the batch; negative ones, which fill a last batch, give some image of the dataset.
        flip: static.
    """
    batch = normalised(images[indices])
    return mirrored(key, batch) if flip else batch


def mirrored(key: Key, batch: Array) -> Array:
    """Mirrors a random half left to right; the same half of whatever is given with the same key.

    Args:
        key: of the choice.
        batch: (batch, height, width, channels), images or their masks.
    """
    chosen = jax.random.bernoulli(key, jnp.float32(0.5), batch.shape[:1])
    return jnp.where(chosen[:, None, None, None], batch[:, :, ::-1], batch)


def normalised(images: Array) -> Float[Array, "*batch height width channels"]:
    """Equation (1): bytes to float32 in [-1, 1]."""
    return images.astype(jnp.float32) * GRID_STEP - 1.0


def as_bytes(images: Float[Array, "*batch height width channels"]) -> Array:
    """The inverse of equation (1), for pictures: the nearest byte, clipped to the range."""
    return jnp.clip(jnp.round((images + 1.0) / GRID_STEP), 0, 255).astype(jnp.uint8)
