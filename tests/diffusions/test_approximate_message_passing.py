"""AMP for sparse rank-one matrices: its denoiser, state evolution, free energy, and its errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import norm

from data_generation.sparse_rank_one import observations, sample_keys, sparse_vectors
from diffusions.approximate_message_passing import (
    amp,
    entry_posterior,
    expected_overlap,
    free_energy,
    state_evolution,
)
from diffusions.networks.message_passing import start_vectors
from diffusions.sparse_estimators import spectral, squared_distance

compiled = jax.jit(amp, static_argnums=2)


def drawn(ratio, n, k, count, zero_probability=0.5, seed=0):
    """Vectors, observations at t = ratio n, the times, and random unit vectors."""
    keys = sample_keys(jax.random.key(seed), 0, count)
    own, noise, start = jnp.unstack(jax.vmap(lambda key: jax.random.split(key, 3))(keys), axis=1)
    u = sparse_vectors(own, n, k, zero_probability)
    t = jnp.full(count, ratio * n)
    return u, observations(noise, u, t), t, start_vectors(start, n)


@pytest.mark.parametrize(("n", "k"), [(350, 20), (9, 9)])
def test_the_posterior_of_an_entry(n, k, double_precision):
    a, p = math.sqrt(n / k), k / n
    h, gamma = jnp.linspace(-3.0, 3.0, 7), jnp.asarray(0.7)
    values, prior = np.array([-a, 0.0, a]), np.array([p / 2, 1 - p, p / 2])
    weights = prior * np.exp(np.asarray(h)[:, None] * values - 0.35 * values**2)
    total = weights.sum(axis=1)
    found = entry_posterior(h, gamma, n, k)
    mean = weights @ values / total
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-12)
    variance = weights @ values**2 / total - mean**2
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(found.log_normaliser, np.log(total), rtol=1e-6, atol=1e-7)


def test_the_overlap_is_the_integral_over_the_channel():
    """For n = k it is E tanh(gamma + gamma^{1/2} g); in general E f v = E f^2, the prior's own."""
    for gamma in (0.2, 1.0, 4.0):
        dense = integrate.quad(
            lambda g, c=gamma: norm.pdf(g) * math.tanh(c + math.sqrt(c) * g), -9, 9
        )[0]
        assert expected_overlap(gamma, 7, 7) == pytest.approx(dense, rel=1e-8)
    rng = np.random.default_rng(0)
    v = math.sqrt(64 / 6) * rng.choice([-1, 0, 1], 400_000, p=[3 / 64, 58 / 64, 3 / 64])
    h = 0.8 * v + math.sqrt(0.8) * rng.standard_normal(v.shape)
    mean = np.asarray(entry_posterior(jnp.asarray(h), jnp.asarray(0.8), 64, 6).mean)
    for products in (mean * v, mean**2):
        error = products.std() / math.sqrt(len(v))
        assert abs(products.mean() - expected_overlap(0.8, 64, 6)) < 4 * error
    assert expected_overlap(0.0, 64, 6) == pytest.approx(0.0, abs=1e-12)


def test_state_evolution_sees_nothing_up_to_half_of_n():
    errors = state_evolution(np.array([1.0, 100.0, 175.0, 180.0, 350.0, 1400.0]), 350, 20)
    np.testing.assert_allclose(errors[:3], 1.0)
    assert (np.diff(errors[2:]) < 0).all()
    assert errors[-1] < 1e-4
    # Of the dense prior, near the threshold: 1 - q^2 with q = 1 - 1 / lambda^2 to first order.
    dense = state_evolution(np.array([50.5]), 100, 100)[0]
    assert dense == pytest.approx(1.0, abs=2e-3)


def test_amp_follows_state_evolution(optimised):
    """At n = 1000, with and without a spectral start; the matrix is not zero."""
    n, k, ratio = 1000, 200, 1.0
    u, edges, t, start = drawn(ratio, n, k, 4, zero_probability=0.0)
    expected = state_evolution(np.array([ratio * n]), n, k)[0]
    for found in (compiled(edges, t, k), compiled(edges, t, k, start)):
        errors = np.asarray(squared_distance(found, u))
        assert errors.mean() == pytest.approx(expected, rel=0.15)
    # What power iteration and the top eigenvector know is less: 1 - (1 - 1 / lambda^2)^2.
    assert expected < 0.8 * 0.75


def test_amp_is_better_than_the_spectral_estimate_and_knows_zero():
    u, edges, t, start = drawn(1.0, 64, 6, 200)
    nonzero = np.asarray(jnp.any(u != 0, axis=1))
    found = compiled(edges, t, 6)
    errors = np.asarray(squared_distance(found, u))
    rival = np.asarray(squared_distance(jax.jit(spectral, static_argnums=1)(edges, 6), u))
    assert errors.mean() < 0.65 * rival.mean()
    assert errors[~nonzero].mean() < 0.02
    # A sample does not depend on the others.
    np.testing.assert_allclose(compiled(edges[::-1], t, 6)[::-1] ** 2, found**2, atol=1e-4)
    # Late, with either start.
    u, edges, t, start = drawn(4.0, 64, 6, 200, seed=1)
    for first in ((), (start,)):
        assert float(squared_distance(compiled(edges, t, 6, *first), u).mean()) < 0.01


def test_the_zero_matrix_is_as_probable_as_it_is_said_to_be():
    _, edges, t, start = drawn(0.8, 64, 6, 200)
    odds = []
    for p in (0.5, 0.9):
        norms = jnp.sum(amp(edges, t, 6, start, zero_probability=p) ** 2, axis=1)
        odds.append(np.asarray(norms, np.float64))
    # P is 1 / (1 + r) against 1 / (1 + 9 r), so that their ratio lies between 1 and 9.
    seen = odds[0] > 1e-3
    ratio = odds[0][seen] / odds[1][seen]
    assert ratio.min() > 1 - 1e-3
    assert ratio.max() < 9 + 1e-2
    assert ratio.max() > 1.05


def test_the_free_energy_is_stationary_where_amp_stands(double_precision):
    """Its slope by h and gamma vanishes at a fixed point, which is found here by iteration."""
    n, k, ratio = 120, 24, 1.5
    _, edges, _, _ = drawn(ratio, n, k, 1, zero_probability=0.0)
    edges, signal = jnp.asarray(edges[0], jnp.float64), jnp.sqrt(2.0 * ratio)
    mean, h = jnp.zeros(n), 5.0 * jnp.linalg.eigh(edges)[1][:, -1]
    gamma = jnp.asarray(1.0)
    for _ in range(400):
        entries = entry_posterior(h, gamma, n, k)
        pulled = signal * edges @ entries.mean - signal * entries.variance.mean() * mean
        mean, h, gamma = entries.mean, signal * pulled, signal**2 * jnp.mean(entries.mean**2)

    def energy(h, gamma):
        return free_energy(edges, signal, h, gamma, k)

    slopes = jax.grad(energy, (0, 1))
    assert max(float(jnp.abs(s).max()) for s in slopes(h, gamma)) < 1e-5
    assert max(float(jnp.abs(s).max()) for s in slopes(1.1 * h, gamma)) > 1e-3
    assert float(energy(h, gamma)) > 10.0
    assert float(energy(0.0 * h, 0.0 * gamma)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be in 1, ..., n = 5, got 0"),
        ({"k": 6}, "k must be in 1, ..., n = 5, got 6"),
        ({"k": 2, "zero_probability": 1.0}, r"zero_probability must be in \(0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        amp(jnp.zeros((1, 5, 5)), jnp.ones(1), **arguments)
