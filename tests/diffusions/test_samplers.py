import functools
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from diffusions.density.exact import gaussian, gaussian_mixture
from diffusions.predictions import convert
from diffusions.processes import (
    LinearBetaDDPM,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    VariancePreserving,
)
from diffusions.samplers import (
    Model,
    adaptive_ode,
    ancestral,
    ddim,
    ode,
    posterior,
    prior,
    sde,
    uniform_times,
)

MEAN = jnp.asarray([1.0, -0.5])
COVARIANCE = jnp.asarray([[1.0, 0.6], [0.6, 0.5]])
GAUSSIAN = gaussian(MEAN, COVARIANCE)
VP = VariancePreserving()
DDPM = LinearBetaDDPM(n_steps=200, beta_max=0.08)


def model(process, law=GAUSSIAN, prediction="epsilon"):
    epsilon = law.denoiser(process)

    def denoiser(z, t):
        return convert(process, z, t, epsilon(z, t), "epsilon", prediction)

    return Model(denoiser, process, prediction)


def check_moments(samples, tolerance=0.04):
    np.testing.assert_allclose(samples.mean(axis=0), MEAN, atol=tolerance)
    np.testing.assert_allclose(np.cov(samples.T), COVARIANCE, atol=tolerance)


def noise(process, t, n=20_000, d=2):
    return prior(jax.random.key(0), (n, d), process, t)


@pytest.mark.parametrize("prediction", ["epsilon", "clean", "score", "velocity"])
def test_ancestral_sampling_of_a_gaussian(prediction):
    z = noise(DDPM, 200.0)
    times = uniform_times(200.0, 1.0, 199)
    check_moments(ancestral(model(DDPM, prediction=prediction), jax.random.key(1), z, times))


def test_large_noise_and_the_last_step():
    z = noise(DDPM, 200.0)
    samples = ancestral(
        model(DDPM), jax.random.key(1), z, uniform_times(200.0, 0.0, 200), noise="large"
    )
    check_moments(samples)


def test_a_single_step_is_the_exact_posterior(double_precision):
    # Joint law of (x, z_s, z_t) for one coordinate: p(z_s | z_t) follows by conditioning.
    m, v = 0.4, 1.7
    law = gaussian(jnp.asarray([m]), jnp.asarray([[v]]))
    t, s = jnp.asarray(120.0), jnp.asarray(119.0)
    a_t, a_s, s_t, s_s = DDPM.alpha(t), DDPM.alpha(s), DDPM.sigma(t), DDPM.sigma(s)
    var_t, var_s = a_t**2 * v + s_t**2, a_s**2 * v + s_s**2
    covariance = (a_t / a_s) * var_s
    z = jnp.linspace(-2.0, 2.0, 5)[:, None]
    gain = covariance / var_t
    mean = a_s * m + gain * (z - a_t * m)
    variance = var_s - gain * covariance
    clean, _ = model(DDPM, law).estimates(z, t)
    found_mean, noise_variance, _ = posterior(DDPM, z, clean, t, s)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-9)
    # What a denoiser cannot give is the uncertainty of x given z_t: DDPM's variance leaves it out.
    x_variance = v - (a_t * v) ** 2 / var_t
    slope = a_s * (s_t**2 - (a_t / a_s * s_s) ** 2) / s_t**2
    np.testing.assert_allclose(noise_variance + slope**2 * x_variance, variance, rtol=1e-9)


def test_posterior_given_the_data_is_exact(double_precision):
    # q(z_s | z_t, x) of the forward process, by conditioning the Gaussian pair (z_s, z_t) on z_t.
    t, s, x = jnp.asarray(57.0), jnp.asarray(31.0), 0.8
    a = DDPM.alpha(t) / DDPM.alpha(s)
    gain = a * DDPM.sigma(s) ** 2 / DDPM.sigma(t) ** 2
    z = jnp.asarray([[0.3]])
    mean, variance, _ = posterior(DDPM, z, jnp.full((1, 1), x), t, s)
    expected = DDPM.alpha(s) * x + gain * (z - DDPM.alpha(t) * x)
    np.testing.assert_allclose(mean, expected, rtol=1e-10)
    np.testing.assert_allclose(variance, DDPM.sigma(s) ** 2 * (1 - gain * a), rtol=1e-9)


