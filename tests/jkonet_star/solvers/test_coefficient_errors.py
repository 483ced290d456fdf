"""The sandwich formula against a loop, against resampling, and against what it cannot know."""

import jax
import numpy as np
import pytest

from jkonet_star import FeatureSettings, fit, snapshots_from_arrays

KEY = jax.random.key(0)
TAU = 0.2


def cells(n=80, noise=0.02, seed=1):
    """Cells in the plane, each with a speed of its own, noisier the farther they are."""
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(n, 2))]
    own = 0.5 * noise * rng.normal(size=(n, 1))
    for _ in range(3):
        kick = noise * rng.normal(size=(n, 2)) * (1 + np.abs(x[-1]))
        x.append(x[-1] - TAU * x[-1] * [1.0, 0.5] + kick + own)
    return x


def fitted(arrays, bootstrap=0, resample="trajectories", **features):
    features = {"degree": 1, "regularization": 1e-9, **features}
    return fit(
        snapshots_from_arrays(arrays, dt=TAU),
        "jkonet-star-linear-potential",
        key=KEY,
        features=FeatureSettings(radial="none", **features),
        bootstrap=bootstrap,
        resample=resample,
    )


def test_the_covariance_is_that_of_a_loop_over_cells():
    x, ridge = cells(noise=0.002), 0.3  # so little that transport finds every cell again
    energy = fitted(x, total_degree=1, regularization=ridge)
    found = energy.errors.found
    # V = theta . z at unit scale: A is the identity, v the velocity over the speed; y comes first.
    assert energy.model.potential_features.exponents == ((0, 1), (1, 0))
    speed = float(energy.constants["units"].speed)
    steps = [(b - a)[:, ::-1] / TAU / speed for a, b in zip(x[:-1], x[1:], strict=True)]
    velocity = np.stack(steps)
    theta = -velocity.mean(axis=1).sum(axis=0) / (3 + ridge)
    np.testing.assert_allclose(energy.params["potential"], theta, rtol=1e-5)
    score = (velocity + theta).sum(axis=0) / 80
    score -= score.mean(axis=0)
    meat = sum(np.outer(row, row) for row in score) * 80 / 79
    np.testing.assert_allclose(found.covariance, meat / (3 + ridge) ** 2, rtol=1e-4)
    np.testing.assert_allclose(found.ridge_bias, -ridge * theta / (3 + ridge), rtol=1e-5)
    assert found.cells == 80


def test_resampled_trajectories_spread_as_the_sandwich_says():
    energy = fitted(cells(), bootstrap=150)
    spread = np.asarray(energy.replicates.params["potential"]).std(axis=0)
    np.testing.assert_allclose(energy.errors.found.standard_errors, spread, rtol=0.25)
    points = np.array([[1.0, 1.0], [0.0, -1.0]])
    widths = []
    for method in ("sandwich", "corrected"):
        lower, upper = energy.interval(lambda e: e.drift(points), 0.9, method=method)
        widths.append(upper - lower)
    np.testing.assert_allclose(widths[0], widths[1], rtol=0.35)


def test_an_interval_without_replicates_is_linear_in_the_coefficients():
    energy = fitted(cells(), total_degree=1)
    found, speed = energy.errors.found, float(energy.constants["units"].speed)
    lower, upper = energy.interval(lambda e: e.drift(np.zeros((1, 2)))[0], 0.9)
    error = found.standard_errors[::-1]  # the coefficient of y comes first
    np.testing.assert_allclose(upper - lower, 2 * 1.6448536 * speed * error, rtol=1e-5)
    np.testing.assert_allclose(0.5 * (upper + lower), energy.drift(np.zeros((1, 2)))[0], rtol=1e-5)


def test_independent_snapshots_have_no_sandwich():
    energy = fitted([cells(seed=seed)[seed] for seed in range(4)], resample="auto")
    with pytest.raises(ValueError, match="learn from resampled ones"):
        energy.interval(lambda e: e.drift(np.zeros((1, 2))))
    with pytest.raises(ValueError, match="just learned"):
        energy.with_errors(None).interval(lambda e: e.beta, method="sandwich")
