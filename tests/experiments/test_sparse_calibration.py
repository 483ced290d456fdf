"""Calibration against an exact posterior: pixels of a Gaussian field of which some are told."""

import numpy as np
import pytest

from experiments.sparse_pixels.calibration import calibration, coverage, error_by_draws

N, SIDE, K = 600, 5, 32


@pytest.fixture(scope="module")
def field():
    """Images of a Gaussian field, the exact posterior mean and draws of it, and the unseen pixels."""
    rng = np.random.default_rng(0)
    places = np.indices((SIDE, SIDE)).reshape(2, -1).T
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    covariance = 0.1 * np.exp(-distance / 3)
    root = np.linalg.cholesky(covariance)
    images = rng.standard_normal((N, SIDE**2)) @ root.T
    told = np.arange(SIDE**2) % 4 == 0
    gain = covariance[:, told] @ np.linalg.inv(covariance[np.ix_(told, told)])
    prior = rng.standard_normal((K, N, SIDE**2)) @ root.T
    mean = images[:, told] @ gain.T
    draws = mean + prior - prior[..., told] @ gain.T
    shape = (N, SIDE, SIDE, 1)
    unseen = np.broadcast_to(~told, (N, SIDE**2)).reshape(shape)
    return images.reshape(shape), mean.reshape(shape), draws.reshape(K, *shape), unseen


def test_errors_of_means_follow_the_number_of_draws(field):
    truth, mean, draws, unseen = field
    best = ((mean - truth) ** 2)[unseen].mean()
    rows = error_by_draws(draws, truth, unseen)
    assert [row["draws"] for row in rows] == [1, 2, 4, 8, 16, 32]
    for row in rows:
        assert row["mse"] == pytest.approx((1 + 1 / row["draws"]) * best, rel=0.02)
        assert row["expected_mse"] == pytest.approx((1 + 1 / row["draws"]) * best, rel=0.02)
        assert row["ratio"] == pytest.approx(1.0, abs=0.02)
        assert abs(row["ratio"] - 1) < 4 * row["ratio_standard_error"]
    # The posterior's mean is the limit, 3 dB above one draw.
    assert 10 * np.log10(rows[0]["mse"] / best) == pytest.approx(3.01, abs=0.1)


def test_intervals_hold_what_they_say(field):
    truth, _, draws, unseen = field
    for level, share in coverage(draws, truth, unseen).items():
        assert share == pytest.approx(level, abs=0.015)
    # Eight draws have no order statistics for 80 %.
    assert list(coverage(draws[:8], truth, unseen)) == [0.5]


@pytest.mark.parametrize(("factor", "covered", "spread"), [(0.5, 0.6, 0.25), (2.0, 0.998, 4.0)])
def test_draws_of_a_wrong_width_are_told(field, factor, covered, spread):
    truth, mean, draws, unseen = field
    found = calibration(mean + factor * (draws - mean), truth, unseen)
    assert found["coverage"]["90%"] == pytest.approx(covered, abs=0.02)
    assert found["spread_over_error"] == pytest.approx(spread, rel=0.05)
    for row in found["errors"]:  # the last one, too: none is its own reference
        ratio = (1 + factor**2 / row["draws"]) / (1 + 1 / row["draws"])
        assert row["ratio"] == pytest.approx(ratio, rel=0.01)
        assert abs(row["ratio"] - 1) > 3 * row["ratio_standard_error"]
    right = calibration(draws, truth, unseen)
    assert right["spread_over_error"] == pytest.approx(1.0, abs=0.03)


def test_equal_images_have_the_error_of_rounding():
    images = np.zeros((2, 4, 4, 3))
    unseen = np.ones(images.shape, bool)
    rows = error_by_draws(np.stack([images, images]), images, unseen)
    assert rows[0]["ratio"] == 1.0
    assert rows[0]["psnr_unseen"] == pytest.approx(10 * np.log10(4 * 12 * 127.5**2))


def test_a_single_draw_has_no_calibration():
    images = np.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match="two draws or more"):
        calibration(images[None], images, np.ones(images.shape, bool))
