"""`solver="auto"`: what the data choose."""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jkonet_star.fitted import FittedEnergy
from jkonet_star.fitting import fit
from jkonet_star.settings import GrowthSettings, NetworkSettings, RefinementSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.solvers import choice as choice_module
from jkonet_star.solvers.choice import (
    Auto,
    _hardest_to_tell,
    _Outcome,
    _taken,
    candidates,
    with_room,
)
from jkonet_star.solvers.first_order import jko_loss
from jkonet_star.solvers.held_out import (
    ENOUGH_HELD_OUT,
    HeldOutDistances,
    WeightedParticles,
    held_out_splits,
)
from jkonet_star.solvers.learning import train
from jkonet_star.solvers.problem import prepare
from jkonet_star.trajectories import WeightedTrajectory

KEY = jax.random.key(0)
# What compiles is the same for all tests that have the same settings and as many particles.
NETWORK = NetworkSettings(epochs=300, hidden=(16,), batch_size=100)
REFINEMENT = RefinementSettings(refine=100, refine_batch_size=64)
BRIEF = NetworkSettings(epochs=2, hidden=(8,))
BRIEF_REFINEMENT = RefinementSettings(refine=2, refine_batch_size=16)


@pytest.fixture
def narrow(monkeypatch):
    """The wide network as one that compiles fast."""
    monkeypatch.setattr(choice_module, "WIDE", (24,))


def course(velocities, n=400, seed=0):
    """Independent snapshots of N(m_k, 1) in the plane, m moving at a velocity of each step."""
    rng = np.random.default_rng(seed)
    means = np.concatenate([np.zeros((1, 2)), np.cumsum(velocities, axis=0)])
    return snapshots_from_arrays(
        [m + rng.normal(size=(n, 2)) for m in means], np.arange(float(len(means)))
    )


def test_a_motion_that_turns_back_needs_time(narrow):
    """One V(x) cannot push to the right and to the left at the same place."""
    snapshots = course([[2.0, 0.0], [-2.0, 0.0]])
    energy = fit(snapshots, "auto", key=KEY, network=NETWORK, refinement=REFINEMENT)
    assert energy.model.time_varying
    middle = np.asarray([[0.0, 0.0], [2.0, 0.0]])
    drift = [np.asarray(energy.drift(middle[k : k + 1], t=float(k)))[0, 0] for k in (0, 1)]
    assert drift[0] > 1
    assert drift[1] < -1
    compared = {row.name: row for row in energy.report.compared}
    assert len(compared) == 5
    sizes = [row.parameters for row in energy.report.compared]
    assert sizes == sorted(sizes)
    assert sum(row.chosen for row in compared.values()) == 1
    still, moving = compared["V(x)"], compared["V(x, t)"]
    assert still.energy_distance > moving.energy_distance + still.standard_error
    assert "chosen out of 5 by held-out particles" in repr(energy)


def test_the_simplest_within_one_error_of_the_best_is_taken(narrow):
    snapshots = course([[1.0, 0.5], [1.0, 0.5]])
    energy = fit(snapshots, "auto", key=KEY, network=NETWORK, refinement=REFINEMENT)
    rows = energy.report.compared
    least = min(row.energy_distance for row in rows)
    near = [row for row in rows if row.energy_distance <= least + row.standard_error]
    told = max(0.5, min(row.c2st for row in near))
    # A hundred held out of each, both sides, two steps, and as many others once more.
    told += np.sqrt(2 * told * (1 - told) / 800) / 2
    near = [row for row in near if row.c2st <= told]
    assert [row.chosen for row in rows] == [row is near[0] for row in rows]
    assert energy.model.time_varying == ("t" in near[0].name)
    assert (energy.model.internal == "learned") == ("noise" in near[0].name)
    # One V(x) is all that this motion needs.
    assert rows[0].energy_distance <= least + 3 * rows[0].standard_error


