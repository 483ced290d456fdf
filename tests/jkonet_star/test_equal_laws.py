"""Whether laws are equal: as many false alarms as the level says, in any unit, for few particles."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import f

from jkonet_star import snapshots_from_arrays
from jkonet_star.equal_laws import equal_laws, equal_means


def turning(n=200):
    """N(0, diag(4, 1)), turned by 30 degrees a step."""
    rng, made = np.random.default_rng(2), []
    for k in range(6):
        c, s = np.cos(k * np.pi / 6), np.sin(k * np.pi / 6)
        made.append((rng.normal(size=(n, 2)) * [2, 1]) @ np.array([[c, s], [-s, c]]))
    return made


def resting(seed, n, d, snapshots=6):
    return list(np.random.default_rng(seed).normal(size=(snapshots, n, d)))


def heavy(seed, n, d):
    """Two clusters of unequal share, and tails."""
    rng = np.random.default_rng(seed)
    sides = np.where(rng.random((6, n, 1)) < 0.7, 4.0, -4.0)
    return list(rng.standard_t(4, size=(6, n, d)) + sides)


@pytest.mark.parametrize("make", [resting, heavy])
@pytest.mark.parametrize(("n", "d"), [(100, 2), (30, 5), (30, 10), (20, 3), (8, 20)])
def test_equal_laws_are_called_different_as_often_as_the_level_says(make, n, d):
    found = np.array(
        [equal_laws(snapshots_from_arrays(make(seed, n, d), dt=0.5)) for seed in range(60)]
    )
    assert (found < 0.05).mean() < 0.12
    assert 0.35 < found.mean() < 0.65


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_law_has_no_unit(scale):
    points = turning()
    found = equal_laws(snapshots_from_arrays(points, dt=0.5))
    assert found < 1e-30
    for unit in (scale, np.array([scale, 1.0])):
        other = snapshots_from_arrays([unit * x for x in points], dt=0.5)
        np.testing.assert_allclose(equal_laws(other), found, rtol=1e-3)


def test_a_law_has_no_origin():
    points = turning()
    found = equal_laws(snapshots_from_arrays(points, dt=0.5))
    other = snapshots_from_arrays([1e3 * x + 7e5 for x in points], dt=0.5)
    plain = dataclasses.replace(other, origin=None)
    np.testing.assert_allclose(equal_laws(plain), found, rtol=0.05)


def test_few_particles_show_what_is_large():
    assert equal_laws(snapshots_from_arrays(turning(40), dt=0.5)) < 1e-3
    moved = [x + 0.5 * k for k, x in enumerate(resting(0, 15, 10))]
    assert equal_laws(snapshots_from_arrays(moved)) < 1e-3
    assert equal_means(snapshots_from_arrays(moved)) < 1e-3


def test_two_means_are_compared_by_hotelling():
    x, y = resting(0, 40, 3, snapshots=2)
    x += 0.4
    covariance = (39 * np.cov(x.T) + 39 * np.cov(y.T)) / 78
    away = x.mean(axis=0) - y.mean(axis=0)
    square = 20.0 * away @ np.linalg.solve(covariance, away)
    expected = f.sf(square * (78 - 3 + 1) / (78 * 3), 3, 78 - 3 + 1)
    np.testing.assert_allclose(equal_means(snapshots_from_arrays([x, y])), expected, rtol=1e-3)


def test_a_turn_about_a_mean_that_rests_is_seen_in_second_moments_only():
    found = snapshots_from_arrays(turning(), dt=0.5)
    assert equal_means(found) > 0.05


def test_weights_count_as_fewer_particles():
    points = resting(3, 100, 2)
    rng = np.random.default_rng(0)
    weights = [np.where(rng.random(100) < 0.2, 1.0, 1e-6) for _ in points]
    few = [x[w > 0.5] for x, w in zip(points, weights, strict=True)]
    np.testing.assert_allclose(
        equal_means(snapshots_from_arrays(points, weights=weights)),
        equal_means(snapshots_from_arrays(few)),
        rtol=1e-2,
    )


@pytest.mark.parametrize("n", [1, 2])
def test_what_cannot_differ_is_called_equal(n):
    assert equal_laws(snapshots_from_arrays(np.ones((2, n, 2)))) == 1.0
    assert equal_laws(snapshots_from_arrays(np.arange(2.0)[:, None, None] * [[1, 0]])) == 1.0
