"""What a fit says of its data: motion that no gradient explains, and outliers; else nothing."""

import jax
import numpy as np
import pytest

from data_generation.populations.particles import simulate
from jkonet_star.diagnostics import (
    Explanation,
    explanation,
    outlier_warning,
    outliers,
)
from jkonet_star.fitting import fit
from jkonet_star.settings import FeatureSettings, InternalSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers.linear import Linear
from jkonet_star.solvers.problem import prepare
from jkonet_star.solvers.side_by_side import SideBySide

KEY = jax.random.key(0)
SOLVER = "jkonet-star-linear-potential"
FEATURES = FeatureSettings(degree=3, radial="none")
N = 400


def explained(arrays, solver=SOLVER, dt=1.0):
    problem = prepare(snapshots_from_arrays(arrays, dt=dt), solver, key=KEY)
    training = SideBySide(Linear(terms=problem.terms, features=FEATURES), problem)
    return explanation(problem, training.energies(training.initial(KEY[None])))


def normal(seed, scale=(1.0, 1.0)):
    return np.random.default_rng(seed).normal(size=(N, 2)) * scale


def turned(x, degrees):
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return x @ rotation.T


@pytest.mark.parametrize("paired", [True, False])
def test_a_rotation_is_no_gradient_and_that_is_said(paired):
    """N(0, diag(4, 1)), turned by 30 degrees a step: no motion explains it as well."""
    arrays = [turned(normal(0 if paired else k, (2.0, 1.0)), 30 * k) for k in range(6)]
    found = explained(arrays)
    assert found.no_motion > found.chance
    assert found.predicted[0] > 0.8 * found.no_motion
    assert "does not explain the motion" in found.warning()
    with pytest.warns(UserWarning, match="does not explain the motion: its relative energy dist"):
        fit(snapshots_from_arrays(arrays), SOLVER, key=KEY, features=FEATURES)


def test_motion_there_and_back_is_no_gradient():
    arrays = [normal(k) + [3 * np.sin(k * np.pi / 2), 0.0] for k in range(5)]
    assert explained(arrays).unexplained() == [0]


def equilibrium(paired):
    x = [normal(0)]
    for k in range(1, 6):
        noise = normal(k)
        x.append(np.exp(-0.1) * x[-1] + np.sqrt(1 - np.exp(-0.2)) * noise if paired else noise)
    return x


QUIET = {
    "equilibrium": equilibrium(False),
    "equilibrium of the same particles": equilibrium(True),
    "contraction": [0.8**k * normal(0) for k in range(4)],
    "contraction of other particles": [0.8**k * normal(k) for k in range(4)],
    "a blob that goes round": [
        0.4 * normal(k) + 3 * np.array([np.cos(0.6 * k), np.sin(0.6 * k)]) for k in range(6)
    ],
    "a ring that turns": [
        2 * normal(k) / np.linalg.norm(normal(k), axis=1, keepdims=True) for k in range(5)
    ],
    "no motion": [normal(0)] * 3,
    "few particles": [turned(normal(0, (2.0, 1.0)), 30 * k)[:8] for k in range(4)],
    "one step": [normal(0), normal(1)],
}


@pytest.mark.parametrize("name", QUIET)
def test_of_what_a_gradient_explains_or_chance_nothing_is_said(name):
    assert explained(QUIET[name]).warning() is None
    assert outliers(snapshots_from_arrays(QUIET[name])) == []


@pytest.mark.parametrize("potential", ["sphere", "rotational", "relu", "holder_table"])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_nothing_is_said_of_simulated_energies(potential, beta):
    points = simulate(KEY, potential=potential, beta=beta, n_particles=N, unpaired=beta > 0)
    found = explained(list(np.asarray(points)), dt=0.01)
    assert found.warning() is None
    assert outliers(snapshots_from_arrays(points)) == []


@pytest.mark.parametrize("solver", ["jkonet-star-linear-potential-internal", "jkonet-star-linear"])
def test_noise_that_was_found_counts_as_explained(solver):
    """Particles from a point: their law at the end is nothing but noise."""
    x = [0.2 * normal(0)]
    for k in range(1, 4):
        x.append(x[-1] + normal(k))
    assert explained(x).no_motion > explained(x).chance
    assert explained(x, solver).warning() is None


def test_energies_of_a_stack_are_judged_one_by_one():
    judged = Explanation(no_motion=0.4, predicted=[0.1, 0.3, float("nan")], chance=0.01)
    assert judged.unexplained() == [1, 2]
    judged = Explanation(no_motion=0.001, predicted=[0.005, 0.02], chance=0.01)
    assert judged.unexplained() == [1]
    assert "(of energies [1])" in judged.warning()
    absurd = Explanation(no_motion=0.4, predicted=[float("nan")], chance=0.01)
    assert "not finite" in absurd.warning()


def test_a_particle_that_jumps_is_said():
    arrays = [0.9**k * normal(0) for k in range(5)]
    arrays[3] = arrays[3].copy()
    arrays[3][7] = 1e6
    snapshots = snapshots_from_arrays(arrays)
    (found,) = outliers(snapshots)
    assert found[:2] == (3, 1)
    assert 1e6 < found.ratio < 3e6
    with pytest.warns(UserWarning, match="outliers decide the fit: 1 particle of snapshot 3 up to"):
        fit(snapshots, SOLVER, key=KEY, features=FEATURES)


def test_many_outliers_make_one_line():
    arrays = [normal(k) for k in range(6)]
    for x in arrays:
        x[:2] = 300.0
    line = outlier_warning(outliers(snapshots_from_arrays(arrays)))
    assert "2 particles of snapshot 0 up to" in line
    assert line.endswith("; and in 3 more snapshots")
    assert "\n" not in line


def test_heavy_tails_and_small_groups_are_no_outliers(no_warning):
    generator = np.random.default_rng(0)
    heavy = [generator.standard_t(3, (10_000, 2)) for _ in range(6)]
    assert outliers(snapshots_from_arrays(heavy)) == []
    group = [np.concatenate([normal(k), normal(k)[:20] + 500]) for k in range(3)]
    assert outliers(snapshots_from_arrays(group)) == []
    still = [np.concatenate([np.zeros((300, 2)), normal(k)]) for k in range(3)]
    with no_warning():
        assert outliers(snapshots_from_arrays(still)) == []


def test_padding_is_not_looked_at():
    arrays = [normal(0), normal(1)[:50]]
    arrays[1][0] = 1e5  # its copies fill the rows that are missing
    (found,) = outliers(snapshots_from_arrays(arrays))
    alone = outliers(snapshots_from_arrays([arrays[1], arrays[1]]))[1]
    assert found[:2] == (1, 1)
    assert found == alone


@pytest.mark.parametrize("paired", [False, True])
def test_beta_of_one_law_is_known_by_pairs_alone(paired):
    """Of other particles, only the energy over beta is."""
    snapshots = snapshots_from_arrays(equilibrium(paired), dt=0.2)
    arguments = (snapshots, "jkonet-star-linear-potential-internal")
    given = {"key": KEY, "features": FeatureSettings(degree=2, total_degree=2, radial="none")}
    if paired:
        internal = InternalSettings(beta_estimator="paired")
        energy = fit(*arguments, **given, internal=internal)
        assert energy.report.beta.standard_error < 0.1 * float(energy.beta)
        assert not energy.report.warnings
        return
    with pytest.warns(UserWarning, match=r"beta \S+ is not determined: the laws do not change"):
        energy = fit(*arguments, **given)
    assert energy.report.beta.standard_error is None
    assert "standard error" not in str(energy.report)
