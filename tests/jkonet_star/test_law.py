"""A predicted law and its yardsticks: on an example by hand, shrunken, split, weighted, infinite."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star import law as law_module
from jkonet_star.evaluation import evaluate
from jkonet_star.fitting import fit
from jkonet_star.law import judge_law
from jkonet_star.settings import FeatureSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.transport.couplings import Couplings, couple
from jkonet_star.yardsticks import measure_yardsticks

REPEATS = 30
LINE = np.arange(6.0)[:, None]
"""Six learning particles, at 0 to 5."""


def pairs(*rows):
    step, source, target, weight = zip(*rows, strict=True)
    return Couplings(
        step=jnp.asarray(step),
        source=jnp.asarray(source),
        target=jnp.asarray(target),
        weight=jnp.asarray(weight, jnp.float32),
    )


def by_hand():
    """Learned from: x -> x + 10, the particles at 0 and 1 exchanged. Judged: shifted by 0.2."""
    learned = snapshots_from_arrays([LINE, LINE + 10.0], times=[1.0, 2.0])
    judged = snapshots_from_arrays([LINE + 0.2, LINE + 10.5], times=[1.0, 2.0])
    partners = [1, 0, 2, 3, 4, 5]
    return learned, judged, pairs(*((0, i, j, 1 / 6) for i, j in enumerate(partners)))


def test_the_yardsticks_of_an_example_are_those_by_hand():
    learned, judged, couplings = by_hand()
    predicted = np.asarray(judged.points[:1]) + 10.0
    found = judge_law(predicted, judged, learned_from=learned, couplings=couplings)
    # Every score compares sorted numbers: .2 + 10 with .5 + 10, and so on.
    assert found.w1.mean == pytest.approx(0.3, abs=1e-5)
    assert found.w1.no_motion == pytest.approx(10.3, abs=1e-5)
    assert found.w1.floor == pytest.approx(0.5, abs=1e-5)
    # .2 moves by 11 and 1.2 by 9: the same places, exchanged.
    assert found.w1.lookup == pytest.approx(0.3, abs=1e-5)
    # The mean of all six, since ten are not there: 10.
    assert found.w1.lookup_mean == pytest.approx(0.3, abs=1e-5)
    assert found.variance_ratio.mean == pytest.approx(1.0, abs=1e-5)
    assert found.w1.per_step_yardsticks["no_motion"] == pytest.approx([10.3], abs=1e-5)
    assert (found.n_compared, found.n_transported, found.halved) == ([6], [6], False)
    # Means of distances by hand: 2 E|X - Y| with Y = X + .3, and E|X - X'| of 0 to 5 is 7 / 3.
    cross = np.abs(LINE - LINE.T - 0.3).mean()
    assert found.energy_distance.mean == pytest.approx(2 * cross - 14 / 3, abs=1e-4)
    assert found.c2st.no_motion == 1.0


def test_partners_are_drawn_by_their_weight_and_averaged_by_it():
    start = np.repeat(LINE, 200, axis=0)[:1000]
    judged = snapshots_from_arrays([start, start], dt=1.0)
    rows = [(0, i, i, 0.75 / 6) for i in range(6)] + [(0, i, 6, 0.25 / 6) for i in range(6)]
    far = np.full((994, 1), 1e4)
    learned = snapshots_from_arrays([LINE, np.concatenate([LINE, far])], dt=1.0)
    beside = measure_yardsticks(judged, learned_from=learned, couplings=pairs(*rows))
    found = judge_law(np.asarray(judged.points[:1]), judged, beside=beside).w1
    # A quarter of the particles goes far away, about 1e4; or all go a quarter of the way.
    assert found.lookup == pytest.approx(2500, rel=0.2)
    assert found.lookup_mean == pytest.approx(2500, rel=1e-3)
    ratio = judge_law(np.asarray(judged.points[:1]), judged, beside=beside).variance_ratio
    assert ratio.lookup > 1e6
    assert ratio.lookup_mean < 2


def cloud(seed, n=300, d=3):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_prediction_that_shrinks_has_the_better_distance_and_is_found_out():
    # One step is no test, and a few need what is clear.
    learned, judged = (
        snapshots_from_arrays([cloud(5 * s + k, d=8) for k in range(5)], dt=1.0) for s in (0, 1)
    )
    couplings, _ = couple(learned, key=jax.random.key(0))
    shrunken = np.stack([0.7 * cloud(10 + k, d=8) for k in range(4)])
    found = judge_law(shrunken, judged, learned_from=learned, couplings=couplings)
    assert found.w1.mean < found.w1.floor
    assert found.c2st.mean > found.c2st.floor + 0.03
    assert found.variance_ratio.mean == pytest.approx(0.49, abs=0.05)
    assert abs(found.energy_distance.floor) < 0.02 < found.energy_distance.mean
    verdict = found.verdict()
    assert found.as_dict()["beaten"]
    assert "no motion beats this energy in energy distance (" in verdict
    assert "W1" not in verdict


def test_a_good_prediction_is_not_beaten():
    learned = snapshots_from_arrays([cloud(0), cloud(1) + 3.0], dt=1.0)
    judged = snapshots_from_arrays([cloud(2), cloud(3) + 3.0], dt=1.0)
    found = judge_law(np.asarray(judged.points[1:]), judged, learned_from=learned)
    assert found.verdict() == "the energy is better than no motion in every score"
    assert not found.as_dict()["beaten"]
    assert found.w1.mean == 0.0
    assert found.w1.lookup is None
    assert found.c2st.mean == pytest.approx(0.5, abs=0.06)


def test_a_difference_within_chance_is_no_defeat():
    steps = 6
    rng = np.random.default_rng(0)
    judged = snapshots_from_arrays([rng.normal(size=(100, 2)) for _ in range(steps + 1)], dt=1.0)
    found = judge_law(rng.normal(size=(steps, 100, 2)), judged)
    behind = found.behind()["no_motion"]
    assert behind, "some score is worse by chance"
    assert not any(behind.values())
    assert found.verdict().startswith("no motion is level with this energy in ")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_equal_laws_are_told_apart_no_oftener_than_chance(steps):
    beaten = 0
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        learned, judged = (
            snapshots_from_arrays(rng.normal(size=(steps + 1, 40, 2)), dt=1.0) for _ in range(2)
        )
        couplings = pairs(*((k, i, i, 1 / 40) for k in range(steps) for i in range(40)))
        predicted = rng.normal(size=(steps, 40, 2))
        found = judge_law(predicted, judged, learned_from=learned, couplings=couplings)
        beaten += found.as_dict()["beaten"]
    # Of a rate of 5 %, more than these have a chance of 1 in 60.
    assert beaten <= (0 if steps == 1 else 4)


def test_one_step_is_no_test_whatever_the_difference():
    judged = snapshots_from_arrays([cloud(0), cloud(1)], dt=1.0)
    found = judge_law(cloud(2)[None] + 9.0, judged)
    assert found.behind()["no_motion"]["energy_distance"] is False
    assert found.verdict().startswith("no motion is level with this energy in energy distance (")


def test_a_step_without_a_yardstick_leaves_the_others_to_judge():
    # The day 3 was not learned from: lookups exist at the first two steps of four.
    learned = snapshots_from_arrays(
        [cloud(k) + 3.0 * t for k, t in enumerate((0, 1, 2, 4))], times=[0.0, 1.0, 2.0, 4.0]
    )
    judged = snapshots_from_arrays([cloud(9 + k) + 3.0 * k for k in range(5)], dt=1.0)
    couplings, _ = couple(learned, key=jax.random.key(0))
    points = np.asarray(judged.points)
    good = judge_law(points[1:], judged, learned_from=learned, couplings=couplings)
    assert good.w1.lookup is None
    assert good.verdict() == (
        "the energy is better than no motion, the lookup on 2 of 4 steps and the lookup's mean on "
        "2 of 4 steps in every score"
    )
    bad = judge_law(points[:-1] - 1.0, judged, learned_from=learned, couplings=couplings)
    behind = bad.behind()
    assert behind["lookup"]["energy_distance"] in (True, False)
    assert "the lookup " in bad.verdict()
    assert "on 2 of 4 steps)" in bad.verdict()


def test_a_score_that_is_missing_is_not_said_to_be_better():
    judged = snapshots_from_arrays([cloud(0, 4), cloud(1, 4) + 9.0], dt=1.0)
    found = judge_law(np.asarray(judged.points[1:]), judged)
    assert found.c2st.mean is None
    assert found.verdict() == (
        "the energy is better than no motion in energy distance, variance ratio and W1"
    )


def test_what_was_learned_from_is_judged_by_halves():
    both = snapshots_from_arrays([cloud(0), cloud(1) + 2.0], dt=1.0)
    couplings, _ = couple(both, key=jax.random.key(0))
    predicted = np.asarray(both.points[1:])
    found = judge_law(predicted, both, learned_from=both, couplings=couplings)
    assert (found.n_compared, found.halved) == ([150], True)
    # A particle's own partner would be exact; neither it nor the judging half is used.
    assert 0.2 < found.w1.floor < 1.0
    assert found.w1.floor / 1.5 < found.w1.lookup < 1.5 * found.w1.floor
    assert found.c2st.lookup > 0.4


def test_what_was_learned_from_is_known_in_any_order():
    points = [cloud(0, 300), cloud(1, 280) + 2.0]
    both = snapshots_from_arrays(points, dt=1.0)
    couplings, _ = couple(both, key=jax.random.key(0))
    order = [np.random.default_rng(k).permutation(len(x)) for k, x in enumerate(points)]
    judged = snapshots_from_arrays([x[o] for x, o in zip(points, order, strict=True)], dt=1.0)
    found = judge_law(np.asarray(judged.points[1:]), judged, learned_from=both, couplings=couplings)
    assert (found.n_compared, found.halved) == ([140], True)
    assert 0.2 < found.w1.floor < 1.0
    assert found.w1.floor / 1.5 < found.w1.lookup < 1.5 * found.w1.floor
    # From nearly one place, a lookup ends where a partner is; none is in the half that judges.
    narrow = [1e-5 * cloud(0), cloud(1)]
    learned, judged = (snapshots_from_arrays([x[::s] for x in narrow], dt=1.0) for s in (1, -1))
    paired = pairs(*((0, i, i, 1 / 300) for i in range(300)))
    found, same = (
        judge_law(np.asarray(j.points[1:]), j, learned_from=learned, couplings=paired).w1
        for j in (judged, learned)
    )
    assert found.lookup > found.floor
    # Were half of these the particles that judge, they would be much nearer.
    for name in ("floor", "lookup"):
        assert getattr(found, name) == pytest.approx(getattr(same, name), rel=0.2)


def test_other_times_and_populations_leave_yardsticks_out():
    learned = snapshots_from_arrays([cloud(0), cloud(1)], times=[0.0, 2.0])
    judged = snapshots_from_arrays([cloud(2), cloud(3), cloud(4)], times=[0.0, 1.0, 2.0])
    couplings, _ = couple(learned, key=jax.random.key(0))
    found = judge_law(
        np.asarray(judged.points[1:]), judged, learned_from=learned, couplings=couplings
    ).w1
    assert found.per_step_yardsticks["floor"][0] is None
    assert found.per_step_yardsticks["floor"][1] is not None
    assert found.floor is None
    assert found.per_step_yardsticks["lookup"] == [None, None]
    assert found.no_motion is not None


def test_far_from_zero_the_yardsticks_are_the_same():
    learned, judged, couplings = by_hand()
    predicted = np.asarray(judged.points[:1]) + 10.0
    far = [
        snapshots_from_arrays([np.float64(x) + 4e6 for x in s.arrays()], s.time_values())
        for s in (learned, judged)
    ]
    moved = np.asarray(predicted, np.float64) + 4e6 - np.asarray(far[1].origin, np.float64)
    near = judge_law(predicted, judged, learned_from=learned, couplings=couplings)
    found = judge_law(moved, far[1], learned_from=far[0], couplings=couplings)
    for name in ("mean", "no_motion", "floor", "lookup"):
        assert getattr(found.w1, name) == pytest.approx(getattr(near.w1, name), abs=1e-4)


def test_seeds_are_averaged_and_kept():
    learned, judged, couplings = by_hand()
    seeds = np.asarray(judged.points[:1])[None] + np.array([10.0, 12.0])[:, None, None, None]
    found = judge_law(seeds, judged, learned_from=learned, couplings=couplings)
    assert found.w1.per_seed == pytest.approx([0.3, 1.7], abs=1e-5)
    assert found.w1.mean == pytest.approx(1.0, abs=1e-5)
    assert found.w1.per_step == pytest.approx([1.0], abs=1e-5)
    one = judge_law(seeds[1], judged, learned_from=learned, couplings=couplings)
    assert one.c2st.mean == pytest.approx(found.c2st.per_seed[1])


def test_predictions_without_value_are_infinitely_far():
    _, judged, _ = by_hand()
    broken = np.asarray(judged.points[:1]).copy()
    broken[0, 2] = np.nan
    found = judge_law(broken, judged)
    assert found.w1.mean == found.energy_distance.mean == np.inf
    assert found.c2st.mean is found.variance_ratio.mean is None
    assert "no motion beats this energy in energy distance (" in found.verdict()
    assert np.isfinite(judge_law(1e30 * np.ones_like(broken), judged).w1.mean)


def test_padding_and_weights_are_honoured():
    x = cloud(0, 40)
    padded = snapshots_from_arrays([x[:25], x, x[:30]], dt=1.0)
    predicted = np.asarray(padded.points[:-1]).copy()
    predicted[0, 25:] = 1e6  # has no weight
    found = judge_law(predicted, padded)
    assert found.n_compared == [25, 30]
    assert found.w1.mean == pytest.approx(found.w1.no_motion)
    heavy = np.asarray(padded.weights[:-1]).copy()
    heavy[1] = np.where(np.arange(40) == 3, 1.0, 1e-9)
    one = judge_law(predicted, padded, weights=heavy)
    assert one.variance_ratio.per_step[1] < 0.1 < found.variance_ratio.per_step[1]


def test_a_second_distance_on_request_and_the_choice_of_particles(monkeypatch):
    learned, judged, couplings = by_hand()
    predicted = np.asarray(judged.points[:1]) + 10.0
    found = judge_law(predicted, judged, order=2)
    assert found.w2.mean == pytest.approx(0.3, abs=1e-5)
    assert "w2" in found.as_dict()
    assert "w2" not in judge_law(predicted, judged).as_dict()
    monkeypatch.setattr("jkonet_star.yardsticks.MOST_JUDGED", 5)
    few = [judge_law(predicted, judged, key=jax.random.key(k)) for k in range(4)]
    assert few[0].n_compared == [5]
    # The same rows of both snapshots, whichever they are.
    assert {round(f.w1.mean, 5) for f in few} == {0.3}
    assert len({round(f.variance_ratio.no_motion, 6) for f in few}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 3}, "must be 1 or 2, got 3"),
        ({"couplings": pairs((0, 0, 0, 1.0))}, "learned_from"),
        ({"learned_from": snapshots_from_arrays([np.ones((3, 2))] * 2)}, "dimension 2"),
        ({"weights": np.ones((1, 5))}, "weights must be of shape"),
        ({"predicted": np.ones((1, 5, 1))}, r"predictions must have shape \(1, 6, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    _, judged, _ = by_hand()
    arguments = {"predicted": np.asarray(judged.points[:1]), **change}
    with pytest.raises(ValueError, match=message):
        judge_law(arguments.pop("predicted"), judged, **arguments)


def test_an_evaluation_has_the_law_as_plain_numbers():
    learned, judged, couplings = by_hand()
    energy = fit(
        learned,
        solver="jkonet-star-linear-potential",
        features=FeatureSettings(degree=1, radial="none"),
        couplings=couplings,
        key=jax.random.key(0),
    )
    found = evaluate(energy, judged, key=0, learned_from=learned, couplings=couplings)
    law = json.loads(json.dumps(found["law"]))
    assert law["w1"]["mean"] == pytest.approx(found["emd_one_step_ahead"]["mean"])
    assert law["w1"]["mean"] == pytest.approx(0.3, abs=1e-2)
    assert set(law) == {
        *list(law_module.SCORES)[:4],
        *("n_compared", "n_transported", "halved", "beaten", "verdict"),
    }
    alone = evaluate(energy, judged, key=0)["law"]["w1"]
    assert (alone["floor"], alone["lookup"], alone["lookup_mean"]) == (None, None, None)
    assert alone["mean"] == pytest.approx(law["w1"]["mean"])


def test_no_partner_is_in_the_half_that_judges():
    # From nearly one place, a lookup ends where a partner is.
    both = snapshots_from_arrays([1e-5 * cloud(0), cloud(1)], dt=1.0)
    paired = pairs(*((0, i, i, 1 / 300) for i in range(300)))
    predicted = np.asarray(both.points[1:])
    found = judge_law(predicted, both, learned_from=both, couplings=paired)
    assert found.w1.lookup > found.w1.floor
    assert found.c2st.lookup > 0.5
