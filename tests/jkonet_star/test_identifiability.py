"""What is asked of data whose answer is known."""

import jax
import numpy as np
import pytest

from jkonet_star import identifiability, snapshots_from_arrays
from jkonet_star.energies.features import Features
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fit_report import BetaReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.identifiability import (
    Answer,
    ask_circulation,
    ask_growth,
    ask_interaction,
    ask_noise,
    identify,
)

N = 200
KEY = jax.random.key(0)


def turning(seed):
    """N(0, diag(4, 1)), turned by 30 degrees a step."""
    rng, made = np.random.default_rng(seed), []
    for k in range(6):
        c, s = np.cos(k * np.pi / 6), np.sin(k * np.pi / 6)
        made.append((rng.normal(size=(N, 2)) * [2, 1]) @ np.array([[c, s], [-s, c]]))
    return snapshots_from_arrays(made, dt=0.5)


def contracting(seed, middle=0.0):
    """V = .15 x^2 + .3 y^2, from N(middle, diag(4, 1)) on."""
    rng = np.random.default_rng(seed)
    factors = [(1 - 0.5 * np.array([0.3, 0.6])) ** k for k in range(6)]
    made = [(rng.normal(size=(N, 2)) * [2, 1] + middle) * f for f in factors]
    return snapshots_from_arrays(made, dt=0.5)


def resting(seed, n=N):
    rng = np.random.default_rng(seed)
    return snapshots_from_arrays([rng.normal(size=(n, 2)) for _ in range(6)], dt=0.5)


def clusters(seed):
    """Two clusters that stay where they are; the shares change."""
    rng, made = np.random.default_rng(seed), []
    for share in (0.5, 0.6, 0.7, 0.8, 0.87, 0.92):
        right = rng.random(N) < share
        made.append(rng.normal(size=(N, 2)) + np.where(right, 4, -4)[:, None])
    return snapshots_from_arrays(made, dt=0.5)


def clusters_along_an_axis(dimension):
    rng, made = np.random.default_rng(0), []
    for share in (0.5, 0.65, 0.8, 0.9):
        x = rng.normal(size=(N, dimension))
        x[:, 0] += np.where(rng.random(N) < share, 4, -4)
        made.append(x)
    return snapshots_from_arrays(made, dt=0.5)


def shifted(dimension, by=0.5):
    rng, axis = np.random.default_rng(0), np.arange(dimension) == 0
    made = [rng.normal(size=(N, dimension)) + by * k * axis for k in range(4)]
    return snapshots_from_arrays(made, dt=0.5)


def contraction(rate=0.5, power=2):
    """V = rate |x|^2 / 2, or with another power of each coordinate."""
    squares = Features(
        dimension=2,
        exponents=((power, 0), (0, power)),
        trigonometric=False,
        radial="none",
        width=1.0,
        n_centers=0,
    )
    model = LinearEnergy(dimension=2, potential_features=squares, interaction_features=None)
    params = {"potential": jax.numpy.full(2, rate / 2)}
    constants = {"potential": jax.numpy.zeros((0, 2))}
    return FittedEnergy(model, "explicit", params, constants, jax.numpy.arange(6) * 0.5)


@pytest.fixture(scope="module")
def answers():
    return identify(contraction(), turning(0), key=KEY)


def test_a_rotation_is_no_gradient(answers):
    answer = answers[1]
    assert answer.question == "circulation"
    assert answer.determined
    assert answer.verdict.startswith("not a gradient")
    assert answer.p_value < 0.01
    assert answer.low < 1 < answer.high or answer.low > 0.25


def test_every_question_has_an_answer_in_words(answers):
    assert [a.question for a in answers] == ["interaction", "circulation", "noise", "growth"]
    assert all(len(a.verdict) > 20 and a.verdict in a.line() for a in answers)


def test_a_gradient_flow_is_not_called_anything_else():
    answer = ask_circulation(contracting(1), KEY)
    assert answer.determined
    assert "no better" in answer.verdict


def test_what_leaves_laws_alone_is_not_seen():
    still = resting(0)
    for answer in (ask_circulation(still, KEY), ask_noise(still), ask_growth(still, KEY)):
        assert not answer.determined
        assert answer.value is None
        assert answer.p_value > 0.05
    assert "growth and transport may cancel" in answer.verdict


def test_noise_has_the_error_of_its_estimate():
    def report(**given):
        known = {"value": 0.05, "standard_error": 0.01, "paired": False, "gain": 0.0}
        return BetaReport(**{**known, "converged": True, **given})

    moving = contracting(0)
    told = ask_noise(moving, report())
    assert told.determined
    np.testing.assert_allclose(
        [told.low, told.high], [0.05 - 0.0164485, 0.05 + 0.0164485], rtol=1e-4
    )
    assert not ask_noise(moving, report(standard_error=0.03)).determined
    assert not ask_noise(moving, report(standard_error=None)).determined
    assert not ask_noise(moving, report(converged=False)).determined
    assert ask_noise(moving, report(value=0.0, standard_error=0.001)).determined
    assert not ask_noise(resting(0), report()).determined
    assert ask_noise(resting(0), report(paired=True)).determined
    assert not ask_noise(moving).determined


