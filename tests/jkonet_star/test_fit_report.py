"""What an energy knows of how it was made, and that this is in nobody's way."""

import dataclasses
import json
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.checks import record
from jkonet_star.densities import density_report, fit_densities
from jkonet_star.diagnostics import Explanation
from jkonet_star.fit_report import MOST_LOSSES, ClosedFormReport, FitReport, fit_report
from jkonet_star.fitting import fit
from jkonet_star.settings import (
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    NetworkSettings,
)
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.problem import prepare
from jkonet_star.transport.couplings import couple, coupled_steps

KEY = jax.random.key(0)
FEATURES = FeatureSettings(degree=2, radial="none")
LINEAR, NETWORK = "jkonet-star-linear-potential", "jkonet-star-potential"


def contracting(n=40, steps=2):
    """Towards (4, 4), a quarter of the way in every step."""
    x = np.random.default_rng(0).uniform(-2, 2, (n, 2))
    return snapshots_from_arrays([4 + 0.75**k * (x - 4) for k in range(steps + 1)], dt=0.25)


@pytest.fixture(scope="module")
def linear():
    return fit(contracting(), LINEAR, key=KEY, features=FEATURES)


@pytest.fixture(scope="module")
def stack():
    """Two networks, of which neither stays sound."""
    network = NetworkSettings(epochs=3, batch_size=20, hidden=(4,), learning_rate=1e6)
    with pytest.warns(UserWarning, match="training diverged") as said:
        energies = fit(contracting(), NETWORK, key=jax.random.split(KEY, 2), network=network)
    return energies, [str(warning.message) for warning in said]


def test_a_closed_form_knows_how_it_was_made(linear):
    report = linear.report
    assert (report.solver, report.scheme, report.epochs) == (LINEAR, "explicit", 0)
    for step in report.couplings:
        assert (step.method, step.pairs, step.converged, step.mass_kept) == ("exact", 40, True, 1.0)
        assert step.marginal_error < 1e-6
    assert len(report.couplings) == 2
    assert report.closed_form.n_features == 8  # x^i y^j with i, j up to 2, without the constant
    assert report.closed_form.relative_residual < 1e-3
    assert report.explained()[0] > 0.9
    assert (report.beta, report.density, report.warnings) == (None, None, [])
    assert linear.diverged is None
    text = repr(linear)
    assert text.startswith("FittedEnergy(V in dimension 2, explicit scheme,\n")
    assert f"{LINEAR}, solved,\n" in text
    assert "of the motion" in text
    assert text.count("\n") < 9


def test_a_report_is_json_and_comes_back(linear, stack):
    for energy in (linear, stack[0], stack[0].member(1)):
        text = json.dumps(dataclasses.asdict(energy.report), allow_nan=False)
        assert record(FitReport, json.loads(text)) == energy.report
    later = {**json.loads(text), "of a later release": 1}
    assert record(FitReport, later) == energy.report


def test_what_went_wrong_is_in_the_report_and_in_repr(stack):
    energies, said = stack
    report = energies.report
    assert report.diverged == energies.diverged == (1, 1)
    assert report.warnings == said
    assert (report.epochs, report.batch_size, report.loss_epochs) == (3, 20, [1, 2, 3])
    assert (report.optimizer, report.learning_rate) == ("soap", 1e6)
    assert "3 epochs of soap from 1e+06" in repr(energies)
    assert report.explained() == [None, None]
    assert "DIVERGED in epoch 1, 1" in repr(energies)
    assert "1 in report.warnings" in repr(energies)


def test_each_member_has_its_own_part(stack):
    energies, _ = stack
    first, second = energies.report.members
    assert first.losses != second.losses
    assert energies.member(1).report == dataclasses.replace(energies.report, members=[second])
    assert energies.member(-1).diverged == 1
    assert "DIVERGED in epoch 1," in repr(energies.member(0))
    assert "a stack of 2" not in repr(energies.member(0))


def test_losses_are_those_that_were_reported():
    """And seeds that are judged one by one."""
    network = NetworkSettings(epochs=2, batch_size=20, hidden=(4,), learning_rate=1e-3)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        energies = fit(
            contracting(),
            NETWORK,
            key=jax.random.split(KEY, 2),
            network=network,
            on_progress=lambda epoch, scalars: seen.append(float(scalars["loss"])),
        )
    losses = [member.losses for member in energies.report.members]
    np.testing.assert_allclose(np.mean(losses, axis=0), seen, rtol=1e-6)
    assert energies.diverged == (None, None)
    left = [member.motion_left for member in energies.report.members]
    shares = [1 - value / energies.report.motion for value in left]
    assert energies.report.explained() == pytest.approx(shares)


@pytest.fixture(scope="module")
def problem():
    return prepare(contracting(), LINEAR, key=KEY)


def test_few_losses_of_many_epochs_are_kept(problem):
    losses = np.stack([np.arange(1, 1002.0), np.full(1001, np.nan)])
    report = fit_report(problem, NETWORK, diverged=(None, 7), losses=losses)
    assert len(report.loss_epochs) == MOST_LOSSES
    assert (report.loss_epochs[0], report.loss_epochs[-1], report.epochs) == (1, 1001, 1001)
    assert report.members[0].losses == report.loss_epochs
    assert report.members[1].losses == [None] * MOST_LOSSES
    assert len(repr(report)) < 500


