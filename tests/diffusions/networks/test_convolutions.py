"""Both forms of a convolution against each other, derivatives of either mode included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.convolutions import convolution, shifted_product


@pytest.mark.parametrize(
    ("strides", "pads", "sides"),
    [
        ((1, 1), ((1, 1), (1, 1)), (6, 5)),
        ((2, 2), ((0, 1), (0, 1)), (6, 4)),
        ((2, 1), ((1, 2), (0, 1)), (7, 5)),
    ],
)
def test_gradients_and_tangents_are_those_of_the_product(double_precision, strides, pads, sides):
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, *sides, 3))) for _ in range(2))
    kernel, dkernel = (jnp.asarray(rng.normal(size=(3, 3, 3, 4))) for _ in range(2))

    def everything(form):
        def values(x, kernel):
            return jnp.sin(form(x, kernel, strides, pads))

        def total(x, kernel):
            return values(x, kernel).sum()

        gradient = jax.grad(total, argnums=(0, 1))
        tangent = jax.jvp(values, (x, kernel), (dx, dkernel))
        curved = jax.grad(lambda kernel: (gradient(x, kernel)[0] ** 2).sum())(kernel)
        return *tangent, *gradient(x, kernel), curved

    compute = jax.jit(everything, static_argnums=0)
    for found, expected in zip(compute(convolution), compute(shifted_product), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)