def test_the_choice_depends_neither_on_units_nor_on_the_order_of_particles(narrow):
    rng = np.random.default_rng(1)
    snapshots = course([[2.0, 0.0], [-2.0, 0.0]], n=80)
    settings = RefinementSettings(refine=4, refine_batch_size=32)

    def compared(points, times):
        problem = prepare(snapshots_from_arrays(points, times), "auto", key=KEY)
        auto = Auto(network=NetworkSettings(epochs=4, hidden=(16,)))
        return auto.choose(problem, key=KEY, refinement=settings).compared

    points = snapshots.arrays()
    own = compared(points, [0.0, 1.0, 2.0])
    moved = compared([rng.permutation(7.0 * x - 300.0) for x in points], [10.0, 13.0, 16.0])
    for one, two in zip(own, moved, strict=True):
        assert two.energy_distance / 7.0**0.5 == pytest.approx(one.energy_distance, rel=2e-3)
        assert two.standard_error / 7.0**0.5 == pytest.approx(
            one.standard_error, rel=2e-2, abs=1e-6
        )
        assert two.chosen == one.chosen


@pytest.fixture(scope="module")
def unlike():
    """Two energies of the same data, one hardly trained."""
    snapshots = course([[1.0, 0.0]], n=100)
    return tuple(
        fit(snapshots, key=KEY, network=NetworkSettings(epochs=epochs, hidden=(8,)))
        for epochs in (1, 30)
    )


def test_the_error_of_a_difference_is_that_of_new_particles(unlike):
    """Equation (2) against the deviation over independent held-out samples."""
    one, two = unlike
    differences, errors = [], []
    for seed in range(60):
        held = [
            WeightedParticles(x, np.full(80, 1 / 80))
            for x in course([[1.0, 0.0]], n=80, seed=100 + seed).arrays()
        ]
        a, b = HeldOutDistances([(one, held)]), HeldOutDistances([(two, held)])
        differences.append(a.mean - b.mean)
        errors.append(a.error_of_difference(b))
    assert np.mean(errors) == pytest.approx(np.std(differences, ddof=1), rel=0.25)
    assert HeldOutDistances([(one, held)]).error_of_difference(HeldOutDistances([(one, held)])) == 0


def test_a_weight_counts_as_that_many_particles(unlike):
    energy, other = unlike
    rng = np.random.default_rng(3)
    points = [rng.normal(size=(50, 2)) + [k, 0] for k in (0.0, 1.0)]
    counts = [rng.integers(1, 4, size=50) for _ in points]
    light = [WeightedParticles(x, c / c.sum()) for x, c in zip(points, counts, strict=True)]
    one, two = HeldOutDistances([(energy, light)]), HeldOutDistances([(other, light)])
    z = np.asarray(energy.predict(points[0], 1)[-1])
    a, b = light[0].weights, light[1].weights
    expected = (
        2 * a @ cdist(z, points[1]) @ b
        - a @ cdist(z, z) @ a / (1 - a @ a)
        - b @ cdist(points[1], points[1]) @ b / (1 - b @ b)
    )
    assert one.mean == pytest.approx(expected, rel=1e-9)
    even = [WeightedParticles(x, np.full(50, 0.02)) for x in points]
    assert one.mean != HeldOutDistances([(energy, even)]).mean
    assert 0 < one.error_of_difference(two) < 1


def test_what_is_hardest_to_tell_from_the_observed_is_taken_and_the_first_of_those_alike():
    class Told(HeldOutDistances):
        def __init__(self, accuracy, answers=1000):
            self.accuracy, self.answers = accuracy, answers

    assert _hardest_to_tell([Told(0.60), Told(0.53), Told(0.52)]) == 1  # (3): .52 + .011
    assert _hardest_to_tell([Told(0.57, 40), Told(0.53, 40), Told(0.52, 40)]) == 0  # .52 + .056
    assert _hardest_to_tell([Told(0.60), Told(0.55), Told(0.52)]) == 2
    assert _hardest_to_tell([Told(np.nan, 8), Told(np.nan, 8)]) == 0


def test_where_nothing_is_finite_it_is_said(narrow, monkeypatch):
    def nowhere(energy, x, *_, weights, **__):
        lost = np.full((2, *x.shape), np.nan)
        return WeightedTrajectory(lost, np.stack([weights] * 2), np.ones((1, len(x)), bool))

    monkeypatch.setattr(FittedEnergy, "predict_weighted", nowhere)
    with pytest.raises(ValueError, match="predicts anything finite"):
        fit(
            course([[1.0, 0.0]], n=40),
            "auto",
            key=KEY,
            network=BRIEF,
            refinement=BRIEF_REFINEMENT,
        )


