import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusions.density.expectation_maximisation import covariance, covariance_floor, fit_mixture
from jkonet_star import densities as densities_module
from jkonet_star.densities import fit_densities, from_arrays, to_arrays
from jkonet_star.settings import DensitySettings
from jkonet_star.snapshots import snapshots_from_arrays

KEY = jax.random.key(0)
METHODS = ["gmm", "kde"]


def assert_equal_leaves(first, second):
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, two)


def three_snapshots(d=2, n=(200, 150, 180)):
    generator = np.random.default_rng(0)
    return [
        np.concatenate(
            [
                generator.normal(size=(m // 2, d)),
                0.3 * generator.normal(size=(m - m // 2, d)) + 2 + i,
            ]
        )
        for i, m in enumerate(n)
    ]


def fitted(method="gmm", points=None, weights=None, **settings):
    snapshots = snapshots_from_arrays(
        three_snapshots() if points is None else points, weights=weights
    )
    return fit_densities(snapshots, DensitySettings(method=method, **settings), key=KEY)


@jax.jit
def evaluate_compiled(density, snapshot, x):
    return jax.vmap(lambda p: (density.log_density(snapshot, p), density.score(snapshot, p)))(x)


def evaluate(density, x, snapshot=0):
    values = evaluate_compiled(density, snapshot, jnp.asarray(x, jnp.float32))
    return tuple(np.asarray(value, np.float64) for value in values)


def reference_log_density(density, x, snapshot):
    """The mixture in double precision, by SciPy."""
    weights = np.exp(np.asarray(density.log_weights[snapshot], np.float64))
    terms = []
    for w, mean, factor in zip(
        weights, density.means[snapshot], density.precision_factors[snapshot], strict=True
    ):
        factor = np.asarray(factor, np.float64)
        law = scipy.stats.multivariate_normal(mean, np.linalg.inv(factor.T @ factor))
        terms.append(np.log(w) + law.logpdf(x))
    return scipy.special.logsumexp(terms, axis=0)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_mixture_is_the_one_of_scipy(d):
    density = fitted(points=three_snapshots(d), n_components=4)
    x = np.random.default_rng(1).normal(size=(30, d)) * 2
    for snapshot in range(3):
        log_density, score = evaluate(density, x, snapshot)
        expected = reference_log_density(density, x, snapshot)
        np.testing.assert_allclose(log_density, expected, rtol=1e-4, atol=1e-4)
        h = 1e-5
        for axis in range(d):
            step = h * np.eye(d)[axis]
            slope = (
                reference_log_density(density, x + step, snapshot)
                - reference_log_density(density, x - step, snapshot)
            ) / (2 * h)
            np.testing.assert_allclose(score[:, axis], slope, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("d", "weighted", "block_size"), [(1, False, 2048), (2, True, 2048), (5, True, 64)]
)
def test_kernel_density_is_the_one_of_scipy(d, weighted, block_size, monkeypatch):
    monkeypatch.setattr(densities_module, "KERNEL_BLOCK_SIZE", block_size)
    points = [p.astype(np.float32) for p in three_snapshots(d)]
    generator = np.random.default_rng(2)
    weights = [generator.uniform(0.1, 1, len(p)) for p in points] if weighted else None
    density = fitted("kde", points, weights)
    x = generator.normal(size=(30, d)) * 2
    for snapshot in range(3):
        w = None if weights is None else weights[snapshot]
        expected = scipy.stats.gaussian_kde(points[snapshot].T.astype(np.float64), weights=w)
        log_density, score = evaluate(density, x, snapshot)
        np.testing.assert_allclose(log_density, expected.logpdf(x.T), rtol=2e-4, atol=2e-4)
        h = 1e-5
        for axis in range(d):
            step = h * np.eye(d)[axis]
            slope = (expected.logpdf((x + step).T) - expected.logpdf((x - step).T)) / (2 * h)
            np.testing.assert_allclose(score[:, axis], slope, rtol=2e-3, atol=2e-3)


def test_bandwidth_scale_scales_the_bandwidth():
    wide = fitted("kde", bandwidth_scale=2.0)
    np.testing.assert_allclose(wide.precision_factor * 2, fitted("kde").precision_factor, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_score_is_the_gradient_with_a_traced_snapshot(method):
    density = fitted(method)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(40, 2)) * 2, jnp.float32)
    snapshot = jnp.arange(40) % 3
    score = jax.jit(jax.vmap(density.score))(snapshot, x)
    gradient = jax.jit(jax.vmap(jax.grad(density.log_density, argnums=1)))(snapshot, x)
    np.testing.assert_allclose(score, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_tails_are_finite_and_gaussian(method):
    density = fitted(method)
    direction = np.array([0.6, 0.8])
    log_density, score = evaluate(density, np.array([[50.0], [500.0], [5000.0]]) * direction)
    assert np.isfinite(log_density).all()
    pull = -score @ direction
    assert pull[1] / pull[0] == pytest.approx(10, rel=0.2)
    assert pull[2] / pull[1] == pytest.approx(10, rel=0.02)


def test_score_of_a_gaussian():
    generator = np.random.default_rng(0)
    root = np.array([[1.0, 0.0], [0.8, 0.5]])
    points = [generator.normal(size=(20_000, 2)) @ root.T + 3 for _ in range(2)]
    density = fitted(points=points, n_components=1)
    x = generator.normal(size=(500, 2)) @ root.T + 3
    truth = -(x - 3) @ np.linalg.inv(root @ root.T)
    _, score = evaluate(density, x)
    assert np.linalg.norm(score - truth) < 0.03 * np.linalg.norm(truth)


def test_mixture_recovers_clusters():
    generator = np.random.default_rng(0)
    means = np.array([[0.0, 0], [8, 0], [0, 8]])
    counts = [2000, 1000, 500]
    points = np.concatenate(
        [m + 0.5 * generator.normal(size=(c, 2)) for m, c in zip(means, counts, strict=True)]
    )
    weights = np.full(len(points), 1 / len(points))
    fit = fit_mixture(
        points, weights, 3, covariance_floor(covariance(points, weights), 1.0), generator
    )
    order = np.argsort(-fit.weights)
    np.testing.assert_allclose(fit.weights[order], np.array(counts) / 3500, atol=1e-3)
    np.testing.assert_allclose(fit.means[order], means, atol=0.06)
    for factor in fit.precision_factors:
        np.testing.assert_allclose(np.linalg.inv(factor.T @ factor), 0.25 * np.eye(2), atol=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_weights_count_like_repeated_particles(method):
    p = three_snapshots()[0][:60]
    repeats = np.random.default_rng(0).integers(1, 4, 60)
    weighted = [p, p], [repeats.astype(float)] * 2
    repeated = np.repeat(p, repeats, axis=0)
    if method == "gmm":
        # One component has one optimum; more would depend on the first centres.
        one, two = (
            fitted("gmm", *weighted, n_components=1),
            fitted(points=[repeated] * 2, n_components=1),
        )
        np.testing.assert_allclose(one.means, two.means, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            one.precision_factors, two.precision_factors, rtol=1e-4, atol=1e-5
        )
    else:
        expected = scipy.stats.gaussian_kde(p.T.astype(np.float32), weights=repeats)
        log_density, _ = evaluate(fitted("kde", *weighted), p)
        np.testing.assert_allclose(log_density, expected.logpdf(p.T), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_padding_takes_no_part(method):
    points = three_snapshots(n=(200, 100, 100))
    alone = fitted(method, points[1:])
    padded = fitted(method, points)
    x = points[1][:20]
    if method == "kde":
        np.testing.assert_allclose(
            evaluate(alone, x, 0)[0], evaluate(padded, x, 1)[0], rtol=1e-5, atol=1e-5
        )
    else:
        # The first centres differ by snapshot index, the quality of the fit must not.
        every = points[1]
        assert evaluate(alone, every, 0)[0].mean() == pytest.approx(
            evaluate(padded, every, 1)[0].mean(), abs=0.15
        )


@pytest.mark.parametrize("method", METHODS)
def test_the_key_decides_and_row_order_does_not(method):
    points = three_snapshots()
    first, again = fitted(method, points), fitted(method, points)
    assert_equal_leaves(first, again)
    generator = np.random.default_rng(0)
    shuffled = fitted(method, [generator.permutation(p) for p in points])
    assert_equal_leaves(first, shuffled)


@pytest.mark.parametrize("method", METHODS)
def test_arrays_round_trip(method, tmp_path):
    density = fitted(method)
    np.savez(tmp_path / "density.npz", **to_arrays(density))
    with np.load(tmp_path / "density.npz", allow_pickle=False) as arrays:
        restored = from_arrays(arrays)
    assert type(restored) is type(density)
    assert_equal_leaves(density, restored)


def test_foreign_arrays_are_named():
    with pytest.raises(ValueError, match="unknown kind of density 'histogram'"):
        from_arrays({"kind": np.array("histogram")})
    with pytest.raises(ValueError, match="unknown kind of density 'none'"):
        from_arrays({})
    with pytest.raises(ValueError, match="lack log_weights, means"):
        from_arrays({"kind": np.array("gaussian-mixtures"), "precision_factors": np.zeros(1)})


def test_no_components_no_density():
    assert fitted(n_components=0) is None


def collapsed():
    generator = np.random.default_rng(0)
    good = generator.normal(size=(50, 2))
    return {
        "all identical": [np.full((50, 2), 3.0), np.full((50, 2), 3.0)],
        "one snapshot identical": [good, np.full((50, 2), 3.0)],
        "all at the origin": [np.zeros((50, 2)), np.zeros((50, 2))],
        "duplicates": [np.repeat(good[:5], 10, axis=0)] * 2,
        "fewer than components": [good[:3], good[:4]],
        "a single particle": [good[:1], good],
        "constant coordinate": [np.stack([good[:, 0], np.ones(50)], 1)] * 2,
        "collapsed cluster": [np.concatenate([good, np.full((30, 2), 5.0)])] * 2,
        "a line": [np.stack([good[:, 0], 2 * good[:, 0]], 1)] * 2,
        "far away": [good + 1e4] * 2,
        "tiny": [good * 1e-8] * 2,
        "large": [good * 1e8] * 2,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", collapsed())
def test_degenerate_particles_give_finite_densities(method, case):
    points = collapsed()[case]
    density = fitted(method, points)
    for name, value in to_arrays(density).items():
        if name not in ("kind", "log_weights"):
            assert np.isfinite(value).all()
    for snapshot, particles in enumerate(points):
        scale = np.abs(particles).max() + 1e-3
        # As many points in every case, so that the test compiles once per shape of density.
        x = np.concatenate([particles, particles + scale, np.zeros((200, 2))])[:201]
        log_density, score = evaluate(density, x, snapshot)
        assert np.isfinite(log_density).all()
        assert np.isfinite(score).all()


def test_components_are_capped_with_a_word(caplog):
    good = np.random.default_rng(0).normal(size=(50, 2))
    with caplog.at_level(logging.WARNING, logger="jkonet_star"):
        density = fitted(points=[np.repeat(good[:4], 5, axis=0), good], n_components=6)
    assert "snapshot 0 has 4 distinct particles" in caplog.text
    assert density.means.shape == (2, 6, 2)
    np.testing.assert_allclose(np.exp(density.log_weights).sum(1), 1, rtol=1e-5)


def test_no_component_is_dropped():
    points = collapsed()["collapsed cluster"]
    density = fitted(points=points, n_components=5)
    # Five eighths of the mass is the broad cloud; the collapsed cluster holds the rest.
    near = np.linalg.norm(np.asarray(density.means[0]) - 5.0, axis=1) < 0.5
    assert np.exp(density.log_weights[0])[near].sum() == pytest.approx(30 / 80, abs=0.05)


def test_what_densities_say_of_themselves():
    mixtures, kernels = fitted(n_components=3), fitted("kde")
    assert repr(mixtures) == "GaussianMixtures(3 snapshots, 3 components each, dimension 2)"
    assert repr(kernels) == "KernelDensities(3 snapshots of up to 200 particles, dimension 2)"
    for density in (mixtures, kernels):
        seen = []
        jax.jit(lambda d, seen=seen: seen.append(repr(d)))(density)
        assert f"{type(density).__name__}(" in seen[0]
        assert "=float32[3," in seen[0]
