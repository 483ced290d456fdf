"""The solvable linear denoiser against brute force, double precision, closed forms and its theory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import multivariate_normal, norm

from diffusions.linear_denoiser.distance import bandwidth, difference, log_cross, log_pairs
from diffusions.linear_denoiser.model import (
    GaussianLaw,
    OneStepModel,
    generated_law,
    hellinger_squared,
    kl_divergence,
    log_affinity,
)
from diffusions.linear_denoiser.pixel_distance import cross_overlap, pixel_distance, self_overlap
from diffusions.linear_denoiser.theory import leading_order
from diffusions.networks.linear import LinearDenoiser, least_squares
from diffusions.processes import LinearBetaDDPM
from diffusions.samplers import Model, ancestral

MODEL = OneStepModel(dimension=6, mean=3.0, std=1.5, time=0.7, noise_scale=0.8)


def pairs_of(model, n, seed=0):
    rng = np.random.default_rng(seed)
    x = model.mean + model.std * rng.normal(size=(n, model.dimension))
    noise = math.sqrt(model.noise_variance) * rng.normal(size=x.shape)
    return model.shrinkage * (x + noise), x


def fitted(model, n, seed=0, dtype=np.float32):
    z, x = (jnp.asarray(a, dtype) for a in pairs_of(model, n, seed))
    return generated_law(model, least_squares(z, x), x), x


def covariance(law):
    u = np.asarray(law.directions, np.float64)
    return u * np.asarray(law.std, np.float64) ** 2 @ u.T


@pytest.mark.parametrize("n", [2, 4, 6, 7, 8, 40])
def test_least_squares_is_the_minimum_norm_solution(n, double_precision):
    z, x = pairs_of(MODEL, n)
    params = least_squares(jnp.asarray(z), jnp.asarray(x))["params"]
    expected = np.linalg.pinv(z - z.mean(0)) @ (x - x.mean(0))
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-8, atol=1e-10)
    fit = LinearDenoiser(MODEL.dimension).apply({"params": params}, jnp.asarray(z))
    if n <= MODEL.dimension + 1:
        np.testing.assert_allclose(fit, x, atol=1e-8)
    else:
        assert np.abs(fit - x).max() > 0.1


def test_the_loss_is_stationary_at_the_fit(double_precision):
    z, x = (jnp.asarray(a) for a in pairs_of(MODEL, 40))
    network = LinearDenoiser(MODEL.dimension)
    params = least_squares(z, x)
    assert jax.tree.structure(params) == jax.tree.structure(network.init(jax.random.key(0), z))

    def loss(params):
        return jnp.mean((network.apply(params, z) - x) ** 2)

    shifted = jax.tree.map(lambda p: p + 1e-3, params)
    size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(jax.grad(loss)(params)))
    assert size < 1e-10 < 1e-5 < float(loss(shifted) - loss(params))


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="at least 2 training pairs, got 1"):
        least_squares(jnp.ones((1, 3)), jnp.ones((1, 3)))


def test_corrupted_points_have_the_law_of_the_step():
    x = jnp.full((40_000, 6), 3.0)
    z = np.asarray(MODEL.corrupt(jax.random.key(0), x))
    assert z.mean() == pytest.approx(3.0 * math.exp(-0.7), abs=0.005)
    variance = 0.8 * math.exp(-1.4) * (1 - math.exp(-1.4))
    assert z.var() == pytest.approx(variance, rel=0.01)


@pytest.mark.parametrize("n", [4, 30])
def test_the_generated_law_is_that_of_generated_points(n):
    z, x = (jnp.asarray(a, jnp.float32) for a in pairs_of(MODEL, n))
    params = least_squares(z, x)
    law = generated_law(MODEL, params, x)
    assert law.std.shape == (min(n - 1, 6),)
    s2 = float(jnp.mean((x - x.mean(0)) ** 2))
    sigma = MODEL.shrinkage * math.sqrt(s2 + MODEL.noise_variance)
    start = MODEL.shrinkage * x.mean(0) + sigma * jax.random.normal(jax.random.key(1), (200_000, 6))
    points = np.asarray(LinearDenoiser(6).apply(params, start), np.float64)
    scale = float(law.std.max())
    np.testing.assert_allclose(points.mean(0), law.mean, atol=0.015 * scale)
    np.testing.assert_allclose(np.cov(points.T), covariance(law), atol=0.02 * scale**2)
    assert float(law.variance) == pytest.approx(np.trace(covariance(law)) / 6, rel=1e-5)


def test_distances_to_the_truth_in_general_form():
    law, _ = fitted(MODEL, 20)
    d, s2 = MODEL.dimension, MODEL.std**2
    s, shift = covariance(law), np.asarray(law.mean, np.float64) - MODEL.mean
    kl = 0.5 * (np.trace(s) / s2 - d + shift @ shift / s2 - np.linalg.slogdet(s / s2)[1])
    assert float(kl_divergence(MODEL, law)) == pytest.approx(kl, rel=1e-5)
    both = s + s2 * np.eye(d)
    affinity = (
        2 ** (d / 2)
        * np.linalg.det(s) ** 0.25
        * MODEL.std ** (d / 2)
        / np.sqrt(np.linalg.det(both))
        * np.exp(-0.25 * shift @ np.linalg.solve(both, shift))
    )
    assert float(hellinger_squared(MODEL, law)) == pytest.approx(1 - affinity, rel=1e-5)
    assert float(log_affinity(MODEL, law)) == pytest.approx(np.log(affinity), rel=1e-4)


def test_hellinger_distance_is_the_integral():
    model = OneStepModel(dimension=1, mean=0.5, std=0.8)
    law = GaussianLaw(mean=jnp.array([1.1]), directions=jnp.array([[1.0]]), std=jnp.array([0.3]))
    truth, found = norm(0.5, 0.8), norm(1.1, 0.3)
    half = integrate.quad(lambda v: np.sqrt(truth.pdf(v) * found.pdf(v)), -8, 8)[0]
    assert float(hellinger_squared(model, law)) == pytest.approx(1 - half, rel=1e-5)


def test_a_singular_law_is_infinitely_far():
    law, _ = fitted(MODEL, 6)
    assert float(kl_divergence(MODEL, law)) == math.inf
    assert float(hellinger_squared(MODEL, law)) == 1.0


@pytest.mark.parametrize("n", [102, 110, 150, 500])
def test_single_precision_where_determinants_underflow(n):
    """At d = 100 and s = 0.1 det(S) is about 1e-230; H^2 does not depend on the scale."""
    model = OneStepModel(dimension=100, mean=1.0, std=0.1, noise_scale=0.01)
    z, x = pairs_of(model, n)
    single, _ = fitted(model, n)
    z32, x32 = (np.asarray(a, np.float32).astype(np.float64) for a in (z, x))
    b = (np.linalg.pinv(z32 - z32.mean(0)) @ (x32 - x32.mean(0))).T
    mean = x32.mean(0) + b @ (model.shrinkage * x32.mean(0) - z32.mean(0))
    sigma2 = model.shrinkage**2 * (((x32 - x32.mean(0)) ** 2).mean() + model.noise_variance)
    w2 = sigma2 * np.linalg.svd(b)[1] ** 2 / model.std**2
    shift = (mean - model.mean) / model.std
    both = sigma2 * b @ b.T / model.std**2 + np.eye(100)
    affinity = (
        50 * np.log(2)
        + 0.25 * np.log(w2).sum()
        - 0.5 * np.linalg.slogdet(both)[1]
        - 0.25 * shift @ np.linalg.solve(both, shift)
    )
    assert float(log_affinity(model, single)) == pytest.approx(affinity, abs=2e-3)
    assert np.linalg.det(covariance(single).astype(np.float32)) == 0
    kl = 0.5 * ((w2 - 1 - np.log(w2)).sum() + shift @ shift)
    assert float(kl_divergence(model, single)) == pytest.approx(kl, rel=1e-3)


@pytest.mark.parametrize("n", [110, 500])
def test_against_sixty_digits(n):
    """Both distances as they are written, determinants and all, in high precision."""
    mpmath = pytest.importorskip("mpmath")
    model = OneStepModel(dimension=100)
    law, _ = fitted(model, n)
    with mpmath.workdps(60):
        s = mpmath.matrix(covariance(law).tolist())
        shift = mpmath.matrix((np.asarray(law.mean, np.float64) - 10.0).tolist())
        own, both = mpmath.cholesky(s), mpmath.cholesky(s + mpmath.eye(100))
        root = mpmath.fprod(own[i, i] for i in range(100))  # of the determinant
        root_of_both = mpmath.fprod(both[i, i] for i in range(100))
        quadratic = mpmath.norm(mpmath.lu_solve(both, shift)) ** 2
        affinity = (
            mpmath.mpf(2) ** 50 * mpmath.sqrt(root) / root_of_both * mpmath.exp(-quadratic / 4)
        )
        trace = mpmath.fsum(s[i, i] for i in range(100))
        kl = (trace - 100 + mpmath.norm(shift) ** 2) / 2 - mpmath.log(root)
        expected = float(mpmath.log(affinity)), float(1 - affinity), float(kl)
    assert float(log_affinity(model, law)) == pytest.approx(expected[0], abs=2e-3)
    assert float(hellinger_squared(model, law)) == pytest.approx(expected[1], abs=1e-5)
    assert float(kl_divergence(model, law)) == pytest.approx(expected[2], rel=1e-3)


def test_large_n_limit():
    model = OneStepModel(dimension=100)
    assert model.limiting_ratio == pytest.approx(0.5046, abs=5e-5)
    assert model.limiting_kl == pytest.approx(9.428, abs=5e-4)
    assert model.limiting_hellinger_squared == pytest.approx(0.9432, abs=5e-5)
    tiny = OneStepModel(dimension=100, noise_scale=1e-6)
    assert tiny.limiting_kl < 1e-9
    small = OneStepModel(dimension=4, std=0.5, time=1.0, noise_scale=0.3)
    law, _ = fitted(small, 200_000)
    expected = small.limiting_ratio * small.std**2
    np.testing.assert_allclose(np.asarray(law.std) ** 2, expected, rtol=0.02)
    assert float(kl_divergence(small, law)) == pytest.approx(small.limiting_kl, rel=0.02)


def brute_force(model, law, points, scale):
    """Pairs and cross by a double loop over densities, in units of (4 pi s^2)^(-d/2)."""
    n, d = points.shape
    h2 = bandwidth(model, n, scale) ** 2
    unit = (4 * np.pi * model.std**2) ** (d / 2)
    kernel = multivariate_normal(np.zeros(d), 2 * h2 * np.eye(d))
    pairs = sum(kernel.pdf(points[i] - points[j]) for i in range(n) for j in range(n) if i != j)
    smoothed = covariance(law) + h2 * np.eye(d)
    cross = multivariate_normal(np.asarray(law.mean, np.float64), smoothed).pdf(points)
    diagonal = kernel.pdf(np.zeros(d)) / n * unit
    return pairs / n**2 * unit, cross.mean() * unit, diagonal


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize(("n_train", "n"), [(4, 13), (20, 13), (20, 20)])
def test_the_smoothed_distance_is_the_double_loop(n_train, n, scale):
    law, train = fitted(MODEL, n_train)
    points = train if n == n_train else jnp.asarray(pairs_of(MODEL, n, 5)[1], jnp.float32)
    pairs, cross, diagonal = brute_force(MODEL, law, np.asarray(points, np.float64), scale)
    assert diagonal == pytest.approx(scale**-MODEL.dimension)
    found = float(log_pairs(MODEL, points, scale=scale, block_size=5))
    assert found == pytest.approx(np.log(pairs), abs=1e-4)
    found = float(log_cross(MODEL, law, points, scale=scale))
    assert found == pytest.approx(np.log(cross), abs=1e-3)


def test_any_block_size_gives_the_same_pairs():
    _, points = fitted(MODEL, 101)
    values = [float(log_pairs(MODEL, points, block_size=b)) for b in (1, 7, 50, 101, 1000)]
    np.testing.assert_allclose(values, values[0], atol=3e-5)


def test_pairs_of_many_dimensions_do_not_underflow(double_precision):
    model = OneStepModel(dimension=900)
    points = jnp.asarray(pairs_of(model, 12)[1])
    h2 = bandwidth(model, 12) ** 2
    x = np.asarray(points)
    exponents = -((x[:, None] - x) ** 2).sum(-1)[~np.eye(12, dtype=bool)] / (4 * h2)
    expected = np.logaddexp.reduce(exponents) - math.log(12)
    assert expected < -300
    assert float(log_pairs(model, points.astype(jnp.float32))) == pytest.approx(expected, abs=1e-3)


def test_difference_of_logarithms():
    train = (jnp.log(jnp.array([5.0, 1.0])), jnp.log(jnp.array([1.0, 2.0])))
    original = (jnp.log(jnp.array([2.0, 1.0])), jnp.log(jnp.array([4.0, 1.0])))
    sign, log = difference(train, original)
    # 5 - 2 - 2 (1 - 4) = 9 and 1 - 1 - 2 (2 - 1) = -2.
    np.testing.assert_allclose(np.asarray(sign) * np.exp(np.asarray(log)), [9.0, -2.0], rtol=1e-5)
    assert float(difference(original, original).sign[0]) == 0.0


def test_theory_against_simulation(double_precision):
    """d = 60; the curves are leading order: what remains of a logarithm is of order one, whatever d."""
    model = OneStepModel(dimension=60)
    sizes = [30, 90, 240]
    theory = leading_order(model, np.array(sizes))
    for k, n in enumerate(sizes):
        laws = [fitted(model, n, seed, np.float64)[0] for seed in range(40)]
        variance = np.array([float(law.variance) for law in laws])
        error = variance.std() / math.sqrt(40)
        assert theory.mean_variance[k] == pytest.approx(variance.mean(), abs=4 * error + 2e-3)
        if n <= 60:
            assert theory.kl[k] == math.inf
            assert theory.hellinger_squared[k] == 1.0
            continue
        kl = np.mean([float(kl_divergence(model, law)) for law in laws])
        affinity = np.mean([float(log_affinity(model, law)) for law in laws])
        assert theory.kl[k] == pytest.approx(kl, rel=0.04)
        assert theory.log_affinity[k] == pytest.approx(affinity, abs=1.0)


def test_the_expected_kl_is_above_its_leading_order():
    """At d = 25, n = 40 by 4 %: what the columns and curves of leading order leave out."""
    model = OneStepModel(dimension=25)
    rng = np.random.default_rng(0)
    values = []
    for _ in range(1000):
        x = model.mean + model.std * rng.standard_normal((40, 25))
        noise = math.sqrt(model.noise_variance) * rng.standard_normal(x.shape)
        z = model.shrinkage * (x + noise)
        slope = np.linalg.lstsq(z - z.mean(axis=0), x - x.mean(axis=0), rcond=None)[0]
        mean = x.mean(axis=0) + (model.shrinkage * x.mean(axis=0) - z.mean(axis=0)) @ slope
        spread = model.shrinkage**2 * (x.var(axis=0).mean() + model.noise_variance)
        covariance = spread * slope.T @ slope
        values.append(
            0.5 * (np.trace(covariance) - 25 - np.linalg.slogdet(covariance)[1])
            + 0.5 * ((mean - model.mean) ** 2).sum()
        )
    measured, error = np.mean(values), np.std(values) / math.sqrt(1000)
    assert error < 0.01 * measured
    assert leading_order(model, np.array([40])).kl[0] / measured == pytest.approx(0.956, abs=0.02)


def test_theory_ends_in_its_limits():
    model = OneStepModel(dimension=100)
    far = leading_order(model, np.array([10_000_000]))
    assert far.kl[0] == pytest.approx(model.limiting_kl, rel=1e-4)
    assert far.hellinger_squared[0] == pytest.approx(model.limiting_hellinger_squared, rel=1e-5)
    spike = leading_order(model, np.array([100, 101, 102, 103])).mean_variance
    assert np.isinf(spike[:3]).all()
    assert np.isfinite(spike[3])
    # Without noise the denoiser is exact, and only mean and variance are estimated.
    exact = leading_order(OneStepModel(dimension=100, noise_scale=0.0), np.array([101, 200]))
    np.testing.assert_allclose(exact.kl, [0.5 * 100 / 101, 0.25], rtol=0.02)


def double_loop(a, b, variance):
    gaps = a[:, None, :] - b[None]
    kernel = np.exp(-(gaps**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return kernel.mean()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_pixel_distance_is_the_double_loop(scale):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, (5, 4)), rng.normal(0.5, 0.1, (60, 4))
    a, b = (np.asarray(v, np.float32).astype(np.float64) for v in (a, b))
    b[7] = b[8]  # ties
    h_a, h_b = scale * 0.1 / 5, scale * 0.1 / 60
    s_aa, s_bb = double_loop(a, a, 2 * h_a**2), double_loop(b, b, 2 * h_b**2)
    s_ab = double_loop(a, b, h_a**2 + h_b**2)
    a32, b32 = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    assert float(self_overlap(b32, h_b)) == pytest.approx(s_bb, rel=1e-4)
    assert float(cross_overlap(a32, b32, (h_a, h_b))) == pytest.approx(s_ab, rel=1e-4)
    found = float(pixel_distance(a32, b32, std=0.1, scale=scale))
    assert found == pytest.approx(s_aa + s_bb - 2 * s_ab, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_slope_of_an_overlap_is_the_double_loop_of_slopes(scale):
    """In both modes: the sweeps are a loop of unknown length."""
    b = np.random.default_rng(0).normal(0.5, 0.1, (60, 4)).astype(np.float32).astype(np.float64)
    h = scale * 0.1 / 60
    gaps = b[:, None, :] - b[None]
    kernel = np.exp(-(gaps**2) / (4 * h**2)) / np.sqrt(4 * np.pi * h**2)
    expected = (-gaps / (2 * h**2) * kernel).sum(axis=1) * 2 / (60**2 * 4)

    def overlap(b):
        return self_overlap(b, h)

    b32, direction = jnp.asarray(b, jnp.float32), np.sin(30 * gaps[0])
    size = np.abs(expected).max()
    np.testing.assert_allclose(jax.grad(overlap)(b32), expected, rtol=1e-3, atol=1e-4 * size)
    _, rise = jax.jvp(overlap, (b32,), (jnp.asarray(direction, jnp.float32),))
    assert float(rise) == pytest.approx((expected * direction).sum(), rel=1e-3)


def test_the_pixel_distance_of_a_set_to_itself_is_zero():
    a = jax.random.normal(jax.random.key(0), (30, 3))
    overlap = float(self_overlap(a, 1.0 / 30))
    assert abs(float(pixel_distance(a, a, std=1.0))) < 1e-4 * overlap
    assert float(self_overlap(a[:1], 0.5)) == pytest.approx(1 / (np.sqrt(4 * np.pi) * 0.5))


@pytest.mark.parametrize("n_steps", [1, 2, 5, 20, 200])
def test_sampling_a_gaussian_with_its_exact_denoiser(n_steps):
    """Mean and variance after all steps, by the linear recursion of DDPM in its own terms."""
    mean, std = 0.3, 0.4
    process = LinearBetaDDPM(n_steps=n_steps)
    betas = process.betas()
    abar = np.cumprod(1 - betas)

    def denoiser(z, t):
        alpha, sigma = (f(t)[:, None] for f in (process.alpha, process.sigma))
        gain = alpha * std**2 / ((alpha * std) ** 2 + sigma**2)
        return (z - alpha * (mean + gain * (z - alpha * mean))) / sigma

    m, v = 0.0, 1.0
    for k in reversed(range(n_steps)):
        # eps_hat = slope (z - sqrt(abar) mean), and
        # z_{k-1} = (z - beta / sqrt(1 - abar) eps_hat) / sqrt(1 - beta) + sqrt(beta) xi.
        slope = np.sqrt(1 - abar[k]) / (abar[k] * std**2 + 1 - abar[k])
        factor = betas[k] / np.sqrt(1 - abar[k]) * slope
        m = (m - factor * (m - np.sqrt(abar[k]) * mean)) / np.sqrt(1 - betas[k])
        v = ((1 - factor) ** 2 / (1 - betas[k])) * v + (betas[k] if k else 0.0)
    count = 200_000
    z = jax.random.normal(jax.random.key(0), (count, 1))
    times = jnp.arange(n_steps, -1, -1, dtype=jnp.float32)
    model = Model(denoiser, process)
    found = np.asarray(ancestral(model, jax.random.key(1), z, times, noise="large"))
    assert found.mean() == pytest.approx(m, abs=4 * np.sqrt(v / count))
    assert found.var() == pytest.approx(v, rel=4 * np.sqrt(2 / count))
