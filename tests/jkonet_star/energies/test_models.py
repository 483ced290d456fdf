"""Parametrised energies: the activation, the units, and what learning starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.energies.models import ACTIVATIONS, NetworkEnergy, Units, softplus
from jkonet_star.settings import Activation
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.first_order import first_order_conditions, jko_loss
from jkonet_star.transport.couplings import couple
from jkonet_star.units import data_units

KEY = jax.random.key(0)


def derivatives(f, order):
    for _ in range(order):
        f = jax.grad(f)
    return jax.vmap(f)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_softplus_and_its_derivatives(order, double_precision):
    x = jnp.concatenate([jnp.linspace(-40, 40, 161), jnp.asarray([0.0, 1e-9, -1e-9])])
    found = derivatives(softplus, order)(x)
    expected = derivatives(jax.nn.softplus, order)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_softplus_far_out(order):
    x = jnp.asarray([-1e30, -1e4, -200.0, 200.0, 1e4, 1e30])
    zeros, ones = jnp.zeros(3), jnp.ones(3)
    limit = [jnp.maximum(x, 0), jnp.concatenate([zeros, ones]), jnp.zeros(6)][order]
    np.testing.assert_allclose(derivatives(softplus, order)(x), limit, atol=1e-30)


@pytest.mark.parametrize("mode", [jax.jvp, jax.vjp])
def test_softplus_differentiates_forward_and_backward(mode):
    x = jnp.asarray([-1.0, 0.5])
    slope = jax.nn.sigmoid(x)
    if mode is jax.jvp:
        found = jax.jvp(softplus, (x,), (jnp.ones(2),))[1]
    else:
        found = jax.vjp(softplus, x)[1](jnp.ones(2))[0]
    np.testing.assert_allclose(found, slope, rtol=1e-6)


def test_every_activation_of_the_settings_is_smooth():
    import typing

    assert set(ACTIVATIONS) == set(typing.get_args(Activation))
    for f in ACTIVATIONS.values():
        assert abs(float(derivatives(f, 2)(jnp.asarray([0.3]))[0])) > 1e-3


def test_networks_of_potential_and_interaction_start_apart():
    params = NetworkEnergy(dimension=2, has_interaction=True, internal="learned").init(KEY)
    kernels = [params[name]["params"]["Dense_0"]["kernel"] for name in ("potential", "interaction")]
    assert np.abs(np.corrcoef(kernels[0].ravel(), kernels[1].ravel())[0, 1]) < 0.5
    again = NetworkEnergy(dimension=2).init(jax.random.key(1))["potential"]["params"]["Dense_0"][
        "kernel"
    ]
    assert np.abs(kernels[0] - again).max() > 0.1


def unit_scale(**changes):
    one = jnp.ones(())
    base = {
        "center": jnp.zeros(2), "length": one, "speed": one, "time_start": 0 * one,
        "time_step": one, "noise": one, "beta": 0 * one,
    }  # fmt: skip
    return Units(**(base | changes))


@pytest.mark.parametrize("raw", [-200.0, -2.0, 0.0, 5.0])
def test_beta_is_never_negative_and_measured_in_its_unit(raw):
    model = NetworkEnergy(dimension=2, internal="learned")
    params = {"internal": jnp.asarray(raw)}
    units = unit_scale(noise=jnp.asarray(0.3))
    assert float(model.beta(params, units)) == pytest.approx(0.3 * np.logaddexp(0, raw), rel=1e-6)
    assert float(NetworkEnergy(dimension=2).beta({}, units)) == 0.0
    given = unit_scale(beta=jnp.asarray(0.7))
    assert float(NetworkEnergy(dimension=2, internal="given").beta({}, given)) == pytest.approx(0.7)


def test_the_pull_is_the_weighted_mean_of_grad_u():
    model = NetworkEnergy(dimension=2, hidden=(8,), has_interaction=True)
    params, units = model.init(KEY), unit_scale(length=jnp.asarray(2.0))
    x, y = jax.random.normal(KEY, (3, 2)), jax.random.normal(jax.random.key(1), (4, 2))
    weights = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    found = model.pull(params, units, x, y, weights)
    gradient = jax.grad(lambda z: model.interaction(params, units, z))
    pulls = jax.vmap(lambda a: jax.vmap(lambda b: gradient(a - b))(y))(x)
    np.testing.assert_allclose(found, jnp.einsum("nmd,m->nd", pulls, weights), rtol=1e-5, atol=1e-6)


def problem(length, time, shift, origin):
    """The same population seen in other units of length and time, and from another origin."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-2, 2, (3, 20, 2)) * np.array([1.0, 0.9, 0.7])[:, None, None]
    snapshots = snapshots_from_arrays(
        length * x + shift, times=time * np.array([0.0, 0.5, 0.75]) + origin
    )
    couplings, _ = couple(snapshots, key=KEY)
    conditions = first_order_conditions(snapshots, couplings, None, "implicit")
    # A score has the unit 1 / length.
    conditions = conditions.replace(score=jnp.sin(jnp.arange(120.0).reshape(60, 2)) / length)
    return conditions, data_units(snapshots, conditions)


