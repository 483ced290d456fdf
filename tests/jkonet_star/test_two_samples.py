"""Energy distance, C2ST and variance ratio: closed forms, equal laws, copies, weights, units."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jkonet_star.two_samples import (
    c2st,
    contributions,
    energy_distance,
    mean_distance,
    nearest,
    spread,
    systematic_counts,
    variance_of_difference,
    variance_ratio,
)

EVEN = np.full(500, 1 / 500)


def rng(seed=0):
    return np.random.default_rng(seed)


def folded_mean(mean, deviation):
    """E|Z| of a normal Z."""
    from scipy.stats import norm

    ratio = mean / deviation
    return deviation * (2 * norm.pdf(ratio) + ratio * (1 - 2 * norm.cdf(-ratio)))


def samples(seed, shift=0.0, scale=1.0, d=1, n=500):
    draw = rng(seed).normal
    return draw(size=(n, d)), shift + scale * draw(size=(n, d))


def test_the_energy_distance_of_two_gaussians_is_the_closed_form():
    shift, scale = 0.7, 1.5
    truth = 2 * folded_mean(shift, np.hypot(1, scale)) - (1 + scale) * np.sqrt(2) * folded_mean(
        0, 1
    )
    found = [energy_distance(*samples(s, shift, scale), EVEN, EVEN) for s in range(40)]
    assert abs(np.mean(found) - truth) < 4 * np.std(found, ddof=1) / np.sqrt(40)
    assert np.std(found) < truth / 5


def test_of_equal_laws_it_is_zero_on_average_with_any_weights():
    weights = rng(9).uniform(0.2, 2.0, 30)
    weights /= weights.sum()
    found = [
        energy_distance(*samples(s, d=2, n=30), weights, np.full(30, 1 / 30)) for s in range(400)
    ]
    error = np.std(found, ddof=1) / 20
    assert abs(np.mean(found)) < 4 * error
    # What the biased estimate would add is seen at this precision.
    assert spread(samples(0, d=2)[0], EVEN) * (weights**2).sum() > 8 * error


def test_distances_in_blocks_are_those_at_once():
    x, y = rng(1).normal(size=(2500, 2)), rng(2).normal(size=(7, 2))
    a, b = rng(3).uniform(size=2500), rng(4).uniform(size=7)
    lengths = np.linalg.norm(x[:, None] - y, axis=-1)
    np.testing.assert_allclose(mean_distance(x, y, a, b), a @ lengths @ b, rtol=1e-12)


def test_the_classifier_guesses_equal_laws_and_knows_others():
    found = [c2st(*samples(s, d=3), EVEN, EVEN, rng()) for s in range(10)]
    # Neighbours that vote alike make errors of more than a binomial one; twice is ample.
    assert abs(np.mean(found) - 0.5) < 4 * 2 * 0.5 / np.sqrt(10 * 1000)
    assert c2st(*samples(0, 30.0, d=3), EVEN, EVEN, rng()) == 1.0
    # Ratio of the densities above 1 where |x| < 1.48: right with probability (.86 + .54) / 2 at best.
    narrow = np.mean([c2st(*samples(s, 0.0, 2.0), EVEN, EVEN, rng()) for s in range(10)])
    assert 0.58 < narrow < 0.68


def test_copies_of_a_sample_cannot_be_told_apart():
    x = rng(1).normal(size=(500, 2))
    assert c2st(x, x[::-1], EVEN, EVEN, rng()) == pytest.approx(0.5, abs=0.07)
    grid = rng(2).integers(0, 3, (2, 500, 2)).astype(float)
    assert c2st(grid[0], grid[1], EVEN, EVEN, rng()) == pytest.approx(0.5, abs=0.07)
    point = np.zeros((500, 2))
    assert c2st(point, point, EVEN, EVEN, rng()) == pytest.approx(0.5, abs=0.07)
    assert c2st(x, point, EVEN, EVEN, rng()) > 0.95


@pytest.mark.parametrize("far", [1, 200, 250])
def test_particles_far_away_do_not_blind_the_classifier(far):
    x, y = samples(0, 6.0, d=2)
    x[:far] = 1e12 * rng(5).normal(size=(far, 2))
    assert c2st(x, y, EVEN, EVEN, rng()) > 0.99
    # All of one side, and none of it near the other.
    assert c2st(1e12 * x, y, EVEN, EVEN, rng()) > 0.99


@pytest.mark.parametrize("statistic", ["c2st", "ratio"])
def test_neither_units_nor_the_origin_matter(statistic):
    def value(x, y):
        if statistic == "c2st":
            return c2st(x, y, EVEN, EVEN, rng())
        return variance_ratio(x, y, EVEN, EVEN)

    x, y = samples(3, 0.4, 0.8, d=4)
    first = value(x, y)
    for factor, shift in ((1e-6, 0.0), (1e9, 0.0), (1.0, 1e4)):
        assert value(factor * x + shift, factor * y + shift) == pytest.approx(first, rel=1e-6)


def test_the_variance_ratio_sees_a_cloud_that_shrinks():
    x = rng(1).normal(size=(500, 3))
    assert variance_ratio(0.5 * x, x, EVEN, EVEN) == pytest.approx(0.25)
    assert np.isnan(variance_ratio(x, 0 * x, EVEN, EVEN))
    a = np.array([0.75, 0.25])
    assert variance_ratio(np.eye(2), np.eye(2), a, a) == pytest.approx(1.0)
    assert variance_ratio(np.eye(2), np.array([[0.0], [2.0]]) @ [[1, 1]], a, a) == (
        pytest.approx(2 / 8)
    )


def test_weights_are_as_good_as_repeated_points():
    x, y = samples(5, 0.8, d=2, n=40)
    times = rng(6).integers(1, 4, 40)
    repeated = np.repeat(x, times, axis=0)
    total = len(repeated)
    a, b = times / total, np.full(40, 1 / 40)
    even = np.full(total, 1 / total)
    assert mean_distance(x, y, a, b) == pytest.approx(mean_distance(repeated, y, even, b))
    # All pairs are the same; unbiased, those of different points are divided by their own share.
    inner = spread(x, a) * (1 - (a**2).sum())
    assert inner == pytest.approx(spread(repeated, even) * (1 - 1 / total))
    np.testing.assert_array_equal(systematic_counts(a, total, rng()), times)
    assert systematic_counts(a, 40, rng()).sum() == 40
    assert abs(systematic_counts(a, 40, rng()) - 40 * a).max() < 1


def test_copies_that_are_drawn_are_no_neighbours_of_themselves():
    x = rng(8).normal(size=(2000, 2))
    tilt = np.exp(x[:, 0])
    found = []
    for seed in range(5):
        y = rng(seed).normal(size=(2000, 2)) + [1.0, 0.0]  # the law of x, tilted
        even = np.full(2000, 1 / 2000)
        found.append(c2st(x, y, tilt / tilt.sum(), even, rng(seed)))
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("d", [3, 20])
def test_neighbours_are_the_nearest_in_any_dimension(d, monkeypatch):
    monkeypatch.setattr("jkonet_star.two_samples._ENTRIES_AT_ONCE", 7 * 300)
    points, queries = rng(1).normal(size=(300, d)), rng(2).normal(size=(40, d))
    exact = np.argsort(((queries[:, None] - points) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(nearest(points, queries, 4), exact[:, :4])
    assert nearest(points[:2], queries, 4).shape == (40, 2)


def test_too_few_points_have_no_scores():
    x, even = rng().normal(size=(4, 2)), np.full(4, 0.25)
    assert np.isnan(c2st(x, x, even, even, rng()))
    assert np.isnan(energy_distance(x[:1], x, np.ones(1), even))


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_the_error_of_a_difference_knows_weights_that_have_grown(exponent):
    """Equation (6) against the deviation over samples: one prediction multiplies, one moves."""
    differences, variances = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + [0.5, 0.0]
        even = np.full(150, 1 / 150)
        grown = np.exp(0.8 * x[:, 0])
        grown /= grown.sum()
        one = contributions(x, y, grown, even, exponent=exponent)
        two = contributions(x - [0.3, 0.0], y, even, even, exponent=exponent)
        differences.append(one.distance - two.distance)
        variances.append(variance_of_difference(one, two, even, even))
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(differences), rel=0.15)


def test_contributions_are_to_distances_of_any_power():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) + 1
    a, b = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(15))
    assert contributions(x, y, a, b).distance == pytest.approx(energy_distance(x, y, a, b))
    found = contributions(x, y, a, b, exponent=0.5)
    expected = (
        2 * a @ np.sqrt(cdist(x, y)) @ b
        - a @ np.sqrt(cdist(x, x)) @ a / (1 - a @ a)
        - b @ np.sqrt(cdist(y, y)) @ b / (1 - b @ b)
    )
    assert found.distance == pytest.approx(expected)
    assert found.sources.sum() == pytest.approx(0)
    assert found.targets.sum() == pytest.approx(0)
    # One particle with all the weight has no other to be compared with.
    assert np.isnan(contributions(x, y, np.eye(20)[0], b).distance)
