"""Growth told from motion: clusters of known shares, moving ones, equal laws, masses, units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_generation.populations import branching
from jkonet_star import couple, snapshots_from_arrays
from jkonet_star.growth import estimate_growth
from jkonet_star.settings import GrowthSettings

KEY = jax.random.key(0)
SHARES = (0.5, 0.65, 0.8, 0.9)
TRUTH = np.diff(np.log(SHARES) - np.log1p(-np.asarray(SHARES)))
"""What the upper cluster grows faster by, in 1 / step."""
N = 300


def clusters(shares=SHARES, seed=0, velocity=0.0):
    """N((-4, v t), I) and N((4, v t), I), the second with the given share of the cells."""
    rng = np.random.default_rng(seed)
    found = []
    for k, share in enumerate(shares):
        x = rng.normal(size=(N, 2)) + [0.0, velocity * k]
        x[:, 0] += np.where(np.arange(N) < round(N * share), 4.0, -4.0)
        found.append(x)
    return found


@functools.cache
def estimated(scale=1.0, dt=1.0, velocity=0.0):
    points = [scale * x for x in clusters(velocity=velocity)]
    return points, estimate_growth(snapshots_from_arrays(points, dt=dt), key=KEY)


@functools.cache
def of_equal_laws():
    points = clusters((0.5,) * 4, seed=1)
    masses = [3.0, 3.0, 3.0, 3.0]
    return points, estimate_growth(snapshots_from_arrays(points), key=KEY, masses=masses)


def faster(points, rates):
    """By how much the upper cluster grows faster, step by step."""
    pairs = zip(points[:-1], np.asarray(rates), strict=False)
    return np.array([r[x[:, 0] > 0].mean() - r[x[:, 0] < 0].mean() for x, r in pairs])


def crossed(points, couplings):
    """Share of the mass whose pairs lie in different clusters."""
    step, source, target = (
        np.asarray(getattr(couplings, name)) for name in ("step", "source", "target")
    )
    stacked = np.stack(points)[..., 0]
    other = stacked[step, source] * stacked[step + 1, target] < 0
    return np.asarray(couplings.weight)[other].sum() / couplings.weight.sum()


@pytest.mark.parametrize("velocity", [0.0, 1.5])
def test_clusters_whose_shares_change_grow_and_do_not_exchange_cells(velocity):
    points, growth = estimated(velocity=velocity)
    np.testing.assert_allclose(faster(points, growth.rates), TRUTH, rtol=0.1)
    # Balanced transport carries cells from one to the other.
    balanced, _ = couple(snapshots_from_arrays(points), key=KEY)
    assert crossed(points, balanced) > 0.12
    assert crossed(points, growth.couplings) < 0.01


@pytest.mark.parametrize("velocity", [0.0, 1.5])
def test_cells_of_one_cluster_grow_alike_wherever_they_are_in_it(velocity):
    points, growth = estimated(velocity=velocity)
    for x, rates in zip(points[:-1], np.asarray(growth.rates), strict=False):
        upper = x[:, 0] > 0
        # Those ahead do not divide, nor do those behind die.
        slope = np.polyfit(x[upper, 1], rates[upper], 1)[0]
        assert abs(slope) < 0.15
        assert rates[upper].std() < 0.25


def test_relative_rates_are_centred_and_their_weights_have_the_next_shares():
    points, growth = estimated()
    assert not growth.absolute
    for k, x in enumerate(points[:-1]):
        rates = np.asarray(growth(x, k + 0.5))
        assert abs(rates.mean()) < 1e-5
        np.testing.assert_allclose(rates, growth.rates[k], atol=1e-5)
        weights = np.asarray(growth.source_weights[k], np.float64)
        np.testing.assert_allclose(weights, np.exp(rates) / np.exp(rates).sum(), rtol=1e-4)
        assert weights[x[:, 0] > 0].sum() == pytest.approx(SHARES[k + 1], abs=0.01)


def test_equal_laws_and_masses_grow_by_no_more_than_the_error():
    points, growth = of_equal_laws()
    rates = np.asarray(growth.rates[:-1])
    errors = np.stack([growth.error(x, k + 0.5) for k, x in enumerate(points[:-1])])
    assert np.sqrt(np.mean((rates / errors) ** 2)) < 1.5
    assert np.abs(faster(points, rates)).max() < 0.1
    assert np.sqrt(np.mean(errors**2)) < 0.25


def test_of_branches_that_grow_and_die_a_small_smooth_rate_is_found_and_few_cells_change_the_branch():
    course = branching.branching_course(KEY, n_cells=800, times=(0.0, 1.0, 2.0, 3.0))
    points = course.snapshots
    snapshots = snapshots_from_arrays(list(points), times=list(course.times))
    settings = GrowthSettings(growth_amplitude=3.0, growth_change=0.3)
    growth = estimate_growth(snapshots, settings, key=KEY)
    true = jax.vmap(jax.vmap(lambda x: branching.growth(x, 0.8)))(jnp.asarray(points[:-1]))
    true, rates = (
        np.asarray(v) - np.asarray(v).mean(axis=1, keepdims=True) for v in (true, growth.rates[:-1])
    )
    # Over five data seeds it is .91 to .96.
    assert np.corrcoef(true.ravel(), rates.ravel())[0, 1] > 0.95
    assert np.polyfit(true.ravel(), rates.ravel(), 1)[0] == pytest.approx(1.0, abs=0.25)

    def to_the_other_branch(couplings):
        sides = np.stack([branching.branch(x) for x in points])
        step, source, target, weight = (
            np.asarray(getattr(couplings, name)) for name in ("step", "source", "target", "weight")
        )
        start, end = sides[step, source], sides[step + 1, target]
        return weight[start * end < 0].sum() / weight[start != 0].sum()

    balanced, _ = couple(snapshots, key=KEY)
    assert to_the_other_branch(balanced) > 0.12
    assert to_the_other_branch(growth.couplings) < 0.03


def test_masses_are_met_to_rounding():
    points, growth = of_equal_laws()
    assert growth.absolute
    for k, x in enumerate(points[:-1]):
        assert np.exp(np.asarray(growth(x, k + 0.5))).mean() == pytest.approx(1.0, abs=1e-5)


def test_rates_do_not_depend_on_units_and_have_that_of_inverse_time():
    _, growth = estimated()
    _, scaled = estimated(scale=1e3, dt=0.01)
    np.testing.assert_allclose(scaled.rates * 0.01, growth.rates, atol=0.01)


def test_far_from_zero_the_rate_of_a_cell_is_that_of_the_estimate():
    points = [x + 1e6 for x in clusters(SHARES[:2])]
    snapshots = snapshots_from_arrays(points, times=[1e9, 1e9 + 1.0])
    settings = GrowthSettings(growth_prices=(0.25,), growth_rounds=2)
    growth = estimate_growth(snapshots, settings, key=KEY)
    for t in (1e9 + 0.5, np.float64(1e9 + 0.5)):
        np.testing.assert_allclose(growth(points[0], t), growth.rates[0], atol=1e-4)
    # Single precision tells 0.06 apart there.
    near = growth.error(np.asarray([[1e6, 1e6], [1e6 + 0.01, 1e6]]), 1e9 + 0.5)
    assert near[0] != near[1]


@pytest.mark.parametrize(
    "masses",
    [
        [1, 2],
        [1, 2, 3, -4],
        [1, 2, 3, np.nan],
        ["a", 1, 2, 3],
        [True, True, True, True],
        [1.0, 2.0, True, 4.0],
        ["1", "2", "3", "4"],
        np.array(["1", "2", "3", "4"]),
        np.ones(4, bool),
        3,
    ],
)
def test_masses_that_are_none_are_refused(masses):
    with pytest.raises(ValueError, match="masses must be"):
        estimate_growth(snapshots_from_arrays(clusters()), key=KEY, masses=masses)


@pytest.mark.parametrize("prices", [(), (1.0, 0.0), (0.5, -1.0)])
def test_prices_that_are_none_are_refused(prices):
    with pytest.raises(ValueError, match="prices must be positive"):
        GrowthSettings(growth_prices=prices)


def test_many_cells_take_part_by_a_sample_and_all_have_rates():
    points = clusters(SHARES[:2])
    snapshots = snapshots_from_arrays([points[0], points[1][::2]])
    settings = GrowthSettings(growth_cells=100, growth_prices=(0.25,))
    growth = estimate_growth(snapshots, settings, key=KEY)
    assert np.abs(np.asarray(growth.rates)[0]).min() > 0
    # Of half the cells of the second snapshot the other rows are padding.
    assert not np.asarray(growth.rates)[1, N // 2 :].any()
    # 100 cells a side: two standard errors of the difference of log shares.
    assert faster(points, growth.rates)[0] == pytest.approx(TRUTH[0], abs=0.6)
