"""Noise and drift of snapshots between which the drift changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import load_energy, save_energy
from diffusions.precision import double_precision
from jkonet_star.energies.features import make_features
from jkonet_star.fitted import FittedEnergy
from jkonet_star.internal_energy import long_steps
from jkonet_star.internal_energy.estimate import estimate_internal
from jkonet_star.internal_energy.limits import several_betas
from jkonet_star.internal_energy.long_steps import ENOUGH, _moved
from jkonet_star.settings import FeatureSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.linear_model import linear_model, split_coefficients
from jkonet_star.solvers.registry import Terms

BETA = 0.1
MONOMIALS = FeatureSettings(radial="none", degree=4, total_degree=4)


def double_well(n=1000, dt=0.15, count=6, n_substeps=40, seed=0):
    """Independent snapshots of V = (x^2 - 1)^2 / 2 + y^2 from (0, 0), by Euler steps that are short."""
    rng, h, found = np.random.default_rng(seed), dt / n_substeps, []
    for k in range(count):
        x = 0.3 * rng.normal(size=(n, 2))
        for _ in range(k * n_substeps):
            x += -h * true_gradient(x) + np.sqrt(2 * BETA * h) * rng.normal(size=x.shape)
        found.append(x.astype(np.float32))
    return snapshots_from_arrays(found, dt * np.arange(count))


def true_gradient(x):
    """Grad V."""
    return np.stack([2 * x[:, 0] * (x[:, 0] ** 2 - 1), 2 * x[:, 1]], axis=1)


def test_a_double_well_between_snapshots_that_lie_far_apart():
    snapshots = double_well()
    terms = Terms(potential=True, internal=True)
    model, constants = linear_model(terms, snapshots, MONOMIALS)
    found = estimate_internal(model, constants, snapshots, regime="unpaired")
    assert found.converged
    assert found.unknown is None
    assert found.substeps == ENOUGH
    assert abs(found.beta - BETA) < 3 * found.standard_error < 0.08
    x = np.concatenate(snapshots.arrays())
    params = split_coefficients(model, found.drift_coefficients)
    gradient = np.asarray(
        jax.vmap(jax.grad(model.potential, 2), (None, None, 0, None))(
            params, constants, jnp.asarray(x), jnp.zeros(())
        )
    )
    error = np.linalg.norm(gradient - true_gradient(x)) / np.linalg.norm(true_gradient(x))
    assert error < 0.2  # 1.0 without a drift; one Euler step has none that explains the snapshots


def test_heuns_steps_of_a_quadratic_potential_and_their_derivatives():
    """Without the bound on the drift, which is of higher order for particles so near to zero."""
    features, centers = make_features(
        FeatureSettings(radial="none", degree=2, total_degree=2),
        np.zeros((5, 1)),
        center=0.0,
        length=1.0,
    )
    m, h, theta, beta = 5, 0.02, 3.0, 0.4
    noise = 1e-4 * np.random.default_rng(0).normal(size=(m - 1, 2, 1))
    x, estimate = np.array([[1e-4], [2e-4]]), np.array([beta, 0.0, theta / 2])

    def moved(estimate):
        inside = centers, x, np.full(2, h), noise, estimate
        with double_precision():
            found = _moved(features, *(jnp.asarray(v, jnp.float64) for v in inside))
        return [np.asarray(v) for v in found]

    z, slopes = moved(estimate)
    expected = x
    for xi in noise:
        kick = np.sqrt(2 * beta * h) * xi
        expected = expected * (1 - h * theta + (h * theta) ** 2 / 2) + (1 - h * theta / 2) * kick
    np.testing.assert_allclose(z, (1 - h * theta) * expected, rtol=1e-6)
    for i in range(3):
        step = 1e-4 * np.eye(3)[i]
        change = (moved(estimate + step)[0] - moved(estimate - step)[0]) / 2e-4
        np.testing.assert_allclose(slopes[..., i], change, rtol=1e-5, atol=1e-10)


def test_an_energy_of_substeps_predicts_by_shorter_steps(tmp_path):
    params = {"potential": jnp.asarray([0.5, 1.0]), "internal": jnp.float32(0.2)}
    model, constants = linear_model(
        Terms(potential=True),
        snapshots_from_arrays([np.linspace(-1, 1, 9, dtype=np.float32)[:, None]] * 2, dt=0.4),
        FeatureSettings(radial="none", degree=2, total_degree=2),
    )
    model = dataclasses.replace(model, internal="given")
    one = FittedEnergy(
        model=model,
        scheme="explicit",
        params=params,
        constants=constants,
        times=jnp.asarray([0, 0.4]),
    )
    x = jnp.linspace(-1, 1, 20)[:, None]
    four = one.replace(substeps=4)
    np.testing.assert_allclose(four.predict(x)[-1], one.predict(x, 4, dt=0.1)[-1], rtol=1e-5)
    assert np.abs(four.predict(x)[-1] - one.predict(x)[-1]).max() > 0.01
    many = jnp.zeros((20_000, 1))
    spread = float(four.predict(many, key=jax.random.key(0))[-1].var())
    slope = float(-jax.grad(lambda y: one.drift(y[None])[0, 0])(jnp.zeros(1))[0])
    expected = 2 * 0.2 * 0.1 * sum((1 - 0.1 * slope) ** (2 * k) for k in range(4))
    assert spread == pytest.approx(expected, rel=0.05)  # one step would have .16
    save_energy(tmp_path / "energy", four)
    opened = load_energy(tmp_path / "energy")
    assert opened.substeps == 4
    assert "in 4 substeps" in repr(opened)
    np.testing.assert_array_equal(opened.predict(x), four.predict(x))


@pytest.mark.parametrize(("doubt", "known"), [(0.02, True), (0.04, False)])
def test_a_beta_that_depends_on_the_start_is_not_known(doubt, known):
    assert (several_betas(doubt, 0.01) is None) == known


def test_what_the_features_do_not_explain_has_no_drift():
    rng = np.random.default_rng(0)
    ends = [
        rng.normal(size=(200, 1)),
        np.sign(rng.normal(size=(200, 1))) + 0.01,
        np.zeros((200, 1)),
    ]
    snapshots = snapshots_from_arrays([x.astype(np.float32) for x in ends], dt=1.0)
    quadratic = FeatureSettings(radial="none", degree=2, total_degree=2)
    model, constants = linear_model(Terms(potential=True, internal=True), snapshots, quadratic)
    found = estimate_internal(model, constants, snapshots, regime="unpaired")
    assert found.drift is None
    assert found.substeps == 1


@pytest.mark.parametrize("case", ["fewer tests than unknowns", "three dimensions"])
def test_where_it_cannot_be_told_nothing_is_looked_for(case, monkeypatch):
    """Some of many unknowns explain anything, and derivatives in many dimensions take gigabytes."""
    called = []
    monkeypatch.setattr(long_steps, "_minimise", lambda *arguments: called.append(arguments))
    if case == "three dimensions":
        rng = np.random.default_rng(0)
        flat = double_well(n=60, count=3).arrays()
        arrays = [np.hstack([x, rng.normal(size=(len(x), 1))]) for x in flat]
        settings = MONOMIALS
    else:
        arrays, settings = double_well(n=60, count=2).arrays(), FeatureSettings(radial="none")
    snapshots = snapshots_from_arrays(arrays, dt=0.15)
    model, constants = linear_model(Terms(potential=True, internal=True), snapshots, settings)
    found = estimate_internal(model, constants, snapshots, regime="unpaired")
    assert not called
    assert found.substeps == 1


def test_a_particle_far_away_does_no_harm():
    arrays = [np.array(x) for x in double_well(n=200, count=4).arrays()]
    for x in arrays:
        x[0] = (300.0, -200.0)
    snapshots = snapshots_from_arrays(arrays, dt=0.15)
    model, constants = linear_model(Terms(potential=True, internal=True), snapshots, MONOMIALS)
    found = estimate_internal(model, constants, snapshots, regime="unpaired")
    assert np.isfinite(found.beta)