def test_ddim_with_eta_1_is_ancestral_sampling():
    z, times = noise(DDPM, 200.0, n=50), uniform_times(200.0, 1.0, 40)
    key = jax.random.key(3)
    one = ddim(model(DDPM), key, z, times, eta=1.0)
    np.testing.assert_allclose(one, ancestral(model(DDPM), key, z, times), atol=2e-4)


def variance_after(process, times, c, *, eta, order):
    """Of N(0, c) by (2) and (5), from the covariance of z and the x_hat before, in closed form."""
    alpha, sigma = (np.asarray(f(times), np.float64) for f in (process.alpha, process.sigma))
    with np.errstate(divide="ignore"):
        h = np.diff(2 * (np.log(alpha) - np.log(sigma)))
    covariance = np.diag([sigma[0] ** 2, 0.0])
    for i in range(len(h)):
        (a, b), (s, u) = alpha[i : i + 2], sigma[i : i + 2]
        gain = a * c / (a**2 * c + s**2)
        squared = (eta * u / s) ** 2 * (s**2 - (a / b * u) ** 2)
        kept = np.sqrt(u**2 - squared) / s
        r = 0.5 * min(h[i] / h[i - 1], 1) if order == 2 and i and np.isfinite(h[i]) else 0.0
        on_clean = b - kept * a
        step = np.array([[kept + on_clean * (1 + r) * gain, -on_clean * r], [gain, 0.0]])
        covariance = step @ covariance @ step.T
        covariance[0, 0] += squared
    return covariance[0, 0]


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("process", "start", "n_steps", "lost"),
    [(RectifiedFlow(), 1.0, 50, 0.05), (DDPM, 200.0, 200, 0.015)],
)
def test_the_variance_of_a_gaussian_is_that_of_the_data(process, start, n_steps, lost, eta):
    c, times = np.array([0.3, 1.0]), uniform_times(start, 0.0, n_steps)

    def clean(z, t):
        a, s = process.alpha(t)[:, None], process.sigma(t)[:, None]
        return a * c * z / (a**2 * c + s**2)

    draw = ancestral if eta == 1.0 else functools.partial(ddim, eta=eta)
    for order in (1, 2):
        found = draw(
            Model(clean, process, "clean"),
            jax.random.key(1),
            noise(process, start),
            times,
            order=order,
        )
        exact = [variance_after(process, times, each, eta=eta, order=order) for each in c]
        np.testing.assert_allclose(np.asarray(found).var(axis=0), exact, rtol=0.03)
        error = exact / c - 1
        assert (abs(error) < 0.01).all() if order == 2 else (error < -lost).all(), error


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_laws_converge_with_the_order(eta, double_precision):
    # h^2 log h, as the steps of the flow's ends are no smaller in log SNR when there are more.
    for order, low, high in ((1, 0.9, 1.1), (2, 1.7, 2.0)):
        errors = []
        for n in (400, 800):
            times = jnp.linspace(1.0, 0.0, n + 1)
            errors.append(variance_after(RectifiedFlow(), times, 1.0, eta=eta, order=order) - 1)
        assert low < np.log2(errors[0] / errors[1]) < high


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_of_a_gaussian(eta):
    z = noise(DDPM, 200.0)
    check_moments(ddim(model(DDPM), jax.random.key(1), z, uniform_times(200.0, 0.0, 200), eta=eta))


