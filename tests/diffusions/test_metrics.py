"""Metrics against SciPy, scikit-learn, quadrature and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.ndimage
import scipy.stats
from sklearn.metrics.pairwise import polynomial_kernel as sklearn_polynomial
from sklearn.metrics.pairwise import rbf_kernel

from diffusions import metrics

DIVERGENCES = [metrics.frechet_distance, metrics.gaussian_hellinger, metrics.gaussian_kl]


def gaussian(seed, d=5, scale=1.0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, 2 * d))
    return jnp.asarray(scale * rng.normal(size=d)), jnp.asarray(root @ root.T / (2 * d))


def test_frechet_distance_is_that_of_the_matrix_square_root(double_precision):
    (a, cov_a), (b, cov_b) = gaussian(0), gaussian(1)
    root = scipy.linalg.sqrtm(np.asarray(cov_a @ cov_b)).real
    expected = ((a - b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    found = jax.jit(metrics.frechet_distance)(a, cov_a, b, cov_b)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_frechet_distance_in_closed_form(double_precision):
    # Commuting covariances: the sum over axes of the one-dimensional distances.
    s, t = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.0, 0.0])  # also singular ones
    turn = scipy.stats.ortho_group.rvs(3, random_state=0)
    mean = np.array([1.0, -1.0, 0.5])
    found = metrics.frechet_distance(
        jnp.asarray(mean),
        jnp.asarray(turn @ np.diag(s**2) @ turn.T),
        jnp.zeros(3),
        jnp.asarray(turn @ np.diag(t**2) @ turn.T),
    )
    np.testing.assert_allclose(found, (mean**2).sum() + ((s - t) ** 2).sum(), rtol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (4, 3)])
def test_frechet_distance_of_samples_is_that_of_their_moments(double_precision, n, m):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(n, 6))), jnp.asarray(0.5 + 2 * rng.normal(size=(m, 6)))
    moments = (x.mean(axis=0), jnp.cov(x.T), y.mean(axis=0), jnp.cov(y.T))
    found = jax.jit(metrics.frechet_distance_of_samples)(x, y)
    np.testing.assert_allclose(found, metrics.frechet_distance(*moments), rtol=1e-6)
    with pytest.raises(ValueError, match="two vectors"):
        metrics.frechet_distance_of_samples(x[:1], y)


def test_frechet_distance_in_single_precision_with_more_features_than_images():
    # 200 features of 50 images: 150 eigenvalues are zero, and their rounding must not add up.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 200)), rng.normal(size=(50, 200)) + 0.1
    single = metrics.frechet_distance_of_samples(
        jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    )
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    cross = (x - x.mean(axis=0)) @ (y - y.mean(axis=0)).T / 49
    expected = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(cov_x + cov_y)
    expected -= 2 * np.linalg.svd(cross, compute_uv=False).sum()
    np.testing.assert_allclose(single, expected, rtol=1e-5)
    same = metrics.frechet_distance_of_samples(
        jnp.asarray(x, jnp.float32), jnp.asarray(x, jnp.float32)
    )
    assert 0 <= float(same) < 1e-4 * np.trace(cov_x)


@pytest.mark.parametrize(
    ("function", "integrand"),
    [
        (metrics.gaussian_kl, lambda p, q: p * (np.log(p) - np.log(q))),
        (lambda *g: metrics.gaussian_hellinger(*g) ** 2, lambda p, q: (p**0.5 - q**0.5) ** 2 / 2),
    ],
)
def test_divergences_of_densities_by_quadrature(double_precision, function, integrand):
    (a, cov_a), (b, cov_b) = gaussian(3, d=2), gaussian(4, d=2)
    grid = np.linspace(-16, 16, 1601)
    points = np.stack(np.meshgrid(grid, grid), axis=-1)
    p = scipy.stats.multivariate_normal(np.asarray(a), np.asarray(cov_a)).pdf(points)
    q = scipy.stats.multivariate_normal(np.asarray(b), np.asarray(cov_b)).pdf(points)
    kept = (p > 1e-300) & (q > 1e-300)
    values = np.zeros_like(p)
    values[kept] = integrand(p[kept], q[kept])
    expected = scipy.integrate.trapezoid(scipy.integrate.trapezoid(values, grid), grid)
    np.testing.assert_allclose(function(a, cov_a, b, cov_b), expected, rtol=1e-6)


@pytest.mark.parametrize("function", DIVERGENCES)
def test_divergences_vanish_at_equality_and_are_invariant_as_they_should_be(
    double_precision, function
):
    (a, cov_a), (b, cov_b) = gaussian(0), gaussian(1)
    np.testing.assert_allclose(function(a, cov_a, a, cov_a), 0.0, atol=1e-7)
    value = float(function(a, cov_a, b, cov_b))
    assert value > 0.1
    # All are invariant under rotations; Hellinger and KL under every linear map.
    rotation = scipy.stats.ortho_group.rvs(5, random_state=0)
    maps = [rotation]
    if function is not metrics.frechet_distance:
        maps.append(np.random.default_rng(2).normal(size=(5, 5)) + 3 * np.eye(5))
    for f in maps:
        moved = function(f @ a + 1, f @ cov_a @ f.T, f @ b + 1, f @ cov_b @ f.T)
        np.testing.assert_allclose(moved, value, rtol=1e-8)
    gradient = jax.grad(function)(a, cov_a, b, cov_b)
    assert np.isfinite(gradient).all()


def test_hellinger_keeps_its_digits_far_and_near():
    d = 100
    eye = jnp.eye(d, dtype=jnp.float32)
    zero = jnp.zeros(d, jnp.float32)
    # Far apart BC underflows, its logarithm does not.
    far = metrics.log_bhattacharyya(zero, eye, zero + 20, eye)
    np.testing.assert_allclose(far, -d * 400 / 8, rtol=1e-6)
    assert float(metrics.gaussian_hellinger(zero, eye, zero + 20, eye)) == 1.0
    # Near, 1 - BC is far below the rounding of BC = 1.
    near = metrics.gaussian_hellinger(zero, eye, zero.at[0].set(1e-4), eye)
    np.testing.assert_allclose(near, 1e-4 / np.sqrt(8), rtol=1e-4)


@pytest.mark.parametrize("block_size", [7, 1000])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", ["gaussian", "polynomial"])
def test_mmd_is_its_double_sum(double_precision, name, unbiased, block_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(22, 4)) + 0.5
    if name == "gaussian":
        kernel, reference = (
            metrics.gaussian_kernel(1.3),
            lambda a, b: rbf_kernel(a, b, 0.5 / 1.3**2),
        )
    else:
        kernel = metrics.polynomial_kernel
        reference = lambda a, b: sklearn_polynomial(a, b, degree=3, gamma=0.25, coef0=1)  # noqa: E731
    k_xx, k_yy, k_xy = reference(x, x), reference(y, y), reference(x, y)
    if unbiased:
        expected = (k_xx.sum() - np.trace(k_xx)) / (30 * 29)
        expected += (k_yy.sum() - np.trace(k_yy)) / (22 * 21)
    else:
        expected = k_xx.mean() + k_yy.mean()
    expected -= 2 * k_xy.mean()
    found = metrics.mmd_squared(
        jnp.asarray(x), jnp.asarray(y), kernel, unbiased=unbiased, block_size=block_size
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if name == "polynomial" and unbiased:
        distance = metrics.kernel_distance(jnp.asarray(x), jnp.asarray(y), block_size=block_size)
        np.testing.assert_allclose(distance, expected, rtol=1e-9)


def test_the_unbiased_estimate_has_no_bias_and_the_biased_one_has():
    kernel = metrics.gaussian_kernel(1.0)
    x, y = jax.random.normal(jax.random.key(0), (2, 400, 20, 2))

    def mean_of(unbiased):
        estimate = jax.vmap(lambda a, b: metrics.mmd_squared(a, b, kernel, unbiased=unbiased))(x, y)
        return float(estimate.mean()), float(estimate.std()) / np.sqrt(400)

    mean, error = mean_of(unbiased=True)
    assert abs(mean) < 4 * error
    mean, error = mean_of(unbiased=False)
    # E k(x, x') = 1 / (1 + 2) for standard normals in the plane: bias 2 (1 - 1/3) / 20.
    np.testing.assert_allclose(mean, 2 * (1 - 1 / 3) / 20, atol=4 * error)
    with pytest.raises(ValueError, match="two points"):
        metrics.mmd_squared(x[0, :1], y[0], kernel)


def test_median_distance():
    x, y = jnp.array([[0.0], [10.0]]), jnp.array([[1.0], [2.0], [10.5]])
    np.testing.assert_allclose(metrics.median_distance(x, y), (2 + 8) / 2, atol=1.0)
    odd = metrics.median_distance(x[:1], y)
    np.testing.assert_allclose(odd, 2.0, rtol=1e-5)


def pictures(seed=0, shape=(3, 20, 17, 3)):
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2, 0))
    a = np.clip(4 * smooth, -1, 1)
    return a, np.clip(a + 0.1 * rng.normal(size=shape), -1, 1)


def test_psnr():
    a, b = pictures()
    expected = [10 * np.log10(4 / np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True)]
    found = metrics.psnr(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    unit = metrics.psnr(jnp.asarray(a) / 2, jnp.asarray(b) / 2, data_range=1.0)
    np.testing.assert_allclose(unit, expected, rtol=1e-5)
    assert np.isinf(metrics.psnr(jnp.asarray(a), jnp.asarray(a))).all()


def filtered_ssim(a, b, data_range):
    """The usual implementation: filters over the whole image, and drops the borders."""

    def smooth(x):
        return scipy.ndimage.gaussian_filter(x, 1.5, truncate=3.5, mode="reflect")

    values = []
    for channel in range(a.shape[-1]):
        x, y = a[..., channel], b[..., channel]
        m_x, m_y = smooth(x), smooth(y)
        v_x, v_y = smooth(x * x) - m_x * m_x, smooth(y * y) - m_y * m_y
        c_xy = smooth(x * y) - m_x * m_y
        c_1, c_2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        s = (2 * m_x * m_y + c_1) * (2 * c_xy + c_2)
        s = s / ((m_x**2 + m_y**2 + c_1) * (v_x + v_y + c_2))
        values.append(s[5:-5, 5:-5].mean())
    return np.mean(values)


@pytest.mark.parametrize("data_range", [2.0, 1.0])
def test_ssim_is_the_filtered_one(double_precision, data_range):
    a, b = pictures()
    expected = [filtered_ssim(x, y, data_range) for x, y in zip(a, b, strict=True)]
    found = jax.jit(metrics.ssim, static_argnames="data_range")(
        jnp.asarray(a), jnp.asarray(b), data_range=data_range
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert 0.1 < min(expected) < max(expected) < 0.99


def test_ssim_of_equal_images_is_one_and_small_images_have_none():
    a, b = (jnp.asarray(x, jnp.float32) for x in pictures())
    np.testing.assert_allclose(metrics.ssim(a, a), 1.0, atol=1e-5)
    np.testing.assert_allclose(metrics.ssim(a, b), metrics.ssim(b, a), atol=1e-6)
    with pytest.raises(ValueError, match="got 10 x 17"):
        metrics.ssim(a[:, :10], b[:, :10])