def test_numbers_without_end_are_none_or_the_largest(problem):
    solved = ClosedFormReport(
        n_features=1,
        rank=1,
        condition_number=math.inf,
        regularization=0.0,
        interaction_factor=1.0,
        relative_residual=1e-60,
    )
    explained = Explanation(no_motion=0.5, predicted=[math.nan], chance=0.1)
    report = fit_report(problem, LINEAR, diverged=(None,), closed_form=solved, explained=explained)
    assert 1e308 < report.closed_form.condition_number < math.inf
    assert report.members[0].motion_left is None
    assert report.explained() == [None]
    assert record(FitReport, json.loads(json.dumps(dataclasses.asdict(report)))) == report


def test_couplings_made_elsewhere_are_measured():
    snapshots = contracting(4, steps=1)
    couplings, reports = couple(snapshots, key=KEY)
    (known,) = coupled_steps(couplings, snapshots, reports)
    (given,) = prepare(snapshots, LINEAR, key=KEY, couplings=couplings).coupled
    assert (given.method, given.converged, given.mass_kept) == ("given", None, None)
    assert given.marginal_error == pytest.approx(known.marginal_error, abs=1e-6)
    told = prepare(snapshots, LINEAR, key=KEY, couplings=couplings, coupling_reports=reports)
    assert told.coupled[0].method == "exact"
    # Three of four pairs: 1/3 for 1/4 three times, and nothing for 1/4 once, on both sides.
    fewer = jax.tree.map(lambda leaf: leaf[:3], couplings)
    (lacking,) = coupled_steps(fewer, snapshots)
    assert lacking.marginal_error == pytest.approx(2 * (3 / 12 + 1 / 4))
    assert lacking.pairs == 3


def test_transport_that_did_not_converge_is_not_only_logged():
    settings = CouplingSettings(method="sinkhorn", max_iterations=1, epsilon=0.05)
    energy = fit(contracting(), LINEAR, key=KEY, features=FEATURES, coupling_settings=settings)
    assert [step.method for step in energy.report.couplings] == ["sinkhorn", "sinkhorn"]
    assert not any(step.converged for step in energy.report.couplings)
    assert all(0 < step.mass_kept < 1 for step in energy.report.couplings)
    assert "2 NOT converged" in repr(energy)


def test_densities_and_beta_are_reported():
    generator = np.random.default_rng(0)
    # Their laws differ: of one law beta would not be known.
    points = [0.6**k * generator.normal(size=(60, 1)) for k in range(3)]
    snapshots = snapshots_from_arrays(points, dt=1.0)
    energy = fit(
        snapshots,
        "jkonet-star-linear-potential-internal",
        key=KEY,
        features=FEATURES,
        density_settings=DensitySettings(n_components=2),
    )
    report = energy.report
    assert dataclasses.asdict(report.density) == {"kind": "gaussian-mixtures", "components": 2}
    assert report.beta.value == pytest.approx(float(energy.beta), rel=1e-6)
    assert 0 < report.beta.standard_error < 1
    assert f"beta {report.beta.value:.4g} (standard error " in repr(energy)
    assert not report.beta.paired
    kernels = fit_densities(snapshots, DensitySettings(method="kde"), key=KEY)
    assert dataclasses.asdict(density_report(kernels)) == {
        "kind": "kernel-densities",
        "components": 60,
    }


def test_outliers_are_among_the_warnings():
    points = [0.75**k * np.random.default_rng(0).uniform(-2, 2, (200, 2)) for k in range(2)]
    points[1][0] = 1e4
    with pytest.warns(UserWarning, match="outliers decide the fit") as said:
        energy = fit(snapshots_from_arrays(points), LINEAR, key=KEY, features=FEATURES)
    assert energy.report.warnings == [str(warning.message) for warning in said]


def test_reports_are_no_part_of_the_tree(linear):
    """Energies that differ in them share programs, stacks and transformations."""
    other = linear.with_report(dataclasses.replace(linear.report, warnings=["another"]))
    bare = linear.with_report(None)
    assert jax.tree.structure(linear) == jax.tree.structure(other) == jax.tree.structure(bare)
    traced = []

    @jax.jit
    def twice(energy):
        traced.append(energy.report)
        return jax.tree.map(lambda leaf: 2 * leaf, energy)

    # What a program returns was not made by the fit of whichever energy was compiled first.
    assert [twice(energy).report for energy in (linear, other, bare)] == [None] * 3
    assert traced == [None]
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), linear, other)
    assert pair.report is None
    assert pair.diverged is None
    assert pair.member(0).report is None
    x = np.ones((3, 2))
    drifts = jax.vmap(lambda energy: energy.drift(x))(pair)
    np.testing.assert_allclose(drifts[0], linear.drift(x), rtol=1e-5)
    assert linear.replace(scheme="implicit").report is None


def test_the_same_energy_from_elsewhere_keeps_its_report(linear):
    far = snapshots_from_arrays([p + 1e6 for p in contracting().arrays()])
    assert linear.seen_from(far).report == linear.report


def test_a_report_of_another_number_of_energies_is_refused(linear, stack):
    with pytest.raises(ValueError, match=r"a report of 2 energies does not fit times of shape \(3"):
        linear.with_report(stack[0].report)
    with pytest.raises(ValueError, match=r"a report of 1 energies does not fit times of shape \(2"):
        stack[0].with_report(linear.report)