@pytest.mark.parametrize("churn", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("name", ["vp", "flow", "ou"])
def test_sde_of_a_gaussian(name, churn):
    process, times = {
        "vp": (VP, uniform_times(-9.0, 9.0, 400)),
        "flow": (RectifiedFlow(), uniform_times(0.998, 0.002, 600)),
        "ou": (OrnsteinUhlenbeck(), uniform_times(4.0, 0.002, 800)),
    }[name]
    z = noise(process, float(times[0]))
    check_moments(sde(model(process), jax.random.key(2), z, times, churn=churn), tolerance=0.06)


def exact_flow(process, z, t, s):
    """The probability flow of a Gaussian scales each principal direction by its deviation."""
    values, vectors = jnp.linalg.eigh(jnp.asarray(COVARIANCE, z.dtype))

    def deviation(t):
        return jnp.sqrt(process.alpha(t) ** 2 * values + process.sigma(t) ** 2)

    along = (z - process.alpha(t) * MEAN) @ vectors
    return process.alpha(s) * MEAN + (along * deviation(s) / deviation(t)) @ vectors.T


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("name", ["vp", "flow"])
def test_order_of_convergence(name, method, order, double_precision):
    process, start, stop = {
        "vp": (VP, -3.0, 3.0),
        "flow": (RectifiedFlow(), 0.9, 0.1),
    }[name]
    z = jax.random.normal(jax.random.key(0), (10, 2), jnp.float64)
    exact = exact_flow(process, z, jnp.asarray(start, jnp.float64), jnp.asarray(stop, jnp.float64))
    law = gaussian(jnp.asarray(MEAN, jnp.float64), jnp.asarray(COVARIANCE, jnp.float64))
    errors = []
    for n in (40, 80):
        times = jnp.linspace(start, stop, n + 1, dtype=jnp.float64)
        found = ode(model(process, law), z, times, method=method)
        errors.append(float(jnp.abs(found - exact).max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_the_flow_runs_from_noise_to_data_and_back(double_precision):
    law = gaussian(jnp.asarray(MEAN, jnp.float64), jnp.asarray(COVARIANCE, jnp.float64))
    own = model(RectifiedFlow(), law, "velocity")
    z = jax.random.normal(jax.random.key(0), (2000, 2), jnp.float64)
    times = jnp.linspace(0.999, 0.001, 201, dtype=jnp.float64)
    samples = ode(own, z, times, method="rk4")
    check_moments(samples, tolerance=0.1)
    np.testing.assert_allclose(ode(own, samples, times[::-1], method="rk4"), z, atol=1e-6)


def test_adaptive_steps_reach_the_exact_flow():
    pytest.importorskip("diffrax")
    z = jax.random.normal(jax.random.key(0), (10, 2))
    found, calls = adaptive_ode(model(VP), z, -5.0, 5.0, tolerance=1e-6)
    exact = exact_flow(VP, z, jnp.asarray(-5.0), jnp.asarray(5.0))
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert 10 < calls < 2000


def test_adaptive_steps_without_diffrax_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"adaptive_ode needs .*jkonet-diffusions\[ode\]"):
        adaptive_ode(model(VP), jnp.zeros((1, 2)), -5.0, 5.0)


def test_mixture_samples_have_the_law_of_the_data():
    law = gaussian_mixture(
        jnp.asarray([0.3, 0.7]),
        jnp.asarray([[-2.0, 0.0], [2.0, 1.0]]),
        jnp.stack([0.1 * jnp.eye(2), jnp.asarray([[0.5, 0.3], [0.3, 0.4]])]),
    )
    z = noise(VP, -10.0, n=4000)
    for samples in (
        ode(model(VP, law), z, uniform_times(-10.0, 8.0, 60)),
        sde(model(VP, law), jax.random.key(5), z, uniform_times(-10.0, 8.0, 300)),
    ):
        left = np.asarray(samples[:, 0] < 0)
        assert left.mean() == pytest.approx(0.3, abs=0.03)
        np.testing.assert_allclose(samples[left].mean(axis=0), [-2.0, 0.0], atol=0.06)
        np.testing.assert_allclose(np.cov(samples[~left].T), law_covariance(1, law), atol=0.06)


def law_covariance(k, law):
    vectors = law.eigenvectors[k]
    return vectors @ jnp.diag(law.eigenvalues[k]) @ vectors.T


def test_clipping_bounds_the_estimates():
    own = model(DDPM)._replace(clip=0.3)
    z = noise(DDPM, 200.0, n=100)
    clean, eps = own.estimates(z, jnp.asarray(100.0))
    assert float(jnp.abs(clean).max()) == pytest.approx(0.3)
    t = jnp.asarray(100.0)
    np.testing.assert_allclose(DDPM.alpha(t) * clean + DDPM.sigma(t) * eps, z, atol=1e-5)


def test_constraints_hold_after_every_step():
    def constrain(key, z, t):
        return z.at[:, 0].set(0.25)

    z, times = noise(DDPM, 200.0, n=20), uniform_times(200.0, 0.0, 50)
    key = jax.random.key(0)
    for samples in (
        ancestral(model(DDPM), key, z, times, constrain=constrain),
        ddim(model(DDPM), key, z, times, constrain=constrain),
        sde(model(VP), key, z, uniform_times(-5.0, 5.0, 10), constrain=constrain),
        ode(model(VP), z, uniform_times(-5.0, 5.0, 10), constrain=constrain),
    ):
        assert (samples[:, 0] == 0.25).all()
        assert np.ptp(samples[:, 1]) > 0


def test_one_network_call_per_step_is_compiled():
    calls = []

    def denoiser(z, t):
        calls.append(z.shape)
        return z

    z, times = jnp.zeros((2, 3)), uniform_times(200.0, 1.0, 77)
    for sampler in (ancestral, ddim):
        calls.clear()
        jax.jit(lambda z, s=sampler: s(Model(denoiser, DDPM), jax.random.key(0), z, times)).lower(z)
        assert len(calls) == 1  # traced once, whatever the number of steps


def test_samples_repeat_by_key():
    z, times = noise(DDPM, 200.0, n=5), uniform_times(200.0, 1.0, 20)
    draw = jax.jit(lambda key: ancestral(model(DDPM), key, z, times))
    np.testing.assert_array_equal(draw(jax.random.key(4)), draw(jax.random.key(4)))
    assert not np.array_equal(draw(jax.random.key(4)), draw(jax.random.key(5)))


@pytest.mark.parametrize(
    "call",
    [
        lambda z, t: ancestral(model(DDPM), jax.random.key(0), z, t, noise="some"),
        lambda z, t: ddim(model(DDPM), jax.random.key(0), z, t, eta=2.0),
        lambda z, t: sde(model(DDPM), jax.random.key(0), z, t, churn=-1.0),
        lambda z, t: ode(model(DDPM), z, t, method="midpoint"),
    ],
)
def test_bad_options(call):
    # The type checker of the tests sees wrong words first.
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        call(jnp.zeros((1, 2)), uniform_times(10.0, 1.0, 3))


@pytest.mark.parametrize(
    "draw",
    [
        lambda z, times: ancestral(model(VP), jax.random.key(0), z, times),
        lambda z, times: ddim(model(VP), jax.random.key(0), z, times),
        lambda z, times: sde(model(VP), jax.random.key(0), z, times),
    ],
)
def test_times_from_data_to_noise(draw):
    with pytest.raises(
        ValueError,
        match="the log SNR of VariancePreserving is 1 at the first and 0 at the last: its",
    ):
        draw(jnp.zeros((1, 2)), uniform_times(1.0, 0.0, 3))


def test_sampling_does_not_start_where_data_are():
    with pytest.raises(
        ValueError, match="at t = 1 VariancePreserving has a log SNR of 1, more data"
    ):
        prior(jax.random.key(0), (1, 2), VP, 1.0)
    with pytest.raises(ValueError, match="at t = 0 RectifiedFlow has a log SNR of inf, more data "):
        prior(jax.random.key(0), (1, 2), RectifiedFlow(), 0.0)
    # Also where a program is traced; half data and half noise is a start that someone may want.
    jax.jit(lambda key: prior(key, (1, 2), VP, 0.0))(jax.random.key(0))
