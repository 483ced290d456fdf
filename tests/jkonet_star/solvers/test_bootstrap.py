"""Energies of resampled cells: their spread is what formulas say, and nothing is made twice."""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkonet_star.solvers.bootstrap
from jkonet_star import FeatureSettings, NetworkSettings, fit
from jkonet_star.internal_energy.estimate import InternalEstimate
from jkonet_star.internal_energy.weak_form_drift import WeakFormDrift
from jkonet_star.settings import RefinementSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.first_order import residuals
from jkonet_star.solvers.linear_model import split_coefficients
from jkonet_star.solvers.problem import WeakFormEnergy, prepare
from jkonet_star.solvers.resampling import (
    found_again,
    kind_of_resampling,
    of_one_shape,
    resampled,
    trajectories,
)

KEY = jax.random.key(0)
TAU = 0.5
SLOPE = FeatureSettings(degree=1, total_degree=1, radial="none", regularization=0.0)
SMALL = NetworkSettings(epochs=3, batch_size=20, hidden=(4,))


def moved(n=60, steps=2, noise=0.3, seed=0):
    """Cells in the plane that drift by (1, 0) per unit time."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(n, 2))]
    for _ in range(steps):
        x.append(x[-1] + [TAU, 0.0] + noise * np.sqrt(TAU) * rng.normal(size=(n, 2)))
    return x


def population(sizes=(60, 60, 60), **changes):
    return snapshots_from_arrays(
        [x[:n] for x, n in zip(moved(max(sizes), len(sizes) - 1, **changes), sizes, strict=True)],
        dt=TAU,
    )


def linear(snapshots, **changes):
    changes = {"features": SLOPE, "bootstrap": 200, **changes}
    return fit(snapshots, "jkonet-star-linear-potential", key=KEY, **changes)


def drifts(energy):
    return np.asarray(jax.vmap(lambda e: e.drift(np.zeros((1, 2)))[0])(energy.replicates))


def test_snapshots_that_are_resampled_alone_spread_a_mean_as_two_samples_do():
    snapshots = population()
    found = drifts(linear(snapshots, resample="snapshots"))
    # A linear V has the mean velocity for its drift, whatever the coupling; the middle snapshot ends
    # one step and begins the other, and falls out of the mean over both.
    first, _, last = snapshots.arrays()
    variance = (first.var(axis=0) + last.var(axis=0)) / len(first) / (2 * TAU) ** 2
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(variance), rtol=0.15)
    np.testing.assert_allclose(
        found.mean(axis=0), (last - first).mean(axis=0) / (2 * TAU), atol=0.04
    )


def test_trajectories_spread_a_mean_as_paired_differences_do():
    snapshots = population()
    energy = linear(snapshots, resample="trajectories")
    problem = prepare(snapshots, "jkonet-star-linear-potential", key=KEY)
    rows = trajectories(problem.couplings, (3, 60))
    points = np.asarray(problem.snapshots.points)
    difference = points[2, rows[2]] - points[0, rows[0]]
    expected = difference.std(axis=0) / np.sqrt(60) / (2 * TAU)
    np.testing.assert_allclose(drifts(energy).std(axis=0), expected, rtol=0.15)


def test_networks_are_resampled_as_linear_energies_are():
    found = fit(
        population(),
        key=KEY,
        bootstrap=25,
        resample="snapshots",
        network=NetworkSettings(epochs=80, batch_size=40, hidden=(8,)),
    )
    mean = np.asarray(
        jax.vmap(lambda e: e.drift(population().points[0]).mean(axis=0))(found.replicates)
    )
    first, _, last = population().arrays()
    variance = (first.var(axis=0) + last.var(axis=0)) / len(first) / (2 * TAU) ** 2
    np.testing.assert_allclose(mean.std(axis=0), np.sqrt(variance), rtol=0.4)


def test_what_is_drawn_is_found_out():
    def kind(snapshots):
        problem = prepare(snapshots, "jkonet-star-linear-potential", key=KEY)
        energy = linear(snapshots, bootstrap=0)
        return kind_of_resampling(problem, energy, "auto"), found_again(problem, energy)

    # Hardly any noise: a cell is nearest to its own prediction; other cells are not.
    assert kind(population(noise=1e-4)) == ("trajectories", 1.0)
    others = [moved(noise=1e-4, seed=seed)[seed] for seed in range(3)]
    what, share = kind(snapshots_from_arrays(others, dt=TAU))
    assert what == "snapshots"
    assert share < 0.5
    assert kind(population((60, 59, 60), noise=1e-4))[0] == "snapshots"


@pytest.mark.parametrize("solver", ["jkonet-star-potential", "jkonet-star-linear-potential"])
def test_a_bootstrap_repeats_itself_compiles_nothing_anew_and_leaves_the_energy_as_it_is(
    solver, caplog
):
    def run(bootstrap, seed=0):
        return fit(
            population((30, 30), seed=seed),
            solver,
            key=KEY,
            bootstrap=bootstrap,
            network=SMALL,
            features=FeatureSettings(degree=2, radial="none", regularization=0.1),
            resample="trajectories",
        )

    first = run(19)
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, logger="jax"):
        run(19, seed=1)
        second, without = run(19), run(0)
    assert [r.getMessage()[:80] for r in caplog.records if "ompil" in r.getMessage()] == []
    assert without.replicates is None
    for one, two in ((first, without), (first.replicates, second.replicates)):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scheme", ["explicit", "midpoint"])
def test_unequal_snapshots_have_replicates_of_one_shape(scheme):
    snapshots = population((40, 50, 45))
    problem = prepare(snapshots, "jkonet-star-potential", key=KEY, scheme=scheme)

    def again(own, **settings):
        return prepare(own, "jkonet-star-potential", scheme=scheme, **settings)

    found = resampled(problem, again, "snapshots", 4, key=KEY)
    shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(p.conditions)) for p in found}
    assert len(shapes) == 1
    for one in found:
        own = one.conditions
        mass = np.bincount(np.asarray(own.step), np.asarray(own.weight))
        np.testing.assert_allclose(mass, 1.0, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(own.population_weights).sum(axis=1), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(
            np.count_nonzero(np.asarray(one.snapshots.weights), axis=1), [40, 50, 45]
        )
        kept = {tuple(row) for array in snapshots.arrays() for row in array}
        assert {tuple(row) for array in one.snapshots.arrays() for row in array} < kept
    # What is filled in changes no loss.
    short, long = of_one_shape([found[0], problem])[0].conditions, found[0].conditions
    assert short.point.shape[0] >= long.point.shape[0]
    for one in (short, long):
        np.testing.assert_allclose(
            np.asarray(one.weight) @ np.asarray(one.displacement),
            np.asarray(found[0].conditions.weight) @ np.asarray(found[0].conditions.displacement),
            rtol=1e-6,
        )


def estimated(snapshots, **changes):
    """A problem with an estimate of beta."""
    problem = prepare(snapshots, "jkonet-star-linear-potential", key=KEY, features=SLOPE)
    estimate = InternalEstimate(
        beta=0.5,
        standard_error=0.1,
        paired=True,
        gain=0.0,
        drift_coefficients=np.array([-1.0, 0.25]),
        iterations=1,
        converged=True,
        **changes,
    )
    return dataclasses.replace(problem, internal=estimate)


def test_an_estimated_beta_is_drawn_by_its_error():
    def again(own, **settings):
        return prepare(own, "jkonet-star-linear-potential", features=SLOPE, **settings)

    problem = estimated(population((20, 20)))
    energy = linear(population((20, 20)), bootstrap=0)
    assert kind_of_resampling(problem, energy, "auto") == "trajectories"
    found = resampled(problem, again, "trajectories", 200, key=KEY)
    betas = np.array([p.internal.beta for p in found])
    np.testing.assert_allclose([betas.mean(), betas.std()], [0.5, 0.1], rtol=0.15)


def test_a_drift_of_the_weak_form_is_drawn_by_its_covariance():
    # At unit scale an error of beta of .05 is one of .1 in the units of the data.
    covariance = np.array([[0.0025, 0.001], [0.001, 0.04]])
    drift = WeakFormDrift(
        np.array([-1.0, 0.25]), 0.25, np.array([0]), covariance, 0.0, 0.0, 1, True, 0.0
    )
    problem = estimated(population((20, 20)), drift=drift)
    energy = linear(population((20, 20)), bootstrap=0)
    own = WeakFormEnergy(
        energy.model,
        split_coefficients(energy.model, drift.theta),
        energy.constants,
    )
    problem = dataclasses.replace(problem, weak_form=own)
    assert kind_of_resampling(problem, energy, "snapshots") == "coefficients"
    found = resampled(problem, lambda: None, "coefficients", 500, key=KEY)
    beta = np.array([p.internal.beta for p in found])
    theta = np.array([np.asarray(p.weak_form.params["potential"]) for p in found])
    np.testing.assert_array_equal(theta[:, 1], np.float32(0.25))
    np.testing.assert_allclose([beta.std(), theta[:, 0].std()], [0.1, 0.2], rtol=0.1)
    assert np.corrcoef(beta, theta[:, 0])[0, 1] == pytest.approx(0.1, abs=0.1)
    # Networks are fitted to the drift that was drawn.
    one = found[0]
    missed, _ = residuals(*one.weak_form, one.conditions, jnp.arange(20))
    np.testing.assert_allclose(missed, 0.0, atol=1e-5)


def test_the_report_says_what_was_drawn_and_how_many_replicates_diverged(monkeypatch):
    kept = jkonet_star.solvers.bootstrap.learn

    def diverging(*arguments, **settings):
        learned = kept(*arguments, **settings)
        losses = np.array(learned.losses)
        losses[3, -1], losses[7, -2:] = np.nan, 1e6
        return learned._replace(losses=losses)

    snapshots = population((30, 30))
    learn = functools.partial(
        fit, snapshots, key=KEY, bootstrap=19, resample="snapshots", network=SMALL
    )
    sound = learn().report
    assert (sound.bootstrap.resampled, sound.bootstrap.diverged) == ("snapshots", 0)
    assert "19 energies of resampled snapshots" in repr(sound)
    monkeypatch.setattr("jkonet_star.solvers.bootstrap.learn", diverging)
    with pytest.warns(UserWarning, match="2 of the 19 replicates diverged"):
        report = learn().report
    assert report.bootstrap.diverged == 2
    assert any("2 of the 19 replicates diverged" in line for line in report.warnings)
    assert report.members[0].diverged is None


def test_trajectories_that_couplings_do_not_tell_are_refused_before_anything_is_learned(
    monkeypatch,
):
    problem = estimated(population((20, 20)))
    # Every particle goes in two parts, as in an entropic plan.
    halves = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), problem.couplings)
    split = dataclasses.replace(problem, couplings=halves)

    def learned(*arguments, **settings):
        raise AssertionError("nothing was to be learned")

    monkeypatch.setattr("jkonet_star.fitting.learn", learned)
    monkeypatch.setattr("jkonet_star.fitting.prepare", lambda *arguments, **settings: split)
    with pytest.raises(ValueError, match="couplings are not one to one"):
        linear(population((20, 20)))
    # Snapshots need no trajectories, nor does a fit without replicates.
    for changes in ({"resample": "snapshots"}, {"bootstrap": 0}):
        with pytest.raises(AssertionError, match="nothing was to be learned"):
            linear(population((20, 20)), **changes)


def test_what_has_no_bootstrap_is_refused_in_one_line():
    snapshots = population((20, 20))
    given = prepare(snapshots, "jkonet-star-potential", key=KEY).couplings
    wide = dataclasses.replace(SMALL, hidden=(20_000, 20_000))
    refused = [
        ("bootstrap is of network and linear energies", {"solver": "jkonet"}),
        ("got 2 seeds", {"key": jax.random.split(KEY, 2)}),
        (
            "refine must be 0",
            {"solver": "jkonet-star-linear", "refinement": RefinementSettings(refine=5)},
        ),
        ("couples and fits densities anew", {"couplings": given}),
        ("at least 19, got 18", {"bootstrap": 18}),
        ("resample", {"resample": "cells"}),
        ("unequal counts", {"snapshots": population((20, 19)), "resample": "trajectories"}),
        ("not enough memory", {"bootstrap": 10_000, "network": wide}),
    ]
    for message, changes in refused:
        with pytest.raises(ValueError, match=message) as error:
            fit(
                **{"snapshots": snapshots, "key": KEY, "bootstrap": 19, "network": SMALL, **changes}
            )
        assert "\n" not in str(error.value)
