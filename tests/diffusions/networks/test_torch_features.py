"""Inception and LPIPS against forward passes written anew in NumPy, with random weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.inception import inception_features
from diffusions.networks.lpips import lpips

SIDE = 75
"""The smallest side that Inception's layers leave anything of."""


def conv(x, kernel, stride=1, padding=(0, 0)):
    """PyTorch's conv2d."""
    (top, left), (rows, columns) = padding, kernel.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows[:, :, ::stride, ::stride], kernel, optimize=True)


def pool(x, side, stride, padding=0, how=np.max, fill=-np.inf):
    edge = (padding, padding)
    x = np.pad(x, ((0, 0), (0, 0), edge, edge), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))
    return how(windows[:, :, ::stride, ::stride], axis=(-2, -1))


# name of a block -> (output channels, kernel), by torchvision's source; the inputs follow.
STEM = {
    "Conv2d_1a_3x3": (32, (3, 3)),
    "Conv2d_2a_3x3": (32, (3, 3)),
    "Conv2d_2b_3x3": (64, (3, 3)),
    "Conv2d_3b_1x1": (80, (1, 1)),
    "Conv2d_4a_3x3": (192, (3, 3)),
}


def branches_a(pool_features):
    return {
        "branch1x1": [(64, (1, 1))],
        "branch5x5": [(48, (1, 1)), (64, (5, 5))],
        "branch3x3dbl": [(64, (1, 1)), (96, (3, 3)), (96, (3, 3))],
        "branch_pool": [(pool_features, (1, 1))],
    }


def branches_c(c):
    long, high = (1, 7), (7, 1)
    return {
        "branch1x1": [(192, (1, 1))],
        "branch7x7": [(c, (1, 1)), (c, long), (192, high)],
        "branch7x7dbl": [(c, (1, 1)), (c, high), (c, long), (c, high), (192, long)],
        "branch_pool": [(192, (1, 1))],
    }


BLOCKS = {
    "Mixed_5b": branches_a(32),
    "Mixed_5c": branches_a(64),
    "Mixed_5d": branches_a(64),
    "Mixed_6a": {
        "branch3x3": [(384, (3, 3))],
        "branch3x3dbl": [(64, (1, 1)), (96, (3, 3)), (96, (3, 3))],
    },
    "Mixed_6b": branches_c(128),
    "Mixed_6c": branches_c(160),
    "Mixed_6d": branches_c(160),
    "Mixed_6e": branches_c(192),
    "Mixed_7a": {
        "branch3x3": [(192, (1, 1)), (320, (3, 3))],
        "branch7x7x3": [(192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3))],
    },
}
FANS = {"branch3x3": [(384, (1, 1))], "branch3x3dbl": [(448, (1, 1)), (384, (3, 3))]}


class Network:
    """Makes its random weights where it first needs them, so that their shapes are its own."""

    def __init__(self, classes):
        self.rng, self.weights = np.random.default_rng(0), {}
        self.fid = classes == 1008
        self.weights["fc.weight"] = np.zeros((classes, 2048), np.float32)

    def block(self, name, x, out, kernel, stride=1, padding=None):
        fan = x.shape[1] * kernel[0] * kernel[1]
        w = self.rng.standard_normal((out, x.shape[1], *kernel)).astype(np.float32)
        gamma, bias, mean = self.rng.uniform(-0.5, 0.5, (3, out)).astype(np.float32)
        variance = self.rng.uniform(0.5, 1.5, out).astype(np.float32)
        parts = {"weight": gamma + 1, "bias": bias, "running_mean": mean, "running_var": variance}
        self.weights |= {f"{name}.bn.{part}": value for part, value in parts.items()}
        self.weights[f"{name}.conv.weight"] = w * np.float32(np.sqrt(2 / fan))
        if padding is None:
            padding = tuple(side // 2 for side in kernel)
        x = conv(x, self.weights[f"{name}.conv.weight"], stride, padding)
        mean, gamma, bias, variance = (a[:, None, None] for a in (mean, gamma + 1, bias, variance))
        return np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + bias, 0)

    def average(self, x):
        total = pool(x, 3, 1, 1, np.sum, 0.0)
        return total / (pool(np.ones_like(x), 3, 1, 1, np.sum, 0.0) if self.fid else 9)

    def __call__(self, x):
        for name, (out, kernel) in STEM.items():
            first = name == "Conv2d_1a_3x3"
            padding = (1, 1) if name == "Conv2d_2b_3x3" else (0, 0)
            x = self.block(name, x, out, kernel, 2 if first else 1, padding)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = pool(x, 3, 2)
        for name, branches in BLOCKS.items():
            halves, parts = name in ("Mixed_6a", "Mixed_7a"), []
            for branch, layers in branches.items():
                y = self.average(x) if branch == "branch_pool" else x
                for i, (out, kernel) in enumerate(layers):
                    last = halves and i == len(layers) - 1
                    number = f"_{i + 1}" if len(layers) > 1 else ""
                    options = {"stride": 2, "padding": (0, 0)} if last else {}
                    y = self.block(f"{name}.{branch}{number}", y, out, kernel, **options)
                parts.append(y)
            x = np.concatenate([*parts, pool(x, 3, 2)] if halves else parts, axis=1)
        for name in ("Mixed_7b", "Mixed_7c"):
            parts = [self.block(f"{name}.branch1x1", x, 320, (1, 1))]
            for branch, layers in FANS.items():
                y = x
                for i, (out, kernel) in enumerate(layers):
                    y = self.block(f"{name}.{branch}_{i + 1}", y, out, kernel)
                for way, kernel in (("a", (1, 3)), ("b", (3, 1))):
                    end = f"{name}.{branch}_{len(layers) + 1}{way}"
                    parts.append(self.block(end, y, 384, kernel))
            largest = self.fid and name == "Mixed_7c"
            around = pool(x, 3, 1, 1) if largest else self.average(x)
            parts.append(self.block(f"{name}.branch_pool", around, 192, (1, 1)))
            x = np.concatenate(parts, axis=1)
        return x.mean(axis=(2, 3))


