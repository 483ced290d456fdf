import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jkonet_star.settings import CouplingSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.transport import semidiscrete
from jkonet_star.transport.couplings import couple, coupled_steps
from jkonet_star.transport.exact import exact_plan
from jkonet_star.transport.semidiscrete import semidiscrete_plan

SETTINGS = CouplingSettings(method="semidiscrete")
KEY = jax.random.key(0)


def clouds(n, m, d, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), 0.8 * generator.normal(size=(m, d)) + 0.5


def uniform(n):
    return np.full(n, 1 / n)


def cost(plan, x, y):
    return plan.mass @ ((x[plan.rows] - y[plan.cols]) ** 2).sum(axis=1)


def test_on_the_line_it_nearly_sorts():
    x, y = clouds(300, 300, 1)
    plan = semidiscrete_plan(x, y, uniform(300), uniform(300), SETTINGS)
    sorted_cost = ((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2).mean()
    assert sorted_cost <= cost(plan, x, y) < 1.02 * sorted_cost
    ranks = np.argsort(np.argsort(x[plan.rows, 0])), np.argsort(np.argsort(y[plan.cols, 0]))
    assert np.corrcoef(*ranks)[0, 1] > 0.999


@pytest.mark.parametrize("d", [2, 10, 50])
def test_it_is_near_the_exact_plan(d):
    x, y = clouds(500, 500, d)
    plan = semidiscrete_plan(x, y, uniform(500), uniform(500), SETTINGS)
    best = exact_plan(x, y)[3]
    assert (1 - 1e-9) * best <= cost(plan, x, y) < 1.03 * best
    assert plan.converged
    assert plan.iterations == 50
    # One partner each: equal weights stay an assignment.
    assert len(plan.mass) == 500
    assert sorted(plan.rows) == sorted(plan.cols) == list(range(500))


@pytest.mark.parametrize("passes", [1, 50])
def test_the_bound_lies_below_the_optimum(passes):
    """Equation (1) of the module, for any g."""
    x, y = (z / 3 for z in clouds(400, 300, 5))  # a mean cost of about 1
    best = exact_plan(x, y)[3]
    partner, _, bound = semidiscrete._chosen(x, y, uniform(400), uniform(300), passes)
    assert bound <= best * (1 + 1e-6)
    if passes == 50:
        assert bound > 0.99 * best
        chosen = ((x - y[partner]) ** 2).sum(axis=1).mean()
        assert chosen == pytest.approx(best, rel=0.05)


def weighted_problem():
    generator = np.random.default_rng(1)
    x, y = clouds(230, 170, 3)
    a, b = generator.uniform(0.2, 2, 230), generator.uniform(0.2, 2, 170)
    return x, y, a / a.sum(), b / b.sum()


def test_weights_are_honoured():
    x, y, a, b = weighted_problem()
    plan = semidiscrete_plan(x, y, a, b, SETTINGS)
    np.testing.assert_allclose(np.bincount(plan.rows, plan.mass, 230), a, rtol=1e-5)
    np.testing.assert_allclose(np.bincount(plan.cols, plan.mass, 170), b, rtol=1e-5)
    assert (plan.mass > 0).all()
    best = exact_plan(x, y, a, b)[3]
    assert (1 - 1e-6) * best <= cost(plan, x, y) < 1.1 * best


@pytest.mark.parametrize("sizes", [(300, 20), (20, 300), (1, 9), (9, 1), (1, 1)])
def test_populations_of_other_sizes(sizes):
    n, m = sizes
    x, y = clouds(n, m, 2)
    plan = semidiscrete_plan(x, y, uniform(n), uniform(m), SETTINGS)
    np.testing.assert_allclose(np.bincount(plan.rows, plan.mass, n), 1 / n, rtol=1e-5)
    np.testing.assert_allclose(np.bincount(plan.cols, plan.mass, m), 1 / m, rtol=1e-5)
    assert cost(plan, x, y) < 1.1 * exact_plan(x, y)[3]


@pytest.mark.parametrize(("rounds", "most"), [(5, 1.1), (1, 1.5)])
def test_what_is_moved_in_rounds_or_blocks_keeps_the_marginals(monkeypatch, rounds, most):
    x, y, a, b = weighted_problem()
    monkeypatch.setattr(semidiscrete, "_ROUNDS", rounds)
    monkeypatch.setattr(semidiscrete, "_MOVED_AT_ONCE", 20)
    monkeypatch.setattr(semidiscrete, "_BLOCK_ENTRIES", 7 * 170)
    plan = semidiscrete_plan(x, y, a, b, SETTINGS)
    np.testing.assert_allclose(np.bincount(plan.rows, plan.mass, 230), a, rtol=1e-5)
    np.testing.assert_allclose(np.bincount(plan.cols, plan.mass, 170), b, rtol=1e-5)
    assert cost(plan, x, y) < most * exact_plan(x, y, a, b)[3]


def test_partners_are_those_of_a_loop_however_rows_are_cut():
    x, y = clouds(23, 17, 3)
    g = np.random.default_rng(2).normal(size=17)
    scores = g - ((x[:, None] - y) ** 2).sum(axis=2)
    best, second = np.sort(scores, axis=1)[:, -1], np.sort(scores, axis=1)[:, -2]
    for start, rows in ((0, 23), (4, 7)):
        partner, regret, top = semidiscrete._partners(
            jnp.asarray(x), jnp.asarray(y), jnp.asarray(g), start, rows=rows
        )
        here = slice(start, start + rows)
        np.testing.assert_array_equal(partner, scores.argmax(axis=1)[here])
        np.testing.assert_allclose(top, (best + (x**2).sum(axis=1))[here], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(regret, (best - second)[here], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_every_source_has_a_partner_however_scores_are_rounded(d, rows):
    """Scores that are computed twice may differ, and then none equals the largest."""
    x, y = (jnp.asarray(z, jnp.float32) for z in clouds(2100, 700, d))
    g = jnp.asarray(np.random.default_rng(3).normal(size=700) / 10, jnp.float32)
    scores = np.asarray(g, np.float64) - ((np.asarray(x)[:, None] - np.asarray(y)) ** 2).sum(axis=2)
    for start in range(0, 2100, 300):
        partner, *_ = (np.asarray(p) for p in semidiscrete._partners(x, y, g, start, rows=rows))
        assert partner.min() >= 0
        own = scores[start : start + rows]
        np.testing.assert_allclose(
            np.take_along_axis(own, partner[:, None], 1)[:, 0], own.max(axis=1), atol=1e-4
        )


def test_memory_is_linear_in_the_particles():
    """What XLA sets aside for a pass: twice the particles may not take four times as much."""

    def temporaries(n):
        batch = max(1, min(n // 40, semidiscrete._BLOCK_ENTRIES // n))
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, 50), (n, 50), (n,), (n,))]
        lowered = semidiscrete._potentials.lower(*shapes, passes=3, batch=batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    small, large = temporaries(100_000), temporaries(1_000_000)
    assert large < 2 * small + 10 * 4 * 50 * 1_000_000
    assert large < 1e-3 * 4 * 1_000_000**2


def test_the_report_says_what_was_moved_and_the_fit_sees_both_marginals(caplog):
    x, y = clouds(400, 400, 10)
    snapshots = snapshots_from_arrays([x, y])
    with caplog.at_level(logging.WARNING, logger="jkonet_star"):
        couplings, (report,) = couple(snapshots, SETTINGS, key=KEY)
    assert not caplog.records
    assert report.method == "semidiscrete"
    assert report.n_blocks == 1
    assert 0 < report.marginal_error < 0.3
    assert report.dropped_mass == 0
    (step,) = coupled_steps(couplings, snapshots, [report])
    assert step.method == "semidiscrete"
    assert step.marginal_error < 1e-5
    assert step.converged
    with caplog.at_level(logging.WARNING, logger="jkonet_star"):
        _, (hasty,) = couple(snapshots, CouplingSettings(method="semidiscrete", passes=1), key=KEY)
    assert not hasty.converged
    assert hasty.marginal_error > report.marginal_error
    assert "raise passes" in caplog.text


def test_blocks_do_not_cut_it():
    snapshots = snapshots_from_arrays(list(clouds(120, 120, 2)))
    one, (report,) = couple(snapshots, SETTINGS, key=KEY)
    cut, _ = couple(snapshots, CouplingSettings(method="semidiscrete", batch_size=10), key=KEY)
    np.testing.assert_array_equal(one.target, cut.target)
    assert report.n_blocks == 1


def test_hours_are_said_beforehand(caplog, monkeypatch):
    x, y = clouds(30, 30, 2)
    monkeypatch.setattr(semidiscrete, "_PAIRS_AN_HOUR", 45_000.0)
    with caplog.at_level(logging.WARNING, logger="jkonet_star"):
        semidiscrete_plan(x, y, uniform(30), uniform(30), SETTINGS)
    assert "30 with 30 particles 50 times: about 1.0 hours" in caplog.text
