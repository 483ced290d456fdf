import dataclasses
import itertools
import json
import logging

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import ot
import pytest

from jkonet_star.settings import CouplingSettings
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.transport.couplings import chosen_method, couple
from jkonet_star.transport.exact import exact_plan, wasserstein

KEY = jax.random.key(0)


def assert_equal_leaves(first, second):
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


def clouds(n, m, d=2, *, seed=0, shift=0.5):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d))
    y = 0.8 * generator.normal(size=(m, d)) + shift
    return x.astype(np.float32), y.astype(np.float32)


def random_weights(n, seed=0):
    w = np.random.default_rng(seed).uniform(0.2, 2.0, n)
    return w / w.sum()


def squared(x, y):
    return ((x[:, None].astype(np.float64) - y[None]) ** 2).sum(-1)


def marginals(couplings, snapshots, step=0):
    """Source and target marginal of one step, over all rows of the snapshots."""
    here = np.asarray(couplings.step) == step
    n = snapshots.points.shape[1]
    w = np.asarray(couplings.weight, np.float64)[here]
    source, target = np.asarray(couplings.source)[here], np.asarray(couplings.target)[here]
    return np.bincount(source, w, n), np.bincount(target, w, n)


def cost_of(couplings, snapshots):
    points = np.asarray(snapshots.points, np.float64)
    step = np.asarray(couplings.step)
    gap = points[step + 1, couplings.target] - points[step, couplings.source]
    return (np.asarray(couplings.weight) * (gap**2).sum(1)).sum() / snapshots.n_steps


@pytest.mark.parametrize("order", [1, 2])
def test_exact_plan_is_the_best_of_all_permutations(order):
    x, y = clouds(6, 6)
    distance = np.sqrt(squared(x, y)) ** order
    best = min(
        np.mean([distance[i, p] for i, p in enumerate(permutation)])
        for permutation in itertools.permutations(range(6))
    )
    rows, cols, mass, cost = exact_plan(x, y, order=order)
    assert cost == pytest.approx(best, rel=1e-12)
    assert sorted(rows) == sorted(cols) == list(range(6))
    np.testing.assert_allclose(mass, 1 / 6)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(40, 40), (40, 57), (57, 40)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_exact_plan_agrees_with_the_network_simplex(d, sizes, weighted, order):
    n, m = sizes
    x, y = clouds(n, m, d)
    a = random_weights(n, 1) if weighted else np.full(n, 1 / n)
    b = random_weights(m, 2) if weighted else np.full(m, 1 / m)
    expected = ot.emd2(a, b, np.sqrt(squared(x, y)) ** order)
    rows, cols, mass, cost = exact_plan(x, y, a, b, order=order)
    assert cost == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(np.bincount(rows, mass, n), a, atol=1e-12)
    np.testing.assert_allclose(np.bincount(cols, mass, m), b, atol=1e-12)
    assert wasserstein(x, y, a, b, order=order) == pytest.approx(expected ** (1 / order), rel=1e-9)


def test_particles_without_weight_take_no_part():
    x, y = clouds(20, 15)
    a = np.concatenate([random_weights(17), np.zeros(3)])
    rows, cols, mass, cost = exact_plan(x, y, a)
    assert rows.max() < 17
    assert cost == pytest.approx(exact_plan(x[:17], y, a[:17])[3])
    assert len(cols) == len(mass)


@hypothesis.given(
    n=st.integers(1, 30),
    d=st.integers(1, 4),
    seed=st.integers(0, 100),
    length=st.floats(0, 100),
    order=st.sampled_from([1, 2]),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_translation_by_c_is_at_distance_c(n, d, seed, length, order):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d))
    c = generator.normal(size=d)
    c *= length / np.linalg.norm(c)
    moved = generator.permutation(x + c)
    assert wasserstein(x, moved, order=order) == pytest.approx(length, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 3))), "dimension 2"),
        ((np.zeros(3), np.zeros((3, 1))), "source must be"),
        ((np.zeros((0, 2)), np.zeros((3, 2))), "source must be"),
        ((np.zeros((3, 2)), np.full((3, 2), np.nan)), "target has 3 of 3"),
        ((np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2)), "3 weights"),
        ((np.zeros((3, 2)), np.zeros((3, 2)), -np.ones(3)), "non-negative"),
    ],
)
def test_bad_populations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        exact_plan(*arguments)
    with pytest.raises(ValueError, match="order"):
        exact_plan(np.zeros((2, 2)), np.zeros((2, 2)), order=3)