@pytest.mark.parametrize(
    ("length", "time", "shift"), [(8.0, 0.25, 0.0), (1000.0, 1.0, 0.0), (3.0, 40.0, 50.0)]
)
def test_units_of_the_data_leave_the_normalised_problem_as_it_is(length, time, shift):
    model = NetworkEnergy(
        dimension=2,
        hidden=(16,),
        has_interaction=True,
        internal="learned",
        time_varying=True,
    )
    params = model.init(KEY)
    conditions, units = problem(1.0, 1.0, 0.0, 8.0)
    other_conditions, other_units = problem(length, time, shift, -2.0 * time)
    rows = jnp.arange(60)

    @jax.jit
    def loss(conditions, units):
        return jko_loss(model, params, units, conditions, rows, speed=units.speed)

    np.testing.assert_allclose(
        loss(other_conditions, other_units), loss(conditions, units), rtol=1e-4
    )
    # V and U have the unit length^2 / time, and so has beta.
    scale = length**2 / time
    x, t = jnp.asarray([0.3, -0.8]), jnp.asarray(8.3)
    potential = model.potential(params, units, x, t)
    other = model.potential(params, other_units, length * x + shift, time * (t - 10.0))
    np.testing.assert_allclose(other, scale * potential, rtol=2e-4)
    np.testing.assert_allclose(
        model.interaction(params, other_units, length * x),
        scale * model.interaction(params, units, x),
        rtol=1e-4,
    )
    np.testing.assert_allclose(
        model.beta(params, other_units), scale * model.beta(params, units), rtol=1e-4
    )


@pytest.mark.parametrize("still", ["one point", "no motion"])
def test_degenerate_data_have_units_all_the_same(still):
    x = np.zeros((2, 4, 2)) if still == "one point" else np.repeat([np.eye(4, 2)], 2, axis=0)
    snapshots = snapshots_from_arrays(x)
    couplings, _ = couple(snapshots, key=KEY)
    units = data_units(snapshots, first_order_conditions(snapshots, couplings, None, "explicit"))
    for value in (units.length, units.speed, units.noise, units.time_step):
        assert float(value) > 0


def test_units_are_the_weighted_moments_without_padding():
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(n, 2)) * 3 + 1 for n in (20, 15, 18)]
    weights = [generator.uniform(0.1, 1.0, len(p)) for p in arrays]
    times = np.array([1.0, 1.5, 3.0])
    snapshots = snapshots_from_arrays(arrays, times=times, weights=weights)
    couplings, _ = couple(snapshots, key=KEY)
    conditions = first_order_conditions(snapshots, couplings, None, "explicit")
    units = data_units(snapshots, conditions)
    p = np.concatenate(arrays)
    w = np.concatenate([v / v.sum() / 3 for v in weights])
    np.testing.assert_allclose(units.center, w @ p, rtol=1e-4)
    variance = w @ ((p - w @ p) ** 2).sum(axis=1)
    np.testing.assert_allclose(units.length, np.sqrt(variance / 2), rtol=1e-4)
    k = np.asarray(couplings.step)
    x = np.asarray(snapshots.points)
    moved = x[k + 1, couplings.target] - x[k, couplings.source]
    rate = ((moved / np.diff(times)[k, None]) ** 2).sum(axis=1) @ np.asarray(couplings.weight) / 2
    np.testing.assert_allclose(units.speed, np.sqrt(rate), rtol=1e-4)
    np.testing.assert_allclose(units.noise, rate * 1.0 / 4, rtol=1e-4)
    assert (float(units.time_start), float(units.time_step)) == (1.0, 1.0)