@pytest.fixture(scope="module", params=[1008, 1000])
def inception(request):
    images = np.random.default_rng(1).uniform(-1, 1, (1, SIDE, SIDE, 3)).astype(np.float32)
    network = Network(request.param)
    return images, network(images.transpose(0, 3, 1, 2)), network.weights


def test_inception_is_the_published_network(inception):
    images, expected, weights = inception
    found = inception_features(weights, jnp.asarray(images), side=SIDE)
    assert found.shape == (1, 2048)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    # 21,785,568 parameters without the classes, and the statistics of the norms.
    statistics = sum(a.size for name, a in weights.items() if "running" in name)
    assert (
        sum(a.size for a in weights.values()) - statistics - weights["fc.weight"].size == 21_785_568
    )
    if len(weights["fc.weight"]) == 1008:
        other = inception_features(
            weights | {"fc.weight": np.zeros((1000, 2048))}, jnp.asarray(images), side=SIDE
        )
        assert abs(other - found).max() > 1e-2


ALEX = {(1, 0): (64, 11), (2, 3): (192, 5), (3, 6): (384, 3), (4, 8): (256, 3), (5, 10): (256, 3)}
VGG_NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
VGG = {
    (i + 1, number): (min(64 * 2**i, 512), 3)
    for i, numbers in enumerate(VGG_NUMBERS)
    for number in numbers
}


def perceptual_weights(layers, rng):
    weights, channels, ends = {}, 3, {}
    for (piece, number), (out, side) in layers.items():
        scale = np.sqrt(2 / (channels * side**2))
        weights[f"net.slice{piece}.{number}.weight"] = scale * rng.standard_normal(
            (out, channels, side, side)
        )
        weights[f"net.slice{piece}.{number}.bias"] = rng.uniform(-0.2, 0.2, out)
        channels = ends[piece] = out
    for piece, out in ends.items():
        weights[f"lin{piece - 1}.model.1.weight"] = rng.uniform(0, 1, (1, out, 1, 1))
    return {name: a.astype(np.float32) for name, a in weights.items()}


def slices(layers, weights, x):
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x, found = (x - shift[:, None, None]) / scale[:, None, None], {}
    alex = layers is ALEX
    before = 1
    for (piece, number), (_, side) in layers.items():
        if piece != before and (piece in (2, 3) or not alex):
            x = pool(x, 3 if alex else 2, 2)
        before, name = piece, f"net.slice{piece}.{number}"
        stride, padding = (4, 2) if side == 11 else (1, side // 2)
        x = conv(x, weights[name + ".weight"], stride, (padding, padding))
        x = np.maximum(x + weights[name + ".bias"][:, None, None], 0)
        found[piece] = x
    return list(found.values())


@pytest.mark.parametrize("layers", [ALEX, VGG], ids=["alex", "vgg"])
def test_lpips_is_the_published_distance(layers):
    rng = np.random.default_rng(2)
    weights = perceptual_weights(layers, rng)
    x, y = rng.uniform(-1, 1, (2, 2, 3, 32, 32)).astype(np.float32)
    expected = np.zeros(2)
    for i, (a, b) in enumerate(
        zip(slices(layers, weights, x), slices(layers, weights, y), strict=True)
    ):
        a, b = (f / (np.sqrt((f**2).sum(axis=1, keepdims=True)) + 1e-10) for f in (a, b))
        w = weights[f"lin{i}.model.1.weight"][0]
        expected += (w * (a - b) ** 2).sum(axis=1).mean(axis=(1, 2))
    x, y = (jnp.asarray(images.transpose(0, 2, 3, 1)) for images in (x, y))
    np.testing.assert_allclose(lpips(weights, x, y), expected, rtol=1e-4)
    np.testing.assert_array_equal(lpips(weights, x, x), 0)


def test_weights_of_something_else_are_refused():
    x = jnp.zeros((1, 32, 32, 3))
    weights = perceptual_weights(ALEX, np.random.default_rng(2))
    with pytest.raises(ValueError, match=r"have no lin0\.model\.1\.weight"):
        lpips({name: a for name, a in weights.items() if "lin" not in name}, x, x)
    with pytest.raises(ValueError, match=r"slice2\.3\.weight must have shape \(out, 64, rows"):
        lpips(weights | {"net.slice2.3.weight": np.zeros((192, 3, 5, 5))}, x, x)
    with pytest.raises(ValueError, match=r"have no Conv2d_1a_3x3\.conv\.weight"):
        inception_features(weights, x)
