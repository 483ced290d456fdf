"""Products in single precision on every device: none is left to what the device makes of it (TF32)."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.density.exact import gaussian_mixture
from diffusions.density.gaussian_reference import fitted_reference
from diffusions.density.log_snr import CHANNEL
from diffusions.images.kriging import Kriging
from diffusions.metrics import frechet_distance_of_samples, kernel_distance, median_distance
from diffusions.networks.mlp import DenoisingMLP
from jkonet_star.baselines.stitching import kernel_score
from jkonet_star.energies.models import EnergyNetwork
from jkonet_star.solvers.transport_maps import InputConvexNetwork, MapNetwork

ROOT = Path(__file__).parents[2]
IMAGE_NETWORKS = ("unet.py", "attention_unet.py", "convolutions.py")
"""For them three digits are enough, and speed is not (docs/gpu_and_cluster.md)."""
PRODUCTS = ("einsum", "matmul", "dot", "tensordot", "vdot", "inner", "cov")


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


def assert_full(function, *inputs, at_least=1):
    found = precisions(jax.make_jaxpr(function)(*inputs).jaxpr)
    assert len(found) >= at_least
    highest = jax.lax.Precision.HIGHEST
    assert set(found) == {(highest, highest)}


@pytest.mark.parametrize(
    ("module", "inputs"),
    [
        (DenoisingMLP(width=8, n_layers=1, embedding=4), (jnp.ones((3, 2)), jnp.ones(3))),
        (EnergyNetwork(hidden=(8, 8)), (jnp.ones((3, 2)),)),
        (InputConvexNetwork(hidden=(8, 8)), (jnp.ones((3, 2)),)),
        (MapNetwork(hidden=(8, 8)), (jnp.ones((3, 2)),)),
    ],
)
def test_no_product_of_a_network_is_rounded_to_tf32(module, inputs):
    params = module.init(jax.random.key(0), *inputs)

    def gradient_norm(params, x, *rest):
        return jnp.sum(jax.grad(lambda x: jnp.sum(module.apply(params, x, *rest)))(x) ** 2)

    assert_full(jax.grad(gradient_norm), params, *inputs, at_least=6)


def law():
    return gaussian_mixture(jnp.ones(2) / 2, jnp.ones((2, 3)), jnp.stack([jnp.eye(3)] * 2))


def kriged(images):
    return Kriging().mean(images, jnp.ones(images.shape, bool), 16)


POINTS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (law().denoiser(CHANNEL), (POINTS, jnp.ones(6))),
        (fitted_reference(POINTS).epsilon, (POINTS, jnp.ones(6))),
        (kriged, (jnp.ones((1, 4, 4, 3)),)),
        (kernel_distance, (POINTS, POINTS)),
        (median_distance, (POINTS, POINTS)),
        (frechet_distance_of_samples, (POINTS, POINTS)),
        (kernel_score, (POINTS, POINTS)),
    ],
)
def test_no_product_of_a_formula_is_rounded_to_tf32(function, inputs):
    assert_full(function, *inputs)


def bare_products(file):
    """Calls of JAX's own products and of Flax's layers that do not say how precise they are."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, name = node.func.value, node.func.attr
        bare = isinstance(owner, ast.Name) and (
            (owner.id == "jnp" and name in PRODUCTS) or (owner.id == "nn" and name == "Dense")
        )
        if bare and not any(keyword.arg == "precision" for keyword in node.keywords):
            found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return found


def test_products_are_taken_from_one_module():
    files = [
        file
        for package in ("diffusions", "jkonet_star")
        for file in (ROOT / package).rglob("*.py")
        if file.name not in IMAGE_NETWORKS
    ]
    assert len(files) > 100
    assert [place for file in files for place in bare_products(file)] == []
