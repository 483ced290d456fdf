"""The U-Net against its formulas, its published sizes, and what must not matter to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.flops import matmul_flops
from diffusions.networks.presets import UNET_PRESETS
from diffusions.networks.unet import NO_CLASS, ResidualBlock, SelfAttention, UNet

SMALL = {"width": 8, "multipliers": (1, 2), "blocks_per_level": 1, "groups": 4}
SIDE = 8


def randomised(params, seed=0, scale=0.3):
    """Parameters without the zeros that a new network starts with."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, scale, x.shape), x.dtype), params)


def images(n=2, channels=3, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, side, side, channels)), jnp.result_type(float))


class Compiled:
    """A network whose operations are not compiled one by one, which takes minutes."""

    def __init__(self, **options):
        self.module = UNet(**{**SMALL, **options})
        self.apply = jax.jit(self.module.apply, static_argnames="deterministic")

    def params(self, *inputs):
        return randomised(jax.eval_shape(self.module.init, jax.random.key(0), *inputs))


@functools.cache
def network(n=2, **options):
    model = Compiled(**options)
    z, t = images(n), jnp.linspace(-1.0, 2.0, n)
    return model, model.params(z, t), z, t


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, groups, scale, bias):
    n, height, width, channels = x.shape
    y = x.reshape(n, height, width, groups, channels // groups)
    mean = y.mean(axis=(1, 2, 4), keepdims=True)
    variance = ((y - mean) ** 2).mean(axis=(1, 2, 4), keepdims=True)
    return ((y - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * scale + bias


def convolution(x, kernel, bias):
    """3 x 3, stride 1, zeros outside."""
    n, height, width, _ = x.shape
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((n, height, width, kernel.shape[-1])) + bias
    for i in range(3):
        for j in range(3):
            y += wide[:, i : i + height, j : j + width] @ kernel[i, j]
    return y


def as_numpy(params):
    return jax.tree.map(np.asarray, params)["params"]


@pytest.mark.parametrize(
    ("preset", "channels", "count"),
    [
        ("ddpm-cifar10", 3, 35_746_307),
        ("improved-cifar10", 3, 52_542_979),
        ("sparse", 9, 56_909_571),
        ("small", 3, 1_113_955),
        ("tiny", 3, 164_563),
    ],
)
def test_published_numbers_of_parameters(preset, channels, count):
    z = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(UNet(**UNET_PRESETS[preset]).init, jax.random.key(0), z, t)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("channels", [8, 12])
def test_the_residual_block_is_its_formula(double_precision, channels):
    x, e = images(channels=8), images(channels=1)[:, :5, 0, 0]
    block = ResidualBlock(channels, groups=4, dtype=jnp.float64)
    params = randomised(jax.jit(block.init)(jax.random.key(0), x, e))
    p = as_numpy(params)
    h = convolution(silu(group_norm(np.asarray(x), 4, **p["norm_1"])), **p["conv_1"])
    h = h + (silu(np.asarray(e)) @ p["time"]["kernel"] + p["time"]["bias"])[:, None, None, :]
    h = convolution(silu(group_norm(h, 4, **p["norm_2"])), **p["conv_2"])
    skip = np.asarray(x)
    if channels != 8:
        skip = skip @ p["shortcut"]["kernel"] + p["shortcut"]["bias"]
    np.testing.assert_allclose(jax.jit(block.apply)(params, x, e), skip + h, atol=1e-12)


def test_attention_is_its_formula(double_precision):
    x = images(channels=8)
    module = SelfAttention(groups=4, dtype=jnp.float64)
    params = randomised(jax.jit(module.init)(jax.random.key(0), x), scale=0.6)
    p = as_numpy(params)
    h = group_norm(np.asarray(x), 4, **p["norm"]).reshape(2, SIDE**2, 8)
    query, key, value = np.split(h @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    expected = np.empty_like(h)
    for b in range(2):
        logits = query[b] @ key[b].T / np.sqrt(8)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        expected[b] = weights @ value[b] @ p["out"]["kernel"] + p["out"]["bias"]
    found = jax.jit(module.apply)(params, x)
    np.testing.assert_allclose(found, x + expected.reshape(x.shape), atol=1e-12)
    # Attention knows no places: permuted pixels give permuted pixels.
    order = np.random.default_rng(1).permutation(SIDE**2)

    def permuted(x):
        return x.reshape(2, SIDE**2, 8)[:, order].reshape(x.shape)

    np.testing.assert_allclose(module.apply(params, permuted(x)), permuted(found), atol=1e-12)


@pytest.mark.slow
def test_a_new_network_predicts_zero_and_learns_from_there():
    model = Compiled(multipliers=(1,))
    z, t = images(), jnp.zeros(2)
    params = jax.jit(model.module.init)(jax.random.key(0), z, t)
    np.testing.assert_array_equal(model.apply(params, z, t), 0.0)
    gradient = jax.jit(jax.grad(lambda p: ((model.apply(p, z, t) - z) ** 2).sum()))(params)
    assert float(abs(gradient["params"]["conv_out"]["kernel"]).max()) > 0


@pytest.mark.slow
def test_gradients(double_precision):
    model = Compiled(dtype=jnp.float64, n_classes=1)
    z, t, labels = images(), jnp.array([-1.0, 2.0]), jnp.array([0, NO_CLASS])
    point = (model.params(z, t, labels), z, t)
    point = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), point)
    direction = randomised(point, seed=5, scale=1.0)

    def loss(point):
        return jnp.sin(model.apply(*point, labels)).sum()

    gradient = jax.jit(jax.grad(loss))(point)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    untouched = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.asarray(leaf).any()
    ]
    assert untouched == []
    step = 1e-6

    @jax.jit
    def along(s):
        return loss(jax.tree.map(lambda x, d: x + s * d, point, direction))

    numerical = (along(step) - along(-step)) / (2 * step)
    analytic = sum(
        np.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(analytic, numerical, rtol=1e-6)


def test_time_acts_on_each_image_alone():
    model, params, z, t = network(3)
    made = model.apply(params, z, t)
    later = model.apply(params, z, t.at[1].add(0.5))
    change = abs(np.asarray(made - later)).max(axis=(1, 2, 3))
    assert change[1] > 1e-2
    np.testing.assert_allclose(change[[0, 2]], 0.0, atol=1e-5)
    among_others = model.apply(params, z.at[0].add(1.0).at[2].multiply(3.0), t)
    np.testing.assert_allclose(among_others[1], made[1], atol=1e-4)
    assert abs(np.asarray(among_others - made)[[0, 2]]).max(axis=(1, 2, 3)).min() > 1e-2


def test_one_time_for_all_images():
    model, params, z, _ = network(multipliers=(1,))
    shared = model.apply(params, z, jnp.asarray(0.25))
    np.testing.assert_allclose(shared, model.apply(params, z, jnp.full(2, 0.25)), atol=1e-5)


def test_classes_act_and_can_be_left_out():
    model, _, z, t = network(3, n_classes=4, multipliers=(1,))
    labels = jnp.array([0, NO_CLASS, 3])
    params = model.params(z, t, labels)
    plain = model.apply(params, z, t)
    made = model.apply(params, z, t, labels)
    change = abs(np.asarray(made - plain)).max(axis=(1, 2, 3))
    assert (change[[0, 2]] > 1e-2).all()
    assert change[1] < 1e-5
    without, params, z, t = network(3)
    with pytest.raises(ValueError, match="n_classes=0"):
        without.apply(params, z, t, labels)


def test_dropout_is_off_unless_asked_for_and_follows_its_key():
    model, params, z, t = network(dropout=0.5, multipliers=(1,))
    still = model.apply(params, z, t)
    np.testing.assert_array_equal(still, model.apply(params, z, t))
    no_dropout = network(multipliers=(1,))[0].apply(params, z, t)
    np.testing.assert_array_equal(still, no_dropout)

    def noisy(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return np.asarray(model.apply(params, z, t, deterministic=False, rngs=rngs))

    np.testing.assert_array_equal(noisy(1), noisy(1))
    assert abs(noisy(1) - noisy(2)).max() > 1e-2
    assert abs(noisy(1) - np.asarray(still)).max() > 1e-2


def test_one_network_serves_several_sizes():
    model, params, z, t = network()
    wide = images(side=16)
    assert jax.eval_shape(model.apply, params, wide, t).shape == wide.shape
    oblong = jnp.concatenate([z, z], axis=2)
    assert jax.eval_shape(model.apply, params, oblong, t).shape == (2, SIDE, 2 * SIDE, 3)
    with pytest.raises(ValueError, match="multiples of 2, got 9 x 8"):
        model.apply(params, jnp.zeros((2, 9, 8, 3)), t)


@jax.default_matmul_precision("highest")
def test_interior_pixels_move_with_the_image():
    # Without the layers that see the whole image (norms, attention) what is left is local. A shift by
    # the stride of all levels then shifts the response to a single bright pixel.
    model, params, _, t = network(1)
    dark = jnp.zeros((1, 64, 64, 3))
    base = model.apply(params, dark, t)
    pixel = model.apply(params, dark.at[0, 24, 24].set(1e-3), t) - base
    moved = model.apply(params, dark.at[0, 30, 28].set(1e-3), t) - base
    size = abs(np.asarray(pixel))
    assert size.max() > 1e-5
    window = np.asarray(pixel[0, 16:32, 16:32])
    shifted = np.asarray(moved[0, 22:38, 20:36])
    np.testing.assert_allclose(shifted, window, atol=0.02 * size.max())


def test_half_precision_is_close_and_returns_single():
    model, params, z, t = network()
    exact = model.apply(params, z, t)
    rough = Compiled(dtype=jnp.bfloat16).apply(params, z, t)
    assert rough.dtype == jnp.float32
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.05


def test_operations_of_the_published_network():
    # By hand, level by level, for the DDPM network on 32 x 32 images: multiply-adds of the convolutions
    # and dense layers, times 2. Published counts (6.1 billion multiply-adds) agree.
    z = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    model = UNet(**UNET_PRESETS["ddpm-cifar10"])
    params = jax.eval_shape(model.init, jax.random.key(0), z, t)

    def conv(pixels, into, out):
        return pixels * 9 * into * out

    def block(pixels, into, out):
        total = conv(pixels, into, out) + conv(pixels, out, out) + 512 * out
        return total + (pixels * into * out if into != out else 0)

    def attention(pixels, channels):
        return 4 * pixels * channels**2 + 2 * pixels**2 * channels

    p0, p1, p2, p3 = 32**2, 16**2, 8**2, 4**2
    total = 128 * 512 + 512**2 + conv(p0, 3, 128) + conv(p0, 128, 3)
    total += 2 * block(p0, 128, 128) + conv(p1, 128, 128)
    total += block(p1, 128, 256) + block(p1, 256, 256) + 2 * attention(p1, 256)
    total += conv(p2, 256, 256) + 2 * block(p2, 256, 256) + conv(p3, 256, 256)
    total += 2 * block(p3, 256, 256)
    total += 2 * block(p3, 256, 256) + attention(p3, 256)
    total += 3 * block(p3, 512, 256) + conv(p2, 256, 256)
    total += 3 * block(p2, 512, 256) + conv(p1, 256, 256)
    total += 2 * block(p1, 512, 256) + block(p1, 384, 256) + 3 * attention(p1, 256)
    total += conv(p0, 256, 256)
    total += block(p0, 384, 128) + 2 * block(p0, 256, 128)
    assert matmul_flops(model.apply, params, z, t) == 2 * total
