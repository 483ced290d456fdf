"""Features of the Inception network, version 3, for Frechet distances that can be compared (FID).

    conv(x) = relu(gamma (W * x - m) / sqrt(v + 0.001) + b)                                          (1)
    features = mean over the last 8 x 8 pixels of the last block: 2048 numbers                       (2)

(Szegedy et al., Rethinking the Inception architecture for computer vision, 2016; Heusel et al., GANs
trained by a two time-scale update rule, 2017.) Images are enlarged to 299 x 299, bilinearly. The
weights are the user's, by the names of torchvision and pytorch-fid. The network that FID is defined by,
ported from TensorFlow, has 1008 classes; its averages of windows leave out what is outside the image,
and its last block takes the largest value of a window for the average. torchvision's has 1000 classes
and neither.
"""

import functools

import jax
import jax.numpy as jnp

from diffusions.networks.torch_layers import Weights, convolution, largest, parameter, summed
from diffusions.typing import Array, Float

SIDE = 299
_EPSILON = 1e-3
_CLASSES_OF_TORCHVISION = 1000


def inception_features(
    weights: Weights,
    images: Float[Array, "batch height width 3"],
    *,
    side: int = SIDE,
) -> Float[Array, "batch 2048"]:
    """The features (2).

    Args:
        weights: a state dict.
        images: in [-1, 1].
        side: to which images are resized; 75 at least.

    Raises:
        ValueError: the weights lack a layer, or one has another shape.
    """
    block = functools.partial(_block, weights)
    classes = weights["fc.weight"].shape[0] if "fc.weight" in weights else None
    fid = classes != _CLASSES_OF_TORCHVISION
    x = jax.image.resize(images, (len(images), side, side, 3), "linear", antialias=False)
    x = block("Conv2d_1a_3x3", x, stride=2, padding=0)
    x = block("Conv2d_2b_3x3", block("Conv2d_2a_3x3", x, padding=0))
    x = block("Conv2d_3b_1x1", largest(x, 3, 2))
    x = largest(block("Conv2d_4a_3x3", x, padding=0), 3, 2)

    def chain(x: Array, *names: str, stride: int = 1) -> Array:
        for name in names[:-1]:
            x = block(name, x)
        last = {} if stride == 1 else {"stride": stride, "padding": 0}
        return block(names[-1], x, **last)

    def joined(*parts: Array) -> Array:
        return jnp.concatenate(parts, axis=-1)

    def pooled(x: Array) -> Array:
        return summed(x, 3) / (summed(jnp.ones_like(x), 3) if fid else 9.0)

    for b in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        x = joined(
            chain(x, b + "branch1x1"),
            chain(x, b + "branch5x5_1", b + "branch5x5_2"),
            chain(x, b + "branch3x3dbl_1", b + "branch3x3dbl_2", b + "branch3x3dbl_3"),
            chain(pooled(x), b + "branch_pool"),
        )
    b = "Mixed_6a."
    x = joined(
        chain(x, b + "branch3x3", stride=2),
        chain(x, b + "branch3x3dbl_1", b + "branch3x3dbl_2", b + "branch3x3dbl_3", stride=2),
        largest(x, 3, 2),
    )
    for b in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        x = joined(
            chain(x, b + "branch1x1"),
            chain(x, *(f"{b}branch7x7_{i}" for i in range(1, 4))),
            chain(x, *(f"{b}branch7x7dbl_{i}" for i in range(1, 6))),
            chain(pooled(x), b + "branch_pool"),
        )
    b = "Mixed_7a."
    x = joined(
        chain(x, b + "branch3x3_1", b + "branch3x3_2", stride=2),
        chain(x, *(f"{b}branch7x7x3_{i}" for i in range(1, 5)), stride=2),
        largest(x, 3, 2),
    )
    for b in ("Mixed_7b.", "Mixed_7c."):
        near = chain(x, b + "branch3x3_1")
        far = chain(x, b + "branch3x3dbl_1", b + "branch3x3dbl_2")
        around = _largest_around(x) if fid and b == "Mixed_7c." else pooled(x)
        x = joined(
            chain(x, b + "branch1x1"),
            *(chain(near, f"{b}branch3x3_2{way}") for way in "ab"),
            *(chain(far, f"{b}branch3x3dbl_3{way}") for way in "ab"),
            chain(around, b + "branch_pool"),
        )
    return x.mean(axis=(1, 2))


def _block(
    weights: Weights, name: str, x: Array, *, stride: int = 1, padding: int | None = None
) -> Array:
    """Equation (1)."""
    x = convolution(weights, f"{name}.conv", x, stride=stride, padding=padding)
    gamma, bias, mean, variance = (
        parameter(weights, f"{name}.bn.{part}")
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return jax.nn.relu((x - mean) * (gamma / jnp.sqrt(variance + _EPSILON)) + bias)


def _largest_around(x: Array) -> Array:
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    return largest(jnp.pad(x, edges, constant_values=-jnp.inf), 3, 1)
