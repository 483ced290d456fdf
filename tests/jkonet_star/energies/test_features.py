"""Features against formulas written independently, and their gradients against differentiation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jkonet_star.energies.features as features_module
from jkonet_star.energies.features import make_features, monomial_exponents, radial_centers
from jkonet_star.settings import FeatureSettings

pytestmark = pytest.mark.usefixtures("double_precision")

FACTORS = {
    "constant": lambda r: 1.0,
    "linear": lambda r: -r,
    "thin-plate": lambda r: r**2 * np.log(r) if r > 0 else 0.0,
    "cubic": lambda r: r**3,
    "quintic": lambda r: -(r**5),
    "multiquadric": lambda r: -np.sqrt(r**2 + 1),
    "inverse-multiquadric": lambda r: 1 / np.sqrt(r**2 + 1),
    "inverse-quadratic": lambda r: 1 / (r**2 + 1),
}


def sample(n, d, seed=0, scale=1.5):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale


def made(d, **settings):
    features, centers = make_features(FeatureSettings(**settings), sample(60, d))
    return features, jnp.asarray(centers)


@pytest.mark.parametrize("trigonometric", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_values_of_monomials(d, trigonometric):
    features, centers = made(d, degree=3, radial="none", trigonometric=trigonometric)
    x = sample(1, d, seed=1)[0]
    monomials = np.array([np.prod(x ** np.array(e)) for e in features.exponents])
    parts = [monomials, np.sin(monomials), np.cos(monomials)] if trigonometric else [monomials]
    found = features.values(centers, jnp.asarray(x))
    assert len(found) == features.n_features
    np.testing.assert_allclose(found, np.concatenate(parts), rtol=1e-12)


@pytest.mark.parametrize("kind", FACTORS)
def test_values_of_radial_functions(kind):
    features, centers = made(
        2, degree=0, radial=kind, radial_centers=3, radial_width=0.7, radial_domain=(-2.0, 3.0)
    )
    x = np.array([0.4, -0.3])
    r = np.linalg.norm(x - np.asarray(centers), axis=1)
    expected = [FACTORS[kind](v) * np.exp(-(v**2) / 0.7) for v in r]
    np.testing.assert_allclose(features.values(centers, jnp.asarray(x)), expected, rtol=1e-12)


def assert_jacobian_is_the_derivative(features, centers, points):
    analytic = jax.jit(jax.vmap(lambda x: features.jacobian(centers, x)))(points)
    automatic = jax.jit(jax.vmap(jax.jacfwd(lambda x: features.values(centers, x))))(points)
    assert analytic.shape == (len(points), features.n_features, points.shape[1])
    np.testing.assert_allclose(analytic, automatic, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("trigonometric", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_gradients_of_monomials(d, trigonometric):
    degree = 2 if trigonometric else 4
    features, centers = made(d, degree=degree, radial="none", trigonometric=trigonometric)
    points = sample(5, d, seed=1)
    points[0] = 0.0  # where a quotient in place of a product would fail
    points[1, 0] = 0.0
    assert_jacobian_is_the_derivative(features, centers, jnp.asarray(points))


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", FACTORS)
def test_gradients_of_radial_functions(kind, d):
    features, centers = made(d, degree=0, radial=kind, radial_centers=4)
    points = jnp.asarray(sample(5, d, seed=1))
    at_centers = centers[:2, :d]
    gradients = jax.jit(jax.vmap(lambda x: features.jacobian(centers, x)))(at_centers)
    assert np.isfinite(np.asarray(gradients)).all()
    # Radially symmetric: the gradient of a smooth or kinked bump at its own centre is taken as zero.
    for i in range(2):
        np.testing.assert_array_equal(gradients[i, i], 0.0)
    assert_jacobian_is_the_derivative(features, centers, jnp.concatenate([points, at_centers]))


SEPARABLE = [
    {"degree": 4, "radial": "constant", "radial_centers": 3},
    {"degree": 0, "radial": "constant", "radial_centers": 4, "radial_width": 1.3},
    {"degree": 3, "radial": "none"},
]
GENERIC = [
    {"degree": 2, "radial": "cubic", "radial_centers": 3},
    {"degree": 2, "radial": "constant", "radial_centers": 3, "trigonometric": True},
    {"degree": 4, "total_degree": 3, "radial": "constant", "radial_centers": 3},
]


@pytest.mark.parametrize("pairs_per_block", [2**18, 30])
@pytest.mark.parametrize(
    ("d", "settings", "separable"),
    [
        *((2, settings, True) for settings in SEPARABLE),
        *((2, settings, False) for settings in GENERIC),
        (1, {"degree": 3, "radial": "constant", "radial_centers": 4}, False),
        (3, {"degree": 2, "radial": "constant", "radial_centers": 4}, False),
    ],
)
def test_mean_gradients_equal_the_dense_mean(d, settings, separable, pairs_per_block, monkeypatch):
    monkeypatch.setattr(features_module, "SEPARABLE_PAIRS_PER_BLOCK", pairs_per_block)
    monkeypatch.setattr(features_module, "POPULATION_PER_BLOCK", 5)
    features, centers = made(d, **settings)
    assert features.separable == separable
    x, y = jnp.asarray(sample(6, d, seed=2)), jnp.asarray(sample(13, d, seed=3))
    weights = np.random.default_rng(4).uniform(0.1, 1.0, 13)
    weights = jnp.asarray(weights / weights.sum())
    found = jax.jit(features.mean_jacobian)(centers, x, y, weights)
    jacobian = jax.vmap(lambda a: jax.vmap(lambda b: features.jacobian(centers, a - b))(y))
    per_pair = jax.jit(jacobian)(x)
    expected = jnp.einsum("nmfd,m->nfd", per_pair, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_all_monomials_up_to_three_dimensions(d, degree):
    exponents = monomial_exponents(d, degree, 0)
    assert len(exponents) == len(set(exponents)) == (degree + 1) ** d - 1
    assert set(exponents) == set(itertools.product(range(degree + 1), repeat=d)) - {(0,) * d}


@pytest.mark.parametrize(
    ("d", "largest", "count"),
    [
        (4, 4, 69),
        (5, 4, 125),
        (10, 3, 285),
        (50, 2, 1325),
    ],
)
def test_the_total_degree_is_bounded_in_more_dimensions(d, largest, count):
    exponents = monomial_exponents(d, 4, 0)
    assert len(exponents) == len(set(exponents)) == count
    assert max(sum(e) for e in exponents) == largest
    assert min(sum(e) for e in exponents) == 1
    # Up to the bound nothing is missing: all linear and all quadratic monomials are there.
    assert sum(sum(e) == 1 for e in exponents) == d
    assert sum(sum(e) == 2 for e in exponents) == d * (d + 1) // 2


@pytest.mark.parametrize("d", [2, 3, 4, 6])
def test_both_bounds_hold_together(d):
    exponents = monomial_exponents(d, 2, 3)
    everything = itertools.product(range(3), repeat=d)
    assert set(exponents) == {e for e in everything if 0 < sum(e) <= 3}


@pytest.mark.parametrize("d", [1, 2])
def test_a_sample_inside_the_domain_has_the_plain_grid(d):
    settings = FeatureSettings(radial_centers=5, radial_domain=(-4.0, 4.0))
    centers = radial_centers(settings, sample(50, d, scale=0.5))
    assert len(centers) == 5**d
    assert np.unique(centers).tolist() == [-4.0, -2.0, 0.0, 2.0, 4.0]
    assert len(np.unique(centers, axis=0)) == len(centers)


@pytest.mark.parametrize(("reach", "extra"), [(4.1, 1), (6.0, 1), (7.9, 2), (1000.0, 2)])
def test_the_grid_continues_outward_at_its_own_spacing(reach, extra):
    settings = FeatureSettings(radial_centers=5, radial_domain=(-4.0, 4.0))
    points = np.array([[0.0, 0.0], [1.0, reach]])
    axis = np.unique(radial_centers(settings, points))
    np.testing.assert_allclose(axis, np.arange(-4 - 2 * extra, 5 + 2 * extra, 2))
    np.testing.assert_allclose(
        np.unique(radial_centers(settings, points, extend=False)), [-4, -2, 0, 2, 4]
    )


def test_centers_in_three_dimensions_lie_among_the_points():
    points = np.concatenate([sample(50, 3, scale=0.1) + shift for shift in (-5.0, 0.0, 5.0)])
    centers = radial_centers(FeatureSettings(radial_centers=3), points)
    np.testing.assert_allclose(np.sort(centers[:, 0]), [-5.0, 0.0, 5.0], atol=0.1)
    with pytest.raises(ValueError, match="radial_centers 10 exceeds the 4 points"):
        radial_centers(FeatureSettings(), sample(4, 3))
