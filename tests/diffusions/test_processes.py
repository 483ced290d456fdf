import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusions.predictions import PREDICTIONS, clean_and_epsilon, convert, express
from diffusions.processes import (
    LinearBetaDDPM,
    OrnsteinUhlenbeck,
    RectifiedFlow,
    StochasticLocalization,
    TimedProcess,
    VariancePreserving,
    beside,
    corrupt,
    diffusion_squared,
    log_snr,
    rates,
)

CASES = {
    "vp": (VariancePreserving(), (-3.0, 0.5, 4.0)),
    "ddpm": (LinearBetaDDPM(n_steps=200), (3.5, 50.5, 170.25)),
    "ou": (OrnsteinUhlenbeck(variance=1.7), (0.1, 1.0, 2.0)),
    "localization": (StochasticLocalization(), (0.2, 1.0, 9.0)),
    "flow": (RectifiedFlow(), (0.1, 0.5, 0.9)),
}
each = pytest.mark.parametrize(("process", "times"), CASES.values(), ids=CASES)


@pytest.mark.parametrize("name", ["vp", "ddpm", "flow"])
def test_ends(name):
    process = CASES[name][0]
    data, noise = {"vp": (40.0, -40.0), "ddpm": (0.0, 200.0), "flow": (0.0, 1.0)}[name]
    assert process.alpha(jnp.asarray(data)) == pytest.approx(1.0)
    assert process.sigma(jnp.asarray(data)) == pytest.approx(0.0, abs=1e-6)
    assert process.sigma(jnp.asarray(noise)) == pytest.approx(1.0, abs=0.1)


def test_ddpm_is_the_product_of_its_betas():
    process = LinearBetaDDPM(n_steps=1000)
    betas = np.linspace(1e-4, 0.02, 1000)
    expected = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    found = np.asarray(process.alpha(jnp.arange(1001.0))) ** 2
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    # The first step loses 1e-4 of the signal: sigma must keep digits there.
    assert process.sigma(jnp.asarray(1.0)) == pytest.approx(1e-2, rel=1e-5)


def test_vp_time_is_the_log_snr():
    t = jnp.linspace(-20.0, 20.0, 9)
    np.testing.assert_allclose(log_snr(VariancePreserving(), t), t, rtol=1e-4, atol=1e-4)


@each
def test_the_time_of_a_log_snr_has_it(process, times):
    a = jnp.linspace(-1.5, 10.0, 24)
    np.testing.assert_allclose(log_snr(process, process.time(a)), a, rtol=1e-4, atol=1e-4)
    t = jnp.asarray(times)
    np.testing.assert_allclose(process.time(log_snr(process, t)), t, rtol=1e-4)
    assert isinstance(process, TimedProcess)


def test_ddpm_ends_with_its_last_step():
    process = LinearBetaDDPM(n_steps=1000)
    assert float(process.time(jnp.asarray(-50.0))) == 1000.0
    assert float(process.time(jnp.asarray(100.0))) == pytest.approx(0.0, abs=1e-6)


@each
def test_rates_are_central_differences(process, times, double_precision):
    t, h = jnp.asarray(times, jnp.float64), 1e-5
    for rate, f in zip(rates(process, t), (process.alpha, process.sigma), strict=True):
        np.testing.assert_allclose(rate, (f(t + h) - f(t - h)) / (2 * h), rtol=1e-6)


@each
def test_diffusion_is_the_rate_of_the_log_snr(process, times, double_precision):
    t, h = jnp.asarray(times, jnp.float64), 1e-5
    rate = (log_snr(process, t + h) - log_snr(process, t - h)) / (2 * h)
    expected = process.sigma(t) ** 2 * jnp.abs(rate)
    np.testing.assert_allclose(diffusion_squared(process, t), expected, rtol=1e-6)


def test_known_diffusions():
    t = jnp.asarray(0.7)
    assert diffusion_squared(OrnsteinUhlenbeck(variance=1.3), t) == pytest.approx(2.6, rel=1e-5)
    # y_t = t x + W_t, seen in decreasing t, has unit noise.
    assert diffusion_squared(StochasticLocalization(), t) == pytest.approx(1.0, rel=1e-5)


@each
def test_corrupt_has_the_law_of_equation_1(process, times):
    x = jnp.full((20_000, 2), 0.7)
    t = jnp.full(20_000, times[1])
    z, eps = corrupt(process, jax.random.key(0), x, t)
    alpha, sigma = process.alpha(t)[0], process.sigma(t)[0]
    np.testing.assert_allclose(z, alpha * x + sigma * eps, rtol=1e-5, atol=1e-5)
    assert float(z.mean()) == pytest.approx(float(0.7 * alpha), abs=0.03 * float(sigma))
    assert float(z.std()) == pytest.approx(float(sigma), rel=0.02)


def test_times_go_beside_examples_of_any_rank():
    t = jnp.arange(3.0)
    assert beside(t, jnp.zeros((3, 4, 5))).shape == (3, 1, 1)
    assert beside(jnp.asarray(2.0), jnp.zeros((3, 4))).shape == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinearBetaDDPM(n_steps=0),
        lambda: LinearBetaDDPM(beta_min=0.0),
        lambda: LinearBetaDDPM(beta_min=0.5, beta_max=0.1),
        lambda: OrnsteinUhlenbeck(variance=-1.0),
    ],
)
def test_impossible_processes(make):
    with pytest.raises(ValueError, match="must"):
        make()


@each
@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("to", PREDICTIONS)
def test_every_conversion_and_back(process, times, kind, to, double_precision):
    key = jax.random.key(1)
    x = jax.random.normal(key, (3, 4), jnp.float64)
    t = jnp.asarray(times, jnp.float64)
    z, eps = corrupt(process, jax.random.fold_in(key, 1), x, t)
    value = express(process, t, x, eps, kind)
    converted = convert(process, z, t, value, kind, to)
    np.testing.assert_allclose(converted, express(process, t, x, eps, to), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        convert(process, z, t, converted, to, kind), value, rtol=1e-7, atol=1e-8
    )


@given(t=st.floats(0.01, 0.99), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_velocity_holds_both_estimates_up_to_the_ends(t, seed):
    x, eps = jax.random.normal(jax.random.key(seed), (2, 1, 3))
    z = (1 - t) * x + t * eps
    clean, noise = clean_and_epsilon(RectifiedFlow(), z, jnp.asarray(t), eps - x, "velocity")
    np.testing.assert_allclose(clean, x, atol=1e-5)
    np.testing.assert_allclose(noise, eps, atol=1e-5)


def test_unknown_prediction():
    with pytest.raises((ValueError, jaxtyping.TypeCheckError)):
        convert(
            RectifiedFlow(), jnp.zeros((1, 1)), jnp.asarray(0.5), jnp.zeros((1, 1)), "clean", "v"
        )
