"""The learned perceptual distance of images, LPIPS.

    d(x, y) = sum_l mean_ij sum_c w_lc (f_lc(x)_ij / |f_l(x)_ij| - f_lc(y)_ij / |f_l(y)_ij|)^2       (1)

with the features f_l of five layers of AlexNet or VGG16, both after the rectifier, and learned w (Zhang
et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018). The weights are
the user's: the state dict of the authors' `lpips.LPIPS`, which has the network's own as
`net.sliceK.N.weight`. How many convolutions there are says which network it is.
"""

import re

import jax
import jax.numpy as jnp

from diffusions.networks.torch_layers import Weights, convolution, largest, parameter
from diffusions.typing import Array, Float

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_TINY = 1e-10
_ALEX = ((0,), (3,), (6,), (8,), (10,))
_VGG = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the convolutions in each of the five slices."""


def lpips(
    weights: Weights,
    x: Float[Array, "batch height width 3"],
    y: Float[Array, "batch height width 3"],
) -> Float[Array, "batch"]:
    """The distance (1) of every pair.

    Args:
        weights: a state dict.
        x: images in [-1, 1]; 32 pixels a side at least.
        y: likewise.

    Raises:
        ValueError: the weights lack a layer, or one has another shape.
    """
    distance = jnp.zeros(len(x))
    for i, (a, b) in enumerate(zip(_features(weights, x), _features(weights, y), strict=True)):
        w = parameter(weights, f"lin{i}.model.1.weight")[:, :, 0, 0]
        distance += ((_unit(a) - _unit(b)) ** 2 @ w.T).mean(axis=(1, 2, 3))
    return distance


def _features(weights: Weights, x: Array) -> list[Array]:
    """What leaves each slice."""
    n = sum(re.fullmatch(r"net\.slice\d\.\d+\.weight", name) is not None for name in weights)
    alex = n == sum(map(len, _ALEX))
    x = (x - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)
    found = []
    for i, numbers in enumerate(_ALEX if alex else _VGG):
        if (i in (1, 2)) if alex else i:
            x = largest(x, 3, 2) if alex else largest(x, 2, 2)
        for number in numbers:
            first = {"stride": 4, "padding": 2} if alex and number == 0 else {}
            x = jax.nn.relu(convolution(weights, f"net.slice{i + 1}.{number}", x, **first))
        found.append(x)
    return found


def _unit(x: Array) -> Array:
    return x / (jnp.sqrt((x**2).sum(axis=-1, keepdims=True)) + _TINY)
