"""Counted operations against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from diffusions.networks.flops import matmul_flops


def test_products():
    a, b = jnp.zeros((5, 3, 7)), jnp.zeros((5, 7, 2))
    assert matmul_flops(lambda a, b: a @ b, a, b) == 2 * 5 * 3 * 7 * 2
    assert matmul_flops(lambda a: jnp.einsum("bik,bjk->bij", a, a), a) == 2 * 5 * 3 * 3 * 7
    assert matmul_flops(jnp.dot, jnp.zeros(9), jnp.zeros(9)) == 18
    assert matmul_flops(jnp.outer, jnp.zeros(4), jnp.zeros(6)) == 0  # elementwise
    assert matmul_flops(jnp.tanh, a) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    x, kernel = jnp.zeros((2, 8, 10, 6)), jnp.zeros((3, 5, 6 // groups, 4))

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    assert matmul_flops(convolved, x, kernel) == 2 * (2 * 4 * 5 * 4) * (3 * 5 * 6 // groups)


def test_what_is_called_is_counted_as_often_as_it_runs():
    a = jnp.zeros((4, 4))
    once = 2 * 4**3

    def looped(a):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, a), None), a, None, length=7)[0]

    def chosen(a):
        return jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a)

    assert matmul_flops(looped, a) == 7 * once
    assert matmul_flops(chosen, a) == 2 * once
    assert matmul_flops(jax.checkpoint(lambda a: jax.nn.relu(a @ a)), a) == once
    # The product itself, and one more for the gradient with respect to each factor.
    gradient = jax.grad(lambda a, b: (a @ b).sum(), argnums=(0, 1))
    assert matmul_flops(gradient, a, a) == 3 * once
    assert matmul_flops(lambda a: a @ a, jax.ShapeDtypeStruct((4, 4), jnp.float32)) == once
    with pytest.raises(ValueError, match="while loop"):
        matmul_flops(lambda a: jax.lax.while_loop(lambda a: a.sum() < 1, lambda a: a @ a, a), a)