def test_couple_exactly_gives_a_permutation_per_step():
    x, y = clouds(50, 50)
    snapshots = snapshots_from_arrays([x, y, x + 1])
    couplings, reports = couple(snapshots, key=KEY)
    assert [r.step for r in reports] == [0, 1]
    for step, report in enumerate(reports):
        source, target = marginals(couplings, snapshots, step)
        np.testing.assert_allclose(source, 0.02, rtol=1e-6)
        np.testing.assert_allclose(target, 0.02, rtol=1e-6)
        assert report.method == "exact"
        assert report.converged
        assert report.dropped_mass == 0
        assert report.n_pairs == 50
    expected = (exact_plan(x, y)[3] + exact_plan(y, x + 1)[3]) / 2
    assert cost_of(couplings, snapshots) == pytest.approx(expected, rel=1e-5)
    assert np.mean([r.cost for r in reports]) == pytest.approx(expected, rel=1e-6)
    assert json.loads(json.dumps(dataclasses.asdict(reports[0])))["n_source"] == 50


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_row_order_tells_nothing(method):
    x, y = clouds(60, 60)
    generator = np.random.default_rng(3)
    settings = CouplingSettings(method=method, epsilon=0.01)
    costs = [
        couple(snapshots_from_arrays([p, q]), settings, key=KEY)[1][0].cost
        for p, q in [(x, y), (generator.permutation(x), y), (x, generator.permutation(y))]
    ]
    np.testing.assert_allclose(costs, costs[0], rtol=1e-4)
    # All plans between equal points cost the same: the row number must not choose among them.
    same = np.zeros((40, 2), np.float32)
    couplings, _ = couple(snapshots_from_arrays([same, same]), key=KEY)
    assert (np.asarray(couplings.source) == np.asarray(couplings.target)).mean() < 0.5


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "low-rank", "semidiscrete"])
def test_the_key_decides(method):
    x, y = clouds(90, 90)
    snapshots = snapshots_from_arrays([x, y])
    settings = CouplingSettings(method=method, batch_size=30, rank=5)
    first, _ = couple(snapshots, settings, key=KEY)
    again, _ = couple(snapshots, settings, key=KEY)
    assert_equal_leaves(first, again)
    other, _ = couple(snapshots, settings, key=jax.random.key(1))
    assert not np.array_equal(first.target, other.target)


