"""Draws from strata: no bias, a spread that is their variance's, and strata that are compact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jkonet_star.solvers.strata import (
    HALVINGS,
    compact_order,
    mean_and_spread,
    uniform_in_strata,
)

REPEATS = 20_000


@pytest.mark.parametrize("draws", [2, 3, 5, 8, 16])
def test_every_stratum_has_draws_for_its_share(draws):
    found = np.asarray(uniform_in_strata(jax.random.key(0), 500, draws))
    sizes = [len(own) for own in np.array_split(np.arange(draws), draws // 2)]
    edges = np.concatenate([[0], np.cumsum(sizes)]) / draws
    for size, low, high, own in zip(
        sizes, edges[:-1], edges[1:], np.split(found, np.cumsum(sizes)[:-1], axis=1), strict=True
    ):
        assert size in (2, 3)
        assert own.min() >= low - 1e-6
        assert own.max() < min(high + 1e-6, 1.0)
        assert own.min() < low + 0.1 * (high - low)
        assert own.max() > high - 0.1 * (high - low)


@pytest.mark.parametrize("draws", [2, 3, 4, 7, 16])
def test_mean_and_spread_have_no_bias(draws):
    """Against sums over a population of which a smooth and a rough function are the values."""
    rng = np.random.default_rng(draws)
    weights = rng.dirichlet(np.ones(40))
    population = np.stack([np.linspace(-1, 2, 40), rng.normal(size=40)], axis=1)
    edges = np.cumsum(weights)
    shares = np.asarray(uniform_in_strata(jax.random.key(1), REPEATS, draws))
    rows = np.minimum(np.searchsorted(edges, shares, side="right"), 39)
    mean, spread = mean_and_spread(jnp.asarray(population[rows], jnp.float32))
    mean, spread = np.asarray(mean, np.float64), np.asarray(spread, np.float64)
    error = mean.std(axis=0) / np.sqrt(REPEATS)
    assert (np.abs(mean.mean(axis=0) - weights @ population) < 4.5 * error).all()
    variance = mean.var(axis=0).sum()
    assert abs(spread.mean() - variance) < 4.5 * spread.std() / np.sqrt(REPEATS) + 0.03 * variance


def test_no_draw_is_past_the_last_particle(monkeypatch):
    """Just below 1, as the last stratum's are at times: 15.9999999 / 16 is 1 in single precision."""
    largest = np.float32(1) - np.finfo(np.float32).epsneg
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: jnp.full(shape, largest))
    found = np.asarray(uniform_in_strata(jax.random.key(0), 3, 16))
    assert found.dtype == np.float32
    assert found.max() < 1


def test_one_draw_has_no_spread():
    with pytest.raises(ValueError, match="a mean needs at least 2 draws, got 1"):
        uniform_in_strata(jax.random.key(0), 3, 1)


def test_rows_without_weight_choose_no_axis():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(50, 2)) * [1.0, 3.0], 100 * np.eye(2)[[0] * 50]])
    weights = np.repeat([0.02, 0.0], 50)
    found = compact_order(points, weights, halvings=1)
    found = found[found < 50]
    assert points[found[:25], 1].max() < points[found[26:], 1].min()


def test_two_draws_are_independent_ones():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(9, 2, 3)), jnp.float32)
    mean, spread = mean_and_spread(values)
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-6)
    expected = ((values - mean[:, None]) ** 2).sum(axis=(1, 2)) / 2
    np.testing.assert_allclose(spread, expected, rtol=1e-5)


def variance_of_means(points, draws):
    shares = np.asarray(uniform_in_strata(jax.random.key(2), REPEATS, draws))
    rows = np.minimum((shares * len(points)).astype(int), len(points) - 1)
    return points[rows].mean(axis=1).var(axis=0).sum()


def test_near_particles_are_neighbours():
    """In two dimensions the mean of 16 draws has a quarter of the variance of independent ones."""
    points = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    weights = np.full(1000, 1e-3, np.float32)
    order = compact_order(points, weights)
    independent = points.var(axis=0).sum() / 16
    assert variance_of_means(points, 16) > 0.8 * independent
    assert variance_of_means(points[order], 16) < 0.3 * independent
    line = np.random.default_rng(1).normal(size=(200, 1))
    assert (np.diff(line[compact_order(line, np.ones(200), halvings=9)], axis=0) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 100),
    halvings=st.integers(0, HALVINGS),
    ties=st.booleans(),
)
def test_an_order_has_every_row_once(n, seed, halvings, ties):
    rng = np.random.default_rng(seed)
    points = np.zeros((n, 2)) if ties else rng.normal(size=(n, 2))
    weights = rng.integers(0, 2, n).astype(float)  # also none at all
    found = compact_order(points, weights, halvings)
    np.testing.assert_array_equal(np.sort(found), np.arange(n))


def test_halves_are_of_the_weight():
    points = np.arange(10.0)[:, None]
    weights = np.array([0.5, *[0.5 / 9] * 9])
    shuffled = np.random.default_rng(0).permutation(10)
    found = compact_order(points[shuffled], weights[shuffled], halvings=1)
    np.testing.assert_array_equal(np.sort(shuffled[found][:1]), [0])
