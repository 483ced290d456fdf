"""The planar denoiser, and energies beside it: products in single precision on every device."""

import jax
import jax.numpy as jnp
import pytest

from diffusions.networks.mlp import DenoisingMLP
from jkonet_star.energies.models import EnergyNetwork


def precisions(jaxpr):
    """Of all products, those inside of called functions too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += precisions(inner)
    return found


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (DenoisingMLP(width=8, n_layers=1, embedding=4), (jnp.ones((3, 2)), jnp.ones(3))),
        (EnergyNetwork(hidden=(8, 8)), (jnp.ones((3, 2)),)),
    ],
)
def test_no_product_is_rounded_to_tf32(module, inputs):
    params = module.init(jax.random.key(0), *inputs)

    def gradient_norm(params, x, *rest):
        return jnp.sum(jax.grad(lambda x: jnp.sum(module.apply(params, x, *rest)))(x) ** 2)

    found = precisions(jax.make_jaxpr(jax.grad(gradient_norm))(params, *inputs).jaxpr)
    assert len(found) >= 6
    highest = jax.lax.Precision.HIGHEST
    assert set(found) == {(highest, highest)}