@pytest.mark.parametrize("sizes", [(100, 100), (100, 70), (70, 101), (100, 7)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [-1, 30, 100])
def test_blocks_keep_both_marginals(sizes, weighted, batch_size):
    n, m = sizes
    weights = [random_weights(n, 1), random_weights(m, 2)] if weighted else None
    snapshots = snapshots_from_arrays(list(clouds(n, m)), weights=weights)
    couplings, reports = couple(
        snapshots, CouplingSettings(method="exact", batch_size=batch_size), key=KEY
    )
    source, target = marginals(couplings, snapshots)
    np.testing.assert_allclose(source, snapshots.weights[0], atol=1e-6)
    np.testing.assert_allclose(target, snapshots.weights[1], atol=1e-6)
    assert reports[0].n_blocks == (1 if batch_size < 0 else -(-max(n, m) // batch_size))
    if batch_size < 0:
        x, y = snapshots.arrays()
        a, b = (w.astype(np.float64) for w in snapshots.array_weights())
        expected = ot.emd2(a / a.sum(), b / b.sum(), squared(x, y))
        assert reports[0].cost == pytest.approx(expected, rel=1e-5)


def test_uniform_blocks_of_equal_populations_stay_assignments():
    snapshots = snapshots_from_arrays(list(clouds(101, 101)))
    couplings, _ = couple(snapshots, CouplingSettings(batch_size=25), key=KEY)
    assert len(couplings.weight) == 101


@pytest.mark.parametrize("steps", [10, 20])
def test_annealing_that_ends_when_the_error_is_checked(steps):
    """Every tenth iteration the error is looked at; epsilon has shrunk by 0.9 in each."""
    x, y = clouds(30, 30)
    epsilon = 0.9 ** (steps - 0.5)
    settings = CouplingSettings(method="sinkhorn", epsilon=epsilon)
    report = couple(snapshots_from_arrays([x, y]), settings, key=KEY)[1][0]
    assert report.converged
    assert report.iterations >= steps


def test_sinkhorn_approaches_the_exact_cost():
    x, y = clouds(80, 80)
    snapshots = snapshots_from_arrays([x, y])
    exact = exact_plan(x, y)[3]
    gaps = []
    for epsilon in (0.1, 0.01, 0.001, 0.0003):
        settings = CouplingSettings(method="sinkhorn", epsilon=epsilon, max_iterations=20_000)
        report = couple(snapshots, settings, key=KEY)[1][0]
        assert report.converged
        assert report.marginal_error < settings.threshold
        gaps.append(abs(report.cost - exact) / exact)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 5e-3


@pytest.mark.parametrize("weighted", [False, True])
def test_sinkhorn_keeps_every_source_particle_and_its_weight(weighted):
    n, m = 120, 90
    # A few particles far lighter than the cutoff of a tenth of the mean.
    a, b = random_weights(n, 1), random_weights(m, 2)
    a[:5] *= 1e-3
    snapshots = snapshots_from_arrays(list(clouds(n, m)), weights=[a, b] if weighted else None)
    couplings, reports = couple(
        snapshots, CouplingSettings(method="sinkhorn", epsilon=0.01), key=KEY
    )
    source, _ = marginals(couplings, snapshots)
    np.testing.assert_allclose(source, snapshots.weights[0], rtol=1e-4, atol=1e-9)
    assert 0 < reports[0].dropped_mass < 0.5


def test_dropped_mass_is_the_mass_of_light_entries(caplog):
    x, y = clouds(100, 100)
    snapshots = snapshots_from_arrays([x, y])
    for epsilon in (0.02, 1.0):
        # Epsilon is relative to the mean about the clouds' own centres, which leave the plan alone.
        cost = squared(x - x.mean(axis=0), y - y.mean(axis=0))
        uniform = np.full(100, 0.01)
        plan = ot.sinkhorn(
            uniform, uniform, cost / cost.mean(), epsilon, numItermax=5000, warn=False
        )
        expected = plan[plan < 1 / 1000].sum()
        settings = CouplingSettings(method="sinkhorn", epsilon=epsilon, threshold=1e-5)
        with caplog.at_level(logging.WARNING, logger="jkonet_star"):
            caplog.clear()
            couplings, reports = couple(snapshots, settings, key=KEY)
        assert reports[0].dropped_mass == pytest.approx(expected, abs=2e-3)
        assert ("lower epsilon" in caplog.text) == (expected > 0.5)
        assert len(couplings.weight) == max((plan >= 1 / 1000).sum(), 100)


def test_unconverged_sinkhorn_is_reported(caplog):
    snapshots = snapshots_from_arrays(list(clouds(50, 50)))
    settings = CouplingSettings(method="sinkhorn", epsilon=0.001, max_iterations=1)
    with caplog.at_level(logging.WARNING, logger="jkonet_star"):
        _, reports = couple(snapshots, settings, key=KEY)
    assert not reports[0].converged
    assert reports[0].iterations == 1
    assert reports[0].marginal_error > settings.threshold
    assert "did not converge" in caplog.text
    assert "max_iterations" in caplog.text


def test_unbalanced_transport_lets_outliers_die():
    x, y = clouds(100, 90, shift=0.0)
    x[:10] += 30.0  # a cluster without descendants
    snapshots = snapshots_from_arrays([x, y])
    share = {}
    for tau in (1.0, 0.9):
        settings = CouplingSettings(epsilon=0.01, tau_a=tau, tau_b=tau)
        couplings, reports = couple(snapshots, settings, key=KEY)
        source, _ = marginals(couplings, snapshots)
        share[tau] = source[:10].sum()
        assert reports[0].converged
        assert source.sum() == pytest.approx(1.0, abs=1e-5)
    assert share[1.0] == pytest.approx(0.1, abs=1e-5)
    assert share[0.9] < 0.01
    assert reports[0].method == "sinkhorn"


@pytest.mark.parametrize("method", ["exact", "low-rank", "semidiscrete"])
def test_only_sinkhorn_is_unbalanced(method):
    snapshots = snapshots_from_arrays(list(clouds(5, 5)))
    with pytest.raises(ValueError, match="tau_a is 0.5"):
        couple(snapshots, CouplingSettings(method=method, tau_a=0.5), key=KEY)


def test_auto_takes_sinkhorn_where_exact_is_dearer():
    assert chosen_method(CouplingSettings(), 1000) == "exact"
    assert chosen_method(CouplingSettings(), 10**6) == "sinkhorn"
    assert chosen_method(CouplingSettings(tau_b=0.5), 10) == "sinkhorn"
    assert chosen_method(CouplingSettings(method="low-rank"), 10) == "low-rank"


def test_sinkhorn_in_row_blocks_is_sinkhorn(monkeypatch):
    snapshots = snapshots_from_arrays(list(clouds(150, 131)))
    settings = CouplingSettings(method="sinkhorn", epsilon=0.02, threshold=1e-5)
    whole, _ = couple(snapshots, settings, key=KEY)
    monkeypatch.setattr("jkonet_star.transport.entropic.BLOCK_ENTRIES", 7 * 192)
    blocked, _ = couple(snapshots, settings, key=KEY)
    np.testing.assert_array_equal(whole.source, blocked.source)
    np.testing.assert_array_equal(whole.target, blocked.target)
    np.testing.assert_allclose(whole.weight, blocked.weight, rtol=1e-3)


def test_equal_steps_compile_once():
    from jkonet_star.transport import entropic as entropic_transport

    entropic_transport._potentials.clear_cache()
    x, y = clouds(70, 70)
    snapshots = snapshots_from_arrays([x, y, x + 1, y - 1])
    couple(snapshots, CouplingSettings(method="sinkhorn"), key=KEY)
    assert entropic_transport._potentials._cache_size() == 1


def test_sinkhorn_far_from_the_origin():
    x, y = clouds(60, 60)
    settings = CouplingSettings(method="sinkhorn", epsilon=0.005)
    near = couple(snapshots_from_arrays([x, y]), settings, key=KEY)[1][0]
    far = couple(snapshots_from_arrays([x + 256, y + 256]), settings, key=KEY)[1][0]
    scaled = couple(snapshots_from_arrays([x * 1e4, y * 1e4]), settings, key=KEY)[1][0]
    assert far.cost == pytest.approx(near.cost, rel=1e-3)
    assert scaled.cost == pytest.approx(1e8 * near.cost, rel=1e-3)


@pytest.mark.parametrize("method", ["exact", "sinkhorn", "low-rank", "semidiscrete"])
def test_identical_particles_everywhere(method):
    point = np.full((8, 2), 3.0, np.float32)
    couplings, reports = couple(
        snapshots_from_arrays([point, point[:6]]), CouplingSettings(method=method, rank=2), key=KEY
    )
    assert np.isfinite(couplings.weight).all()
    assert reports[0].cost == 0


def test_low_rank_is_near_the_optimum():
    x, y = clouds(400, 300)
    snapshots = snapshots_from_arrays([x, y])
    couplings, reports = couple(snapshots, CouplingSettings(method="low-rank", rank=8), key=KEY)
    source, target = marginals(couplings, snapshots)
    np.testing.assert_allclose(source, snapshots.weights[0], rtol=1e-4)
    assert np.abs(target - snapshots.weights[1]).sum() < 0.05
    assert reports[0].marginal_error < 0.05
    assert reports[0].cost == pytest.approx(exact_plan(x, y)[3], rel=0.2)
    assert reports[0].converged


def test_what_couplings_say_of_themselves():
    x, y = clouds(6, 6)
    couplings, _ = couple(snapshots_from_arrays([x, y, x]), key=KEY)
    assert repr(couplings) == "Couplings(12 pairs of 2 steps)"
    stack = jax.tree.map(lambda leaf: leaf[None], couplings)
    assert repr(stack).startswith("Couplings(step=int32[1,12], ")
