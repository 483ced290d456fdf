import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.images.kriging import Kriging

N, SIDE, TOLD = 3, 10, 30
KRIGING = Kriging()


def told_pixels(seed=0, per_channel=False):
    rng = np.random.default_rng(seed)
    masks = np.zeros((N, SIDE * SIDE, 2), bool)
    for i in range(N):
        for c in range(2):
            if c == 0 or per_channel:
                places = rng.choice(SIDE * SIDE, TOLD, replace=False)
            masks[i, places, c] = True
    images = rng.normal(size=(N, SIDE, SIDE, 2)).astype(np.float32).cumsum(1).cumsum(2) / 5
    return jnp.asarray(images), jnp.asarray(masks.reshape(N, SIDE, SIDE, 2))


def covariance():
    rows, columns = (axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])
    distance = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return np.exp(-((distance / KRIGING.length) ** KRIGING.power))


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_mean_is_the_direct_solution(per_channel):
    images, told = told_pixels(per_channel=per_channel)
    found = np.asarray(Kriging(per_channel=per_channel).mean(images, told, TOLD))
    matrix = covariance()
    for i in range(N):
        for c in range(2):
            places = np.flatnonzero(np.asarray(told)[i, :, :, c])
            values = np.asarray(images, np.float64)[i, :, :, c].ravel()[places]
            system = matrix[np.ix_(places, places)] + KRIGING.nugget * np.eye(TOLD)
            weights = np.linalg.solve(system, values - values.mean())
            expected = values.mean() + matrix[:, places] @ weights
            np.testing.assert_allclose(found[i, :, :, c].ravel(), expected, atol=2e-4)


def test_other_pixels_are_not_read():
    images, told = told_pixels()
    other = jnp.where(told, images, 7.0)
    for image in (images, other):
        assert np.isfinite(image).all()
    np.testing.assert_array_equal(KRIGING.mean(images, told, TOLD), KRIGING.mean(other, told, TOLD))
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        KRIGING.draw(key, images, told, TOLD), KRIGING.draw(key, other, told, TOLD)
    )


def test_draws_have_the_conditional_law():
    images, told = (a[:1, :, :, :1] for a in told_pixels())
    n = 4000
    draws = KRIGING.draw(
        jax.random.key(1), jnp.tile(images, (n, 1, 1, 1)), jnp.tile(told, (n, 1, 1, 1)), TOLD
    )
    draws = np.asarray(draws, np.float64).reshape(n, -1)
    matrix, places = covariance(), np.flatnonzero(np.asarray(told).ravel())
    system = matrix[np.ix_(places, places)] + KRIGING.nugget * np.eye(TOLD)
    values = np.asarray(images, np.float64).ravel()[places]
    centred = values - values.mean()
    variance = centred @ np.linalg.solve(system, centred) / TOLD
    # g - K_.C (K_CC + nugget)^-1 g_C, with g of covariance K: both terms of its covariance.
    gain = np.linalg.solve(system, matrix[places]).T
    left = np.eye(SIDE * SIDE)
    left[:, places] -= gain
    expected = variance * left @ matrix @ left.T
    mean = np.asarray(KRIGING.mean(images, told, TOLD)).ravel()
    deviation = np.sqrt(np.diag(expected))
    assert (abs(draws.mean(axis=0) - mean) < 5 * deviation / np.sqrt(n) + 2e-3).all()
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.1 * deviation.max() ** 2)


def test_nothing_told_and_images_that_are_constant():
    images, told = told_pixels()
    nothing = KRIGING.mean(images, jnp.zeros_like(told), 0)
    np.testing.assert_array_equal(nothing, jnp.zeros_like(images))
    flat = jnp.full_like(images, 0.3)
    np.testing.assert_allclose(KRIGING.draw(jax.random.key(0), flat, told, TOLD), flat, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"length": 0.0}, {"power": 2.5}, {"nugget": -0.1}])
def test_what_is_no_covariance(wrong):
    with pytest.raises(ValueError, match="kriging needs"):
        Kriging(**wrong)
