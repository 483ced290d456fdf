"""Both forms of a convolution against each other, derivatives of either mode included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.networks.convolutions import (
    convolution,
    convolution_of_doubled,
    doubled,
    shifted_product,
)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(
    ("strides", "pads", "sides"),
    [
        ((1, 1), ((1, 1), (1, 1)), (6, 5)),
        ((2, 2), ((0, 1), (0, 1)), (6, 4)),
        ((2, 1), ((1, 2), (0, 1)), (7, 5)),
    ],
)
def test_gradients_and_tangents_are_those_of_the_product(
    double_precision, strides, pads, sides, channels
):
    rng = np.random.default_rng(0)
    x, dx = (jnp.asarray(rng.normal(size=(2, *sides, 3))) for _ in range(2))
    kernel, dkernel = (jnp.asarray(rng.normal(size=(3, 3, 3, channels))) for _ in range(2))

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


def test_doubled_images_need_no_doubling(double_precision):
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=(2, 3, 4, 3))),
        jnp.asarray(rng.normal(size=(3, 3, 3, 2))),
    )

    def by_doubling(x, kernel):
        return shifted_product(doubled(x), kernel, (1, 1), ((1, 1), (1, 1)))

    def everything(form):
        def total(x, kernel):
            return jnp.sin(form(x, kernel)).sum()

        return form(x, kernel), *jax.grad(total, argnums=(0, 1))(x, kernel)

    compute = jax.jit(everything, static_argnums=0)
    for found, expected in zip(compute(convolution_of_doubled), compute(by_doubling), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)
