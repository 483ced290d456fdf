"""The exact expectations of the solvable linear denoiser against Monte Carlo and closed forms."""

import math

import numpy as np
import pytest
from scipy.special import digamma

from diffusions.linear_denoiser import expectation as module
from diffusions.linear_denoiser.expectation import exact_expectation
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.linear_denoiser.theory import leading_order


def simulated(model, n, count, seed=0):
    """KL and mean variance of `count` laws, in double precision and from the definitions alone."""
    d, rng = model.dimension, np.random.default_rng(seed)
    x = model.mean + model.std * rng.standard_normal((count, n, d))
    noise = math.sqrt(model.noise_variance) * rng.standard_normal(x.shape)
    z = math.exp(-model.time) * (x + noise)
    x_mean, z_mean = x.mean(axis=1, keepdims=True), z.mean(axis=1, keepdims=True)
    z0, x0 = z - z_mean, x - x_mean
    inverse = np.linalg.inv(z0.mT @ z0) @ z0.mT if n > d else np.linalg.pinv(z0, rcond=1e-9)
    slope = inverse @ x0
    mean = (x_mean + (math.exp(-model.time) * x_mean - z_mean) @ slope)[:, 0]
    spread = (x0**2).mean(axis=(1, 2)) + model.noise_variance
    spread *= math.exp(-2 * model.time)
    covariance = spread[:, None, None] * slope.mT @ slope
    variance = np.trace(covariance, axis1=1, axis2=2) / d
    if n <= d:
        return None, variance
    kl = d * variance / model.std**2 - d - np.linalg.slogdet(covariance / model.std**2)[1]
    return 0.5 * (kl + (((mean - model.mean) / model.std) ** 2).sum(axis=1)), variance


def z_score(values, expected):
    return (values.mean() - expected) / (values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize(
    ("d", "n", "std", "time", "noise_scale"),
    [
        (1, 8, 0.7, 0.4, 2.0),
        (2, 13, 2.0, 1.0, 1.0),  # N - d even: both series of equation (6) end early
        (5, 15, 1.0, 2.0, 1.0),
        (6, 15, 1.5, 0.3, 30.0),
        (9, 19, 1.0, 0.1, 1.2),
        (10, 40, 0.5, 2.0, 0.05),  # equation (7)
        (25, 40, 1.0, 2.0, 1.0),
    ],
)
def test_the_expected_kl_is_that_of_simulations(d, n, std, time, noise_scale):
    model = OneStepModel(dimension=d, mean=3.0, std=std, time=time, noise_scale=noise_scale)
    kl, variance = simulated(model, n, 12_000 if d < 20 else 2000)
    exact = exact_expectation(model, np.array([n]))
    assert abs(z_score(kl, exact.kl[0])) < 4
    assert abs(z_score(variance, exact.mean_variance[0])) < 4
    assert math.isnan(exact.hellinger_squared[0])


@pytest.mark.parametrize(("d", "n"), [(8, 2), (8, 4), (12, 8)])
def test_the_expected_variance_of_fewer_points_than_dimensions(d, n):
    model = OneStepModel(dimension=d, std=1.3, time=0.5, noise_scale=0.9)
    _, variance = simulated(model, n, 12_000)
    exact = exact_expectation(model, np.array([n]))
    assert abs(z_score(variance, exact.mean_variance[0])) < 4
    assert (exact.kl[0], exact.hellinger_squared[0]) == (math.inf, 1.0)


@pytest.mark.parametrize(
    ("d", "n", "kl"),
    [
        # (40,000 draws in double precision: 23.251, 18.497 and 14.644, of errors .007 to .01.)
        (64, 130, 23.2495),
        (36, 60, 18.5081),
        (25, 40, 14.6261),
        (100, 150, 58.2508),
        (100, 1000, 12.3200),
    ],
)
def test_values_at_the_defaults(d, n, kl):
    assert exact_expectation(OneStepModel(dimension=d), np.array([n])).kl[0] == pytest.approx(
        kl, abs=1e-4
    )


@pytest.mark.parametrize(("d", "n"), [(1, 60), (7, 90), (30, 161), (100, 420), (100, 500)])
def test_the_two_ways_to_the_determinant_meet(d, n, monkeypatch):
    """Equation (6) in integers, and (7), which is in use here."""
    model = OneStepModel(dimension=d)
    expansion = exact_expectation(model, np.array([n])).kl[0]
    monkeypatch.setattr(module, "_NEGLIGIBLE", 0.0)
    assert exact_expectation(model, np.array([n])).kl[0] == pytest.approx(expansion, rel=1e-11)


def test_where_the_moments_are_infinite():
    exact = exact_expectation(OneStepModel(dimension=5), np.arange(2, 10))
    np.testing.assert_array_equal(np.isinf(exact.kl), [True] * 6 + [False] * 2)
    np.testing.assert_array_equal(
        np.isinf(exact.mean_variance), [False] * 3 + [True] * 3 + [False] * 2
    )
    np.testing.assert_array_equal(exact.hellinger_squared == 1.0, [True] * 4 + [False] * 4)


def test_without_noise_only_mean_and_variance_are_estimated():
    """KL is then a half of log(n d / chi^2) d, whose mean is known."""
    d, n = 4, np.array([5, 6, 8, 50])
    exact = exact_expectation(OneStepModel(dimension=d, noise_scale=0.0), n)
    expected = 0.5 * d * (np.log(n * d / 2) - digamma((n - 1) * d / 2))
    np.testing.assert_allclose(exact.kl, expected, rtol=1e-9)
    np.testing.assert_allclose(exact.mean_variance, 1 - 1 / n, rtol=1e-12)


def test_what_the_leading_order_leaves_out():
    """It is -1/2 log(1 - eta / s^2 d / (n - d)) as n and d grow together."""
    for d in (100, 300):
        model, n = OneStepModel(dimension=d), 5 * d
        missing = (
            exact_expectation(model, np.array([n])).kl[0]
            - leading_order(model, np.array([n])).kl[0]
        )
        ratio = model.noise_variance / model.std**2 * d / (n - d)
        assert missing == pytest.approx(-0.5 * math.log1p(-ratio), abs=2 / d)


def test_the_limit_of_many_points_and_of_large_sums():
    model = OneStepModel(dimension=100)
    far = exact_expectation(model, np.array([10**9]))
    assert far.kl[0] == pytest.approx(model.limiting_kl, rel=1e-6)
    assert far.mean_variance[0] == pytest.approx(model.limiting_ratio, rel=1e-6)
    assert math.isnan(exact_expectation(OneStepModel(dimension=1000), np.array([2000])).kl[0])
