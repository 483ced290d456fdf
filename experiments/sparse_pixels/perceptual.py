"""FID and LPIPS of reconstructions, by weights that the user has.

    fid     Frechet distance of the methods' images to the held-out ones in Inception's features
    lpips   mean perceptual distance of a reconstruction to its image

Nothing is downloaded. The files are PyTorch's, read without it and without running what is in them.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.torch.state_dict import read_state_dict
from diffusions.metrics import frechet_distance_of_samples
from diffusions.networks.inception import inception_features
from diffusions.networks.lpips import lpips
from diffusions.networks.torch_layers import Weights
from diffusions.typing import Array, HostArray
from experiments.sparse_pixels.settings import SamplingSettings

AT_ONCE = 10
"""Images that a network sees side by side: Inception enlarges each to 299 x 299."""


class Perceptual:
    """The distances whose weights are there."""

    def __init__(self, settings: SamplingSettings, shape: tuple[int, ...]):
        """Reads the weights and tries them on the shape of an image.

        Args:
            settings: with the files.
            shape: (height, width, channels) of an image.

        Raises:
            ValueError: a file is not one of such weights.
        """
        self._inception = _weights(settings.inception_weights)
        self._lpips = _weights(settings.lpips_weights)
        images = jax.ShapeDtypeStruct((1, *shape[:2], 3), jnp.float32)
        for file, weights, call in (
            (settings.inception_weights, self._inception, lambda w, x: inception_features(w, x)),
            (settings.lpips_weights, self._lpips, lambda w, x: lpips(w, x, x)),
        ):
            if weights is not None:
                _try(file, call, weights, images)

    def __call__(self, images: HostArray, truth: HostArray) -> dict[str, float]:
        """The distances of images to their truth, (n, height, width, channels) in [-1, 1]."""
        found = {}
        if self._inception is not None and len(images) > 1:
            features = [_in_parts(_features, self._inception, each) for each in (images, truth)]
            found["fid"] = float(frechet_distance_of_samples(*features))
        if self._lpips is not None:
            found["lpips"] = float(_in_parts(_distance, self._lpips, images, truth).mean())
        return found


_features = jax.jit(lambda weights, images: inception_features(weights, images))
_distance = jax.jit(lambda weights, images, truth: lpips(weights, images, truth))


def _weights(file: str | Path | None) -> Weights | None:
    return None if file is None else read_state_dict(file)


def _try(
    file: str | Path | None, call: Callable, weights: Weights, images: jax.ShapeDtypeStruct
) -> None:
    try:
        jax.eval_shape(lambda x: call(weights, x), images)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} cannot be used as weights of that network: {reason}") from error


def _in_parts(call: Callable[..., Array], weights: Weights, *images: HostArray) -> Array:
    """A network's answers, a few images at once; gray ones in all three colours."""
    colours = [np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x for x in images]
    parts = range(0, len(images[0]), AT_ONCE)
    return jnp.concatenate(
        [call(weights, *(jnp.asarray(x[i : i + AT_ONCE]) for x in colours)) for i in parts]
    )
