"""Isotropic mixtures: laws of the draws, independence of points, refusals."""

import jax
import numpy as np
import pytest
from scipy import stats

from data_generation.gaussians import IsotropicMixture

TWO = IsotropicMixture((-1.0, 2.0), (0.5, 0.2), (1.0, 3.0))


def test_coordinates_have_the_density():
    values = np.asarray(TWO.draw(jax.random.key(0), 4000, 1))[:, 0]
    grid = np.linspace(-6, 6, 200_001)
    cumulative = np.cumsum(TWO.density(grid)) * (grid[1] - grid[0])
    assert cumulative[-1] == pytest.approx(1.0, abs=1e-6)
    assert stats.kstest(values, lambda v: np.interp(v, grid, cumulative)).pvalue > 0.01


def test_one_component_makes_a_whole_point():
    points = np.asarray(TWO.draw(jax.random.key(1), 3000, 7))
    second = points.mean(axis=1) > 0.5
    assert second.mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / 3000))
    for mean, std, own in ((-1.0, 0.5, points[~second]), (2.0, 0.2, points[second])):
        assert own.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(own.size))
        assert own.std() == pytest.approx(std, rel=4 / np.sqrt(2 * own.size))
        correlation = np.corrcoef(own.T) - np.eye(7)
        assert np.abs(correlation).max() < 5 / np.sqrt(len(own))


def test_images_are_the_points_row_by_row():
    key = jax.random.key(2)
    images, points = TWO.draw_images(key, 5, 4), TWO.draw(key, 5, 16)
    assert images.shape == (5, 4, 4, 1)
    np.testing.assert_array_equal(np.asarray(images[:, 1, 2, 0]), np.asarray(points[:, 6]))


def test_weights_are_normalised_and_default_to_equal_ones():
    assert TWO.weights == (0.25, 0.75)
    assert IsotropicMixture((0.0, 1.0), (1.0, 3.0)).weights == (0.5, 0.5)
    assert TWO.kernel_std == pytest.approx(0.25 * 0.5 + 0.75 * 0.2)


def test_a_component_without_weight_is_never_drawn():
    law = IsotropicMixture((0.0, 100.0), (1.0, 1.0), (1.0, 0.0))
    assert np.asarray(law.draw(jax.random.key(0), 5000, 1)).max() < 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), ()), "as many means"),
        (((0.0, 1.0), (1.0,)), "got 2, 1 and 2"),
        (((0.0,), (1.0,), (1.0, 2.0)), "got 1, 1 and 2"),
        (((float("nan"),), (1.0,)), "means must be finite"),
        (((0.0,), (0.0,)), "must be positive"),
        (((0.0,), (1.0,), (-1.0,)), "weights"),
        (((0.0,), (1.0,), (0.0,)), "weights"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        IsotropicMixture(*arguments)