def test_candidates_multiply_where_the_population_does(narrow):
    """Two clusters that rest, and of which one grows."""
    rng = np.random.default_rng(0)
    snapshots = snapshots_from_arrays(
        [
            rng.normal(size=(160, 2)) + np.where(rng.random((160, 1)) < share, 4.0, -4.0)
            for share in (0.3, 0.7)
        ]
    )

    def distance(growth):
        problem = prepare(snapshots, "auto", key=KEY, growth=growth)
        auto = Auto(network=BRIEF)
        found = auto.choose(problem, key=KEY, refinement=BRIEF_REFINEMENT, growth=growth)
        return found.compared[0].energy_distance

    assert distance(GrowthSettings()) < 0.3 * distance(None)


def test_other_particles_are_held_out_once_more_where_they_are_few():
    uneven = course([[1.0, 0.0]], n=100).arrays()
    few = held_out_splits(snapshots_from_arrays([uneven[0][:40], uneven[1]]), KEY)
    many = held_out_splits(course([[1.0, 0.0]], n=2 * ENOUGH_HELD_OUT), KEY)
    assert [len(few), len(many)] == [2, 1]
    for learned, held in (*few, *many):
        np.testing.assert_allclose(np.sum(learned.weights, axis=1), 1, rtol=1e-6)
        for x, own in zip(learned.arrays(), held, strict=True):
            assert len(x) == 3 * len(own.points)
            assert not {tuple(row) for row in x} & {tuple(row) for row in own.points}
    first, second = ({tuple(row) for row in held[0].points} for _, held in few)
    assert not first & second


def test_too_few_particles_are_named():
    with pytest.raises(ValueError, match="snapshot 0 has 12.*name a solver"):
        fit(course([[1.0, 0.0]], n=12), "auto", key=KEY, network=NETWORK)


def test_a_choice_is_found_again_by_its_table(narrow):
    problem = prepare(course([[1.0, 0.0]], n=40), "auto", key=KEY)
    auto = Auto(network=NetworkSettings(epochs=2, hidden=(8,)))
    settings = RefinementSettings(refine=2, refine_batch_size=16)
    names = []
    made = auto.choose(problem, key=KEY, refinement=settings, on_candidate=names.append)
    assert sorted(names) == sorted(row.name for row in made.compared)
    assert auto.chosen_before(made.compared, settings, made.held_out) == made
    assert len(made.lines()) == 6
    assert made.lines()[1 + [r.chosen for r in made.compared].index(True)].endswith("<- chosen")
    with pytest.raises(ValueError, match="no candidate is called"):
        auto.chosen_before(made.compared[:0], settings, made.held_out)


