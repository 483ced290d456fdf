"""Baselines against NumPy, the exact estimator against its own optimality, and their symmetries."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.sparse_estimators import (
    atom_probabilities,
    posterior_mean,
    power_iteration,
    rank_one,
    sparse_prior,
    spectral,
    squared_distance,
    squared_distance_to_matrix,
    top_eigenvector,
)


def symmetric(seed, batch, n, scale=1.0):
    noise = np.random.default_rng(seed).normal(size=(batch, n, n)) * scale
    return (noise + noise.swapaxes(1, 2)) / 2


def planted(seed, batch, n, k, t):
    rng = np.random.default_rng(seed)
    u = np.zeros((batch, n))
    for row in u:
        row[rng.permutation(n)[:k]] = rng.choice([-1, 1], k) / np.sqrt(k)
    edges = u[:, :, None] * u[:, None, :] + symmetric(seed + 1, batch, n, t**-0.5)
    return jnp.asarray(u, jnp.float32), jnp.asarray(edges, jnp.float32)


def distance(u, v):
    return np.asarray(squared_distance(jnp.asarray(u), jnp.asarray(v)))


def test_distances_are_those_of_the_matrices():
    u, v = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    expected = ((u[:, :, None] * u[:, None, :] - v[:, :, None] * v[:, None, :]) ** 2).sum((1, 2))
    np.testing.assert_allclose(distance(u, v), expected, rtol=1e-5)
    np.testing.assert_allclose(
        squared_distance_to_matrix(rank_one(jnp.asarray(u)), jnp.asarray(v)), expected, rtol=1e-5
    )
    np.testing.assert_array_equal(distance(u, -u), 0)
    # |u|^4 - 2 (u.v)^2 + |v|^4 would leave nothing of this.
    near = u[:1] * (1 + np.float32(2e-4))
    np.testing.assert_allclose(distance(u[:1], near), (4e-4 * (u[:1] ** 2).sum()) ** 2, rtol=1e-2)


# Full, truncated, with and without a signal, and a matrix without a top.
@pytest.mark.parametrize(("n", "t"), [(20, 5.0), (150, 40.0), (150, 400.0)])
def test_the_top_eigenvector(n, t):
    _, edges = planted(0, 6, n, 5, t)
    found = np.asarray(top_eigenvector(edges))
    expected = np.linalg.eigh(np.asarray(edges, np.float64))[1][:, :, -1]
    np.testing.assert_allclose(np.abs((found * expected).sum(axis=1)), 1, atol=1e-4)
    assert np.isfinite(top_eigenvector(0 * edges)).all()


def test_baselines_are_their_definitions():
    n, k = 40, 4
    start = np.random.default_rng(5).normal(size=(12, n))
    _, edges = planted(3, 12, n, k, 60.0)
    edges = edges.at[6:].add(-0.9 * edges[6:])  # some are rejected

    def rounded(matrix, v, threshold):
        places = np.argsort(-np.abs(v))[:k]
        u = np.zeros(n)
        u[places] = np.sign(v[places]) / np.sqrt(k)
        return u if u @ matrix @ u >= threshold else 0 * u

    by_power = power_iteration(edges, jnp.asarray(start, jnp.float32), k)
    by_spectrum = spectral(edges, k)
    accepted = []
    for i, matrix in enumerate(np.asarray(edges, np.float64)):
        v = start[i]
        for _ in range(25):
            v = matrix @ v
            v /= np.linalg.norm(v)
        expected = rounded(matrix, v, 0.7)
        assert distance(by_power[i], expected.astype(np.float32)) < 1e-9
        expected = rounded(matrix, np.linalg.eigh(matrix)[1][:, -1], 0.8)
        assert distance(by_spectrum[i], expected.astype(np.float32)) < 1e-9
        accepted.append(expected.any())
    assert 0 < sum(accepted) < 12


@pytest.mark.parametrize("name", ["spectral", "power_iteration", "posterior_mean"])
def test_signs_and_permutations_carry_over(name):
    n, k = 6, 2
    u, edges = planted(7, 8, n, k, 30.0)
    t = jnp.full(8, 30.0)
    start = jnp.asarray(np.random.default_rng(1).normal(size=(8, n)), jnp.float32)
    estimate = {
        "spectral": lambda e, s: rank_one(spectral(e, k)),
        "power_iteration": lambda e, s: rank_one(power_iteration(e, s, k)),
        "posterior_mean": lambda e, s: posterior_mean(sparse_prior(n, k), e, t),
    }[name]
    signs = np.array([1, -1, -1, 1, 1, -1], np.float32)
    order = np.array([3, 0, 5, 1, 4, 2])

    def moved(x):
        return (x * signs[:, None] * signs)[:, order][:, :, order]

    plain = estimate(edges, start)
    np.testing.assert_allclose(
        estimate(moved(edges), (start * signs)[:, order]), moved(plain), atol=1e-5
    )
    assert np.abs(plain).max() > 0.1


def test_the_prior_lists_every_matrix_once():
    prior = sparse_prior(5, 3, 0.25)
    atoms = np.asarray(prior.atoms)
    assert atoms.shape == (1 + 10 * 4, 5)
    # Adding zero makes one zero of the two.
    assert len({(np.round(a[:, None] * a, 5) + 0.0).tobytes() for a in atoms}) == 41
    weights = np.exp(np.asarray(prior.log_weights, np.float64))
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(weights[~atoms.any(axis=1)], 0.25, rtol=1e-6)
    with pytest.raises(ValueError, match="more than 1000000"):
        sparse_prior(350, 20)
    with pytest.raises(ValueError, match="k must be"):
        sparse_prior(3, 4)
    with pytest.raises(ValueError, match="zero_probability"):
        sparse_prior(3, 2, 1.0)


def draw(prior, seed, total, t):
    """Matrices of the prior and observations y/t symmetrised of them, by NumPy."""
    rng = np.random.default_rng(seed)
    weights = np.exp(np.asarray(prior.log_weights, np.float64))
    chosen = rng.choice(len(weights), total, p=weights / weights.sum())
    u = np.asarray(prior.atoms)[chosen]
    n = u.shape[1]
    edges = u[:, :, None] * u[:, None, :] + symmetric(seed + 1, total, n, t**-0.5)
    return chosen, jnp.asarray(u), jnp.asarray(edges, jnp.float32)


def test_posterior_weights_are_calibrated():
    # Of all observations to which an atom's posterior gives a probability p, it made a share p.
    prior = sparse_prior(4, 2, 0.5)
    total, t = 6000, 8.0
    chosen, _, edges = draw(prior, 11, total, t)
    weights = np.asarray(atom_probabilities(prior, edges, jnp.full(total, t)), np.float64)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    hits = np.arange(weights.shape[1]) == chosen[:, None]
    cuts = np.linspace(0, 1, 11)
    for low, high in zip(cuts[:-1], cuts[1:], strict=True):
        inside = (weights >= low) & (weights < high)
        expected, variance = weights[inside].sum(), (weights * (1 - weights))[inside].sum()
        assert abs(hits[inside].sum() - expected) < 4 * np.sqrt(variance) + 1


@pytest.mark.parametrize("t", [4.0, 12.0])
def test_no_estimator_beats_the_posterior_mean(t):
    n, k, total = 6, 2, 2000
    prior = sparse_prior(n, k)
    _, u, edges = draw(prior, 5, total, t)
    times = jnp.full(total, t)
    exact = squared_distance_to_matrix(posterior_mean(prior, edges, times), u)
    # Its error is also the mean posterior variance, 1 - |m|^2 summed over atoms of norm 1.
    w = atom_probabilities(prior, edges, times)
    variance = 1 - w[:, 0] - jnp.sum(posterior_mean(prior, edges, times) ** 2, axis=(1, 2))
    spread = np.asarray(exact - variance).std() / np.sqrt(total)
    assert abs(float(exact.mean() - variance.mean())) < 4 * spread
    start = jnp.asarray(np.random.default_rng(1).normal(size=(total, n)), jnp.float32)
    for other in (spectral(edges, k), power_iteration(edges, start, k), 0 * u):
        worse = np.asarray(squared_distance(other, u) - exact)
        assert worse.mean() > 3 * worse.std() / np.sqrt(total)


def test_certain_and_ignorant_limits():
    prior = sparse_prior(5, 2, 0.5)
    u = prior.atoms[jnp.array([0, 3, 9])]
    sharp = posterior_mean(prior, rank_one(u), jnp.full(3, 1e4))
    np.testing.assert_allclose(sharp, rank_one(u), atol=1e-6)
    vague = posterior_mean(prior, rank_one(u), jnp.zeros(3))
    mean = np.einsum(
        "a,ai,aj->ij", np.exp(prior.log_weights), np.asarray(prior.atoms), np.asarray(prior.atoms)
    )
    np.testing.assert_allclose(vague, np.broadcast_to(mean, (3, 5, 5)), atol=1e-6)
