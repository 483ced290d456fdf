"""Feature vectors of images without a trained network, for Frechet distances where there is none.

    colours     averages of each channel over the cells of a 4 x 4 grid
    textures    averages over the image of |w_k * x|, x halved in size s times,
                with 16 fixed filters w_k of 5 x 5 pixels, s = 0, 1, 2                               (1)

The filters are random, orthonormal over all channels, blind to a constant colour, and the same for
every call and machine: NumPy's PCG64 seeded with 0. There are 16 channels + 48 features (96 of a colour
image), so that a few hundred images determine a covariance. Their Frechet distance says whether colours
and textures of two sets of images agree; it cannot be compared with that of Inception features.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Array, Float, HostArray

_CELLS, _FILTERS, _SIDE, _SCALES = 4, 16, 5, 3
SMALLEST = _SIDE << (_SCALES - 1)
"""Pixels that a side needs at least, for the filters to fit at the coarsest scale."""


@checked
def image_features(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch features"]:
    """The features of every image.

    Raises:
        ValueError: the images are too small for the filters at the coarsest scale.
    """
    _, height, width, channels = images.shape
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"features need images of {SMALLEST} pixels a side, got {height} x {width}"
        )
    shape = (len(images), _CELLS, _CELLS, channels)
    features = [jax.image.resize(images, shape, "linear", antialias=True).reshape(len(images), -1)]
    filters = jnp.asarray(_filters(channels), images.dtype)
    for _ in range(_SCALES):
        response = jax.lax.conv_general_dilated(
            images, filters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        features.append(jnp.abs(response).mean(axis=(1, 2)))
        images = _halved(images)
    return jnp.concatenate(features, axis=-1)


def _halved(images: Array) -> Array:
    """Means of 2 x 2 pixels; a last odd row or column is dropped."""
    even = images[:, : images.shape[1] // 2 * 2, : images.shape[2] // 2 * 2]
    n, height, width, channels = even.shape
    return even.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


@functools.cache
def _filters(channels: int) -> HostArray:
    """(side, side, channels, filters), of unit norm and with no mean in any channel."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((_SIDE * _SIDE, channels, _FILTERS))
    drawn -= drawn.mean(axis=0)
    basis, _ = np.linalg.qr(drawn.reshape(-1, _FILTERS))
    return basis.reshape(_SIDE, _SIDE, channels, _FILTERS)
