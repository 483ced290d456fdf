"""The norm against Flax's, which takes its sums in another order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.group_norm import GroupNorm


def test_it_is_that_of_flax_and_so_are_its_gradients(double_precision):
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(1.0, 2.0, (2, 3, 4, 12))) for _ in range(2))
    params = {name: jnp.asarray(rng.normal(size=12)) for name in ("scale", "bias")}
    modules = [kind(4, epsilon=1e-2, dtype=jnp.float64) for kind in (GroupNorm, nn.GroupNorm)]
    new = modules[0].init(jax.random.key(0), x)["params"]
    jax.tree.map(
        np.testing.assert_array_equal, new, modules[1].init(jax.random.key(0), x)["params"]
    )

    def everything(module):
        def total(params, x):
            y = module.apply({"params": params}, x)
            return (weight * y).sum(), y

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, x)

    found, expected = (jax.tree.leaves(everything(module)) for module in modules)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-10)


def test_a_constant_image_has_no_variance_below_zero():
    x = jnp.full((1, 4, 4, 4), 1000.1)
    y = GroupNorm(2).apply({"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}, x)
    assert np.isfinite(y).all()
    with pytest.raises(ValueError, match="3 groups do not divide 4 channels"):
        GroupNorm(3).init(jax.random.key(0), x)
