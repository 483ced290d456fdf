"""The blocked mean of grad U against the dense one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.energies.interactions import (
    grouped_interaction_drift,
    interaction_drift,
    sum_over_blocks,
)

pytestmark = pytest.mark.usefixtures("double_precision")


def energy(scale, z):
    """Not even, so that the sign of the difference shows."""
    return jnp.sum(jnp.sin(scale * z)) + z[0] ** 2 * z[-1] + jnp.exp(-jnp.sum(z**2))


def populations(n, m, d=3, seed=0):
    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.1, 1.0, m)
    return (
        jnp.asarray(generator.normal(size=(n, d))),
        jnp.asarray(generator.normal(size=(m, d))),
        jnp.asarray(weights / weights.sum()),
    )


def dense(scale, x, y, w):
    pulls = jax.vmap(lambda a: jax.vmap(lambda b: jax.grad(energy, argnums=1)(scale, a - b))(y))(x)
    return jnp.einsum("nmd,m->nd", pulls, w)


@pytest.mark.parametrize("m", [1, 5, 6, 7, 17])
@pytest.mark.parametrize("block_size", [1, 3, 6, 100])
def test_blocks_equal_the_dense_mean(m, block_size):
    x, y, w = populations(4, m)
    gradient = jax.grad(lambda z: energy(1.3, z))
    found = interaction_drift(gradient, x, y, w, block_size=block_size)
    np.testing.assert_allclose(found, dense(1.3, x, y, w), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block_size", [4, 100])
def test_derivatives_through_blocks_equal_dense_ones(block_size):
    x, y, w = populations(5, 10)

    def blocked_loss(scale, x, y, w):
        gradient = jax.grad(lambda z: energy(scale, z))
        return jnp.sum(interaction_drift(gradient, x, y, w, block_size=block_size) ** 3)

    def dense_loss(*arguments):
        return jnp.sum(dense(*arguments) ** 3)

    found = jax.jit(jax.grad(blocked_loss, argnums=(0, 1, 2, 3)))(1.3, x, y, w)
    expected = jax.jit(jax.grad(dense_loss, argnums=(0, 1, 2, 3)))(1.3, x, y, w)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block_size", [3, 100])
def test_rows_of_a_group_see_their_own_population(block_size):
    pairs = [populations(1, 8, seed=seed) for seed in range(3)]
    x, _, _ = populations(7, 1, seed=9)
    group = jnp.asarray([2, 0, 0, 1, 2, 1, 0], jnp.int32)
    found = grouped_interaction_drift(
        jax.grad(lambda z: energy(0.7, z)),
        x,
        group,
        jnp.stack([y for _, y, _ in pairs]),
        jnp.stack([w for _, _, w in pairs]),
        block_size=block_size,
    )
    for row, k in enumerate(group.tolist()):
        expected = dense(0.7, x[row : row + 1], pairs[k][1], pairs[k][2])[0]
        np.testing.assert_allclose(found[row], expected, rtol=1e-12, atol=1e-14)


def test_jacobians_of_many_features_are_averaged_alike():
    x, y, w = populations(4, 11)
    features = jax.jacfwd(lambda z: jnp.stack([energy(s, z) for s in (0.5, 2.0)]))
    found = interaction_drift(features, x, y, w, block_size=4)
    assert found.shape == (4, 2, 3)
    for f, scale in enumerate((0.5, 2.0)):
        np.testing.assert_allclose(found[:, f], dense(scale, x, y, w), rtol=1e-12, atol=1e-14)


def test_padding_meets_no_difference_of_its_own():
    """A term that is infinite away from the particles shows what the last block is filled with."""
    y = jnp.arange(1.0, 6.0)[:, None]
    found = sum_over_blocks(
        lambda rows, w: jnp.sum(w / rows[:, 0]), y, jnp.full(5, 0.2), block_size=2
    )
    np.testing.assert_allclose(found, np.mean(1 / np.arange(1, 6)), rtol=1e-14)