def test_noise_beyond_the_narrowest_direction_contradicts_the_data():
    rng = np.random.default_rng(0)
    flat = snapshots_from_arrays(
        [rng.normal(size=(500, 3)) * [3 * 0.9**k, 1, 0.1] for k in range(3)], dt=0.5
    )  # at most .01 / 2 tau = .01
    known = {"standard_error": 0.001, "paired": True, "gain": 9.0, "converged": True}
    answer = ask_noise(flat, BetaReport(value=0.05, **known))
    assert not answer.determined
    assert "contradicts" in answer.verdict
    assert "by one explicit step" in answer.verdict
    assert ask_noise(flat, BetaReport(value=0.009, **known)).determined
    unsure = ask_noise(flat, BetaReport(value=0.05, **{**known, "standard_error": 0.02}))
    assert "contradicts" not in unsure.verdict
    few = snapshots_from_arrays([rng.normal(size=(4, 5)) + 9.0 * k for k in range(3)], dt=0.5)
    assert ask_noise(few, BetaReport(value=0.5, **known)).determined


def test_a_quadratic_interaction_is_a_potential_where_the_mean_rests():
    at_rest = ask_interaction(contraction(), contracting(0))
    assert not at_rest.determined
    assert "cannot tell them apart" in at_rest.verdict
    moving = ask_interaction(contraction(), contracting(0, middle=3.0))
    assert moving.determined
    assert moving.p_value < 1e-6
    assert moving.value > 50 * at_rest.value


def test_a_mean_that_hardly_moves_tells_fast_rates_only():
    moved = contracting(0, middle=0.3)
    assert not ask_interaction(contraction(0.01), moved).determined
    assert ask_interaction(contraction(10.0), moved).determined


def test_shares_that_change_without_motion_may_be_growth():
    answer = ask_growth(clusters(0), KEY)
    assert not answer.determined
    assert answer.value > 0.7
    assert "multiplied" in answer.verdict
    moved = ask_growth(contracting(0, middle=1.0), KEY)
    assert moved.determined
    assert moved.value < 0.4


def test_what_samples_of_one_law_cost_is_no_transport():
    answer = ask_growth(clusters_along_an_axis(10), KEY)
    assert not answer.determined
    assert 0.8 < answer.value <= 1
    assert "multiplied" in answer.verdict


def test_a_shift_in_five_dimensions_is_no_growth():
    answer = ask_growth(shifted(5), KEY)
    assert answer.determined
    assert abs(answer.value) < 0.2


def test_a_motion_that_chance_hides_is_not_judged():
    answer = ask_growth(shifted(10), KEY)
    assert not answer.determined
    assert answer.value is None
    assert "samples of one law" in answer.verdict


def test_where_growth_is_a_rival_nothing_is_called_a_circulation(monkeypatch):
    found = clusters(0)
    asked = {}
    monkeypatch.setattr(
        identifiability, "ask_growth", lambda *given: asked.setdefault("it", ask_growth(*given))
    )
    circulation, growth = identify(contraction(), found, key=KEY)[1::2]
    assert growth == asked["it"]
    assert not growth.determined
    assert not circulation.determined
    assert "growth" in circulation.verdict


def test_a_circulation_that_helps_a_little_is_neither(monkeypatch):
    def verdict(left, gain, error):
        monkeypatch.setattr(identifiability, "_gain", lambda *_: (left, gain, error))
        return ask_circulation(turning(0), KEY)

    little = verdict(1.0, 0.144, 0.04)
    assert not little.determined
    assert "a little better, by less than 25%" in little.verdict
    assert little.p_value < 0.001
    assert verdict(1.0, 0.3, 0.04).verdict.startswith("not a gradient")
    assert "no better" in verdict(1.0, 0.3, 0.3).verdict


@pytest.mark.parametrize("n", [2, 3, 19])
def test_few_cells_are_not_judged_by_halves(n):
    rng = np.random.default_rng(0)
    few = snapshots_from_arrays([rng.normal(size=(n, 2)) + 9.0 * k for k in range(4)])
    for answer in (ask_circulation(few, KEY), ask_growth(few, KEY)):
        assert not answer.determined
        assert answer.value is None
        assert "fewer than 20 cells" in answer.verdict


def test_an_energy_is_asked_where_the_data_are(monkeypatch):
    rng = np.random.default_rng(0)
    other = Answer(question="growth", determined=False, measure="", value=None, verdict="")
    for name in ("ask_circulation", "ask_noise", "ask_growth"):
        monkeypatch.setattr(identifiability, name, lambda *_: other)
    # At 100 the slope of this drift is 10, at zero next to nothing.
    quartic = contraction(2e-3 / 12, power=4)
    made = [rng.normal(size=(N, 2)) + 0.1 * k for k in range(6)]
    here = snapshots_from_arrays(made, dt=0.5)
    there = snapshots_from_arrays([x + 100.0 for x in made], dt=0.5)
    assert there.origin is not None
    for asked in (lambda s: identify(quartic, s)[0], lambda s: ask_interaction(quartic, s)):
        assert asked(there).determined
        assert not asked(here).determined


def test_another_dimension_is_refused():
    with pytest.raises(ValueError, match="dimension 2, the snapshots 3"):
        identify(contraction(), snapshots_from_arrays(np.zeros((2, 5, 3)) + np.arange(5)[:, None]))
