"""The law of the sparse vectors and of the noise, and independence of how a population is cut."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from data_generation import sparse_rank_one
from data_generation.sparse_rank_one import observations, sample_keys

sparse_vectors = jax.jit(sparse_rank_one.sparse_vectors, static_argnums=(1, 2, 3))
symmetric_noise = jax.jit(sparse_rank_one.symmetric_noise, static_argnums=1)


def keys(n_samples, seed=0, start=0):
    return sample_keys(jax.random.key(seed), start, n_samples)


@pytest.mark.parametrize(("n", "k", "p"), [(350, 20, 0.5), (5, 5, 0.25), (7, 1, 0.0)])
def test_vectors_are_sparse_of_norm_one_or_zero(n, k, p):
    u = np.asarray(sparse_vectors(keys(400), n, k, p))
    zero = ~u.any(axis=1)
    np.testing.assert_allclose(np.abs(u[u != 0]), k**-0.5, rtol=1e-6)
    assert (np.count_nonzero(u[~zero], axis=1) == k).all()
    assert stats.binomtest(int(zero.sum()), 400, p).pvalue > 1e-4 if p else not zero.any()


def test_every_support_and_sign_is_equally_likely():
    n, k, total = 4, 2, 6000
    u = np.sign(np.asarray(sparse_vectors(keys(total), n, k, 0.0))).astype(int)
    found = {tuple(row): 0 for row in u}
    assert len(found) == 6 * 4
    for row in u:
        found[tuple(row)] += 1
    assert stats.chisquare(list(found.values())).pvalue > 1e-4


@pytest.mark.parametrize("n", [5, 6])
def test_noise_has_the_law_of_a_symmetrised_gaussian_matrix(n):
    total = 20_000
    s = np.asarray(symmetric_noise(keys(total), n), np.float64)
    np.testing.assert_array_equal(s, s.swapaxes(1, 2))
    places = list(itertools.combinations_with_replacement(range(n), 2))
    entries = np.stack([s[:, i, j] for i, j in places], axis=1)
    covariance = entries.T @ entries / total
    # Of independent entries; a standard error of a variance 1 is sqrt(2 / total) = 0.01.
    np.testing.assert_allclose(
        covariance, np.diag([1.0 if i == j else 0.5 for i, j in places]), atol=0.05
    )
    assert stats.kstest(entries[:, 1] * np.sqrt(2), "norm").pvalue > 1e-4


def test_observations_are_the_signal_and_noise_of_variance_one_over_t():
    u = sparse_vectors(keys(3000), 6, 2, 0.0)
    t = jnp.full(3000, 50.0)
    rest = np.asarray(observations(keys(3000, seed=1), u, t) - u[:, :, None] * u[:, None, :])
    assert np.abs(rest.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(50 * rest.var(axis=0), (1 + np.eye(6)) / 2, rtol=0.15)
    infinite = observations(keys(3, seed=1), u[:3], jnp.full(3, jnp.inf))
    np.testing.assert_array_equal(infinite, u[:3, :, None] * u[:3, None, :])


def test_a_population_does_not_depend_on_its_batches():
    whole = sparse_vectors(keys(10), 9, 3)
    parts = [sparse_vectors(keys(5, start=first), 9, 3) for first in (0, 5)]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))
    noise = symmetric_noise(keys(4), 9)
    np.testing.assert_array_equal(noise[2:], symmetric_noise(keys(2, start=2), 9))


@pytest.mark.parametrize(
    ("n", "k", "p", "message"),
    [(5, 6, 0.5, "k must be"), (5, 0, 0.5, "k must be"), (5, 2, 1.5, "zero_probability")],
)
def test_arguments_out_of_range_are_named(n, k, p, message):
    with pytest.raises(ValueError, match=message):
        sparse_vectors(keys(2), n, k, p)
