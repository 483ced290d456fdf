"""The attention U-Net: its convolution, symmetries and refusals, and that it can learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusions.networks.attention_unet import Attention, AttentionUNet, Convolution

NETWORK = AttentionUNet(channels=(4, 8, 8, 8), heads=4)


@pytest.fixture(scope="module")
def params():
    return jax.jit(NETWORK.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 2, 2, 3), (3, 5, 4, 2)])
@jax.default_matmul_precision("highest")
def test_the_convolution_is_a_convolution(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    layer = Convolution(6)
    params = layer.init(jax.random.key(1), x)
    kernel = params["params"]["kernel"].reshape(3, 3, shape[-1], 6)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(params, x), expected, atol=1e-5)


def test_attention_knows_no_order_of_pixels():
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    layer = Attention(4)
    params = layer.init(jax.random.key(1), x)
    turned = layer.apply(params, jnp.flip(x, 1))
    np.testing.assert_allclose(turned, jnp.flip(layer.apply(params, x), 1), atol=1e-5)


def test_images_do_not_see_each_other_and_the_time_is_heard(params):
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    t = jnp.array([1.0, 50.0, 200.0])
    apply = jax.jit(NETWORK.apply)
    together = apply(params, x, t)
    assert together.shape == x.shape
    others = apply(params, x.at[0].set(7.0), t)
    np.testing.assert_allclose(others[1:], together[1:], atol=1e-5)
    later = apply(params, x, t.at[0].set(100.0))
    assert float(jnp.abs(later[0] - together[0]).max()) > 1e-3


def test_every_pixel_reaches_every_other(params):
    """The lowest resolution is one pixel: the far corner must depend on this one."""
    x = jax.random.normal(jax.random.key(2), (1, 8, 8, 1))
    corner = jax.jit(jax.grad(lambda x: NETWORK.apply(params, x, jnp.ones(1))[0, 7, 7, 0]))
    gradient = corner(x)
    assert float(jnp.abs(gradient).min()) > 0


def test_the_published_size():
    shapes = jax.eval_shape(
        AttentionUNet().init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 11_997_057


def test_it_learns_what_it_is_shown(params):
    x = jax.random.normal(jax.random.key(3), (4, 8, 8, 1))
    t = jnp.arange(4.0)
    optimizer = optax.adam(3e-3)

    def loss(params):
        return jnp.mean((NETWORK.apply(params, x, t) - x) ** 2)

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    _, losses = jax.jit(lambda c: jax.lax.scan(step, c, None, length=150))(
        (params, optimizer.init(params))
    )
    assert float(losses[-1]) < 0.1 * float(losses[0])


def test_odd_sizes_are_refused(params):
    with pytest.raises(ValueError, match="multiples of 8, got 8 x 12"):
        NETWORK.apply(params, jnp.zeros((1, 8, 12, 1)), jnp.zeros(1))
