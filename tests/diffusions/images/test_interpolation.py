import numpy as np
import pytest

from diffusions.images.interpolation import INTERPOLATIONS, interpolate

HEIGHT, WIDTH = 9, 12
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


def image(*planes):
    return np.stack(np.broadcast_arrays(*planes), axis=-1)[None].astype(np.float32)


def mask(fraction=0.3, seed=0, channels=2, per_channel=False):
    rng = np.random.default_rng(seed)
    shape = (1, HEIGHT, WIDTH, channels if per_channel else 1)
    return np.repeat(rng.random(shape) < fraction, 1 if per_channel else channels, axis=-1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", INTERPOLATIONS)
def test_told_pixels_stay_and_others_are_not_read(method, per_channel):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, HEIGHT, WIDTH, 2)).astype(np.float32)
    told = mask(per_channel=per_channel)
    found = interpolate(x, told, method)
    np.testing.assert_array_equal(found[told], x[told])
    np.testing.assert_array_equal(interpolate(np.where(told, x, np.nan), told, method), found)


def test_linear_functions_are_reproduced():
    x = image(0.3 * ROWS - 0.1 * COLUMNS, COLUMNS)
    told = mask()
    told[:, [0, 0, -1, -1], [0, -1, 0, -1]] = True  # nothing is outside the hull
    np.testing.assert_allclose(interpolate(x, told, "linear"), x, atol=1e-5)


def test_the_biharmonic_image_has_the_least_curvature():
    x = image(np.sin(ROWS / 2) + np.cos(COLUMNS / 3), ROWS * COLUMNS / 20)
    told = mask()
    found = interpolate(x, told, "biharmonic").astype(np.float64)

    def curvature(x):
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        around = wide[:, 2:, 1:-1] + wide[:, :-2, 1:-1] + wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2]
        return ((around - 4 * x) ** 2).sum()

    rng = np.random.default_rng(2)
    least = curvature(found)
    for _ in range(20):
        change = np.where(told, 0.0, rng.normal(size=x.shape))
        # The minimum of a quadratic: its slope vanishes in every direction.
        slope = (curvature(found + 1e-3 * change) - curvature(found - 1e-3 * change)) / 2e-3
        assert abs(slope) < 1e-3 * curvature(change)
        assert curvature(found + change) > least


def test_nearest_takes_the_value_of_a_nearest_pixel():
    x = image(ROWS * WIDTH + COLUMNS)
    told = mask(channels=1)
    places = np.argwhere(told[0, ..., 0])
    found = interpolate(x, told, "nearest")[0, ..., 0].astype(int)
    rows, columns = np.divmod(found, WIDTH)
    distance = np.hypot(rows - ROWS, columns - COLUMNS)
    least = np.sqrt(((np.argwhere(np.ones((HEIGHT, WIDTH)))[:, None] - places) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(distance.ravel(), least, atol=1e-6)


@pytest.mark.parametrize("method", INTERPOLATIONS)
def test_few_pixels(method):
    x = image(ROWS, COLUMNS)
    for places in ([], [(4, 4)], [(0, 0), (0, 5), (0, 9)]):
        told = np.zeros(x.shape, bool)
        for place in places:
            told[0, place[0], place[1]] = True
        found = interpolate(x, told, method)
        assert np.isfinite(found).all()
        if not places:
            assert not found.any()
        if len(places) == 1:
            np.testing.assert_allclose(found, 4.0, atol=1e-4)
    np.testing.assert_array_equal(interpolate(x, np.ones(x.shape, bool), method), x)


def test_unknown_method():
    with pytest.raises(ValueError, match="nearest, linear, biharmonic"):
        interpolate(image(ROWS), mask(channels=1), "cubic")
