"""The sampler where the posterior mean is known: a Gaussian prior, and tiny matrices by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from data_generation.sparse_rank_one import sample_keys, symmetric_noise
from diffusions.sparse_estimators import atom_probabilities, posterior_mean, sparse_prior
from diffusions.stochastic_localization import euler, uniform_times

MEAN, VARIANCE = 0.7, 0.25


def gaussian_drift(keys, y, t):
    """Posterior mean of N(MEAN, VARIANCE) given y_t = t x + W_t."""
    return (MEAN / VARIANCE + y) / (1 / VARIANCE + t)


def normal(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (50,)))(keys)


def exact_moments(times):
    """Mean and variance of y under Euler's scheme, which is linear for a Gaussian prior."""
    mean, variance = 0.0, 0.0
    for t, dt in zip(times[:-1].astype(float), np.diff(times.astype(float)), strict=True):
        slope = 1 + dt / (1 / VARIANCE + t)
        mean = slope * mean + dt * MEAN / (1 + t * VARIANCE)
        variance = slope**2 * variance + dt
    return mean, variance


def test_gaussian_samples_have_the_moments_of_the_scheme():
    times = uniform_times(0.5, 20.0)
    keys = sample_keys(jax.random.key(0), 0, 400)
    y = np.asarray(euler(keys, gaussian_drift, normal, jnp.zeros((400, 50)), times), np.float64)
    mean, variance = exact_moments(times)
    assert abs(y.mean() - mean) < 4 * np.sqrt(variance / y.size)
    assert abs(y.var() / variance - 1) < 4 * np.sqrt(2 / y.size)
    assert stats.kstest(((y - mean) / np.sqrt(variance)).ravel(), "norm").pvalue > 1e-4


def test_the_scheme_converges_with_order_one_to_the_law_of_the_process():
    # y_T = T x + W_T has variance T^2 VARIANCE + T; the mean is exact at every step.
    horizon = 10.0
    truth = horizon**2 * VARIANCE + horizon
    errors = []
    for step in (0.5, 0.25, 0.125):
        mean, variance = exact_moments(uniform_times(step, horizon))
        np.testing.assert_allclose(mean, horizon * MEAN, rtol=1e-5)
        errors.append(abs(variance - truth))
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 1, atol=0.2)


@pytest.mark.slow
def test_sparse_samples_have_the_law_of_the_prior():
    # n = 4, k = 2: the ideal drift is known, so that nothing but the step can be wrong.
    n, total, horizon = 4, 4000, 60.0
    prior = sparse_prior(n, 2, 0.5)
    times = uniform_times(0.1, horizon)

    def drift(keys, y, t):
        count = y.shape[0]
        edges = y / jnp.maximum(t, 1e-30)
        return posterior_mean(prior, edges, jnp.broadcast_to(t, count))

    keys = sample_keys(jax.random.key(1), 0, total)
    noise = lambda keys: symmetric_noise(keys, n)  # noqa: E731
    y = jax.jit(lambda keys: euler(keys, drift, noise, jnp.zeros((total, n, n)), times))(keys)
    weights = np.asarray(
        atom_probabilities(prior, y / horizon, jnp.full(total, horizon)), np.float64
    )
    assert (weights.max(axis=1) > 0.99).mean() > 0.95  # the sample is decided
    counts = np.bincount(weights.argmax(axis=1), minlength=13)
    expected = total * np.exp(np.asarray(prior.log_weights, np.float64))
    assert stats.chisquare(counts, expected * total / expected.sum()).pvalue > 1e-4


def test_cuts_and_batches_change_nothing():
    times = uniform_times(0.5, 5.0)
    keys = sample_keys(jax.random.key(2), 0, 6)
    whole = euler(keys, gaussian_drift, normal, jnp.zeros((6, 50)), times)
    first = euler(keys, gaussian_drift, normal, jnp.zeros((6, 50)), times[:5])
    np.testing.assert_array_equal(whole, euler(keys, gaussian_drift, normal, first, times[4:], 4))
    half = euler(keys[3:], gaussian_drift, normal, jnp.zeros((3, 50)), times)
    np.testing.assert_allclose(whole[3:], half, rtol=1e-6)


def test_times_end_at_the_horizon():
    np.testing.assert_allclose(uniform_times(0.5, 2.0), [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(uniform_times(0.75, 2.0), [0, 0.75, 1.5, 2])
    assert len(uniform_times(0.1, 0.3)) == 4
    assert len(uniform_times(0.5, 1400.0)) == 2801
    for step in (0.0, 3.0, -1.0):
        with pytest.raises(ValueError, match="step must be"):
            uniform_times(step, 2.0)