def test_what_was_chosen_is_learned_again_from_resampled_particles(narrow):
    """All as it was, by a choice that is not made again."""
    snapshots = course([[2.0, 0.0], [-2.0, 0.0]], n=80)
    settings = {"key": KEY, "network": BRIEF, "refinement": BRIEF_REFINEMENT}
    energy = fit(snapshots, "auto", bootstrap=19, **settings)
    plain = fit(snapshots, "auto", **settings)
    for one, other in zip(jax.tree.leaves(energy), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(energy.replicates.times) == 19
    assert energy.replicates.model == energy.model
    assert energy.report.bootstrap.resampled == "snapshots"
    x = np.zeros((1, 2))
    drifts = [np.asarray(energy.replicates.member(i).drift(x, t=0.0)) for i in range(19)]
    assert np.ptp(drifts, axis=0).min() > 0


def test_epochs_follow_from_gradient_steps_and_are_bounded_by_the_settings():
    problem = prepare(course([[1.0, 0.0]], n=100), "auto", key=KEY)
    n_pairs = problem.conditions.point.shape[0]
    first = candidates(NetworkSettings(batch_size=50))[0]
    for optimizer, steps in choice_module.CHOSEN_STEPS.items():
        network = NetworkSettings(batch_size=50, optimizer=optimizer)
        own = candidates(network)[0].training(problem).solver
        assert own.epochs == min(choice_module.MOST_EPOCHS, -(-steps // -(-n_pairs // 50)))
        assert own.network.optimizer == optimizer
    assert first.training(problem).solver.network.optimizer == "soap"
    few = candidates(NetworkSettings(batch_size=50, epochs=3))[0]
    assert few.training(problem).solver.epochs == 3
    with pytest.raises(TypeError, match="made by choose"):
        Auto().prepare(problem)


def test_room_changes_neither_the_loss_nor_its_gradient():
    problem = prepare(course([[1.0, 0.0]], n=100), "auto", key=KEY)
    wide = with_room(problem)
    n_pairs, count = problem.conditions.point.shape[0], wide.conditions.point.shape[0]
    assert count % choice_module.ROOM == 0
    assert count > n_pairs
    candidate = candidates(NetworkSettings(hidden=(8,)))[1]
    training = candidate.training(problem)
    model, units = training.solver.model(training.data), training.data.units
    params = jax.tree.map(lambda leaf: leaf[0], training.initial(KEY[None]).params)

    def loss(params, conditions):
        rows = jax.numpy.arange(conditions.point.shape[0])
        return jko_loss(model, params, units, conditions, rows, speed=units.speed)

    one = jax.value_and_grad(loss)(params, problem.conditions)
    two = jax.value_and_grad(loss)(params, wide.conditions)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["V(x)", "V(x, t)", "V(x, t), noise", "V(x), half the noise"])
def test_what_is_returned_is_the_function_that_was_trained(name):
    problem = prepare(course([[1.0, 0.0]], n=60), "auto", key=KEY)
    plain = candidates(BRIEF)
    noisy = (plain[1].with_noise(), plain[0].with_half_the_noise(0.04))
    candidate = next(c for c in (*plain, *noisy) if c.name == name)
    start, _ = train(candidate.training(problem), KEY[None])
    refining = candidate.refining(RefinementSettings(refine=3), problem, start)
    trained, _ = train(refining, KEY[None])
    energy = candidate.plain(trained, problem).member(0)
    trained = trained.member(0)
    x = np.random.default_rng(0).normal(size=(20, 2))
    for t in (0.0, 1.5):
        np.testing.assert_allclose(
            energy.potential(x, t), trained.potential(x, t), rtol=1e-5, atol=1e-6
        )
    assert float(energy.beta) == float(trained.beta)
    if candidate.beta is not None:
        assert float(energy.beta) == pytest.approx(candidate.beta, rel=1e-5)
    assert (float(energy.beta) > 0) == candidate.noise
    assert energy.model.time_varying == candidate.time_varying
    assert (energy.model.internal == "learned") == candidate.noise
    moving = bool(np.any(energy.potential(x, 0.0) != energy.potential(x, 1.5)))
    assert moving == candidate.time_varying
    assert np.isfinite(np.asarray(energy.constants.time_step))


def outcome(mean, accuracy, error=0.1):
    judged = object.__new__(HeldOutDistances)
    vars(judged).update(
        mean=mean, accuracy=accuracy, answers=100_000, error_of_difference=lambda other: error
    )
    return _Outcome(candidates(BRIEF)[0], 1, None, judged)


def test_of_candidates_that_are_near_the_hardest_to_tell_is_taken_and_of_these_the_simplest():
    far, coarse, fine, best = (
        outcome(1.0, 0.50), outcome(0.05, 0.60), outcome(0.08, 0.52), outcome(0.0, 0.52)
    )  # fmt: skip
    assert _taken([far, coarse, fine, best])[0] == 2
    assert _taken([far, coarse, best])[0] == 2
    assert _taken([outcome(np.inf, np.nan, np.nan), best])[0] == 1
    assert _taken([outcome(0.0, 0.5, np.nan)])[0] == 0  # whose own error nobody knows
    with pytest.raises(ValueError, match="learning_rate"):
        _taken([outcome(np.inf, np.nan)])


def test_noise_goes_to_the_candidate_that_would_be_taken(narrow, monkeypatch):
    """Not to the one of least distance: held-out particles tell its structure better."""
    problem = prepare(course([[1.0, 0.0]], n=40), "auto", key=KEY)
    monkeypatch.setattr(choice_module, "_taken", lambda compared: (0, [0.0] * len(compared)))
    found = Auto(network=BRIEF).choose(problem, key=KEY, refinement=BRIEF_REFINEMENT)
    names = [row.name for row in found.compared if "noise" in row.name]
    assert names
    assert all(name.startswith("V(x), ") for name in names)
