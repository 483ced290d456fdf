"""Losses of the linear denoiser on training and fresh pairs: exact expectations against Monte Carlo."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusions.linear_denoiser.generalisation import (
    expected_losses,
    ornstein_uhlenbeck,
    prediction_loss,
)
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.networks.linear import least_squares
from diffusions.processes import OrnsteinUhlenbeck


def pairs(model, rng, *shape):
    x = model.mean + model.std * rng.standard_normal(shape)
    noise = math.sqrt(model.noise_variance) * rng.standard_normal(shape)
    return math.exp(-model.time) * (x + noise), x


@pytest.mark.parametrize(("d", "n"), [(8, 2), (8, 6), (6, 14), (3, 40)])
def test_the_expected_losses_are_those_of_simulations(d, n):
    model = OneStepModel(dimension=d, mean=3.0, std=1.3, time=0.4, noise_scale=0.7)
    rng, count = np.random.default_rng(0), 6000
    z, x = pairs(model, rng, count, n, d)
    fresh_z, fresh_x = pairs(model, rng, count, 20, d)
    z_mean, x_mean = z.mean(axis=1, keepdims=True), x.mean(axis=1, keepdims=True)
    slope = np.linalg.pinv(z - z_mean, rcond=1e-9) @ (x - x_mean)
    exact = expected_losses(model, np.array([n]))
    for name, (own_z, own_x) in {"train": (z, x), "test": (fresh_z, fresh_x)}.items():
        # The loss of the noise, from the noise: eta^{1/2} eps = e^T z - x.
        noise = math.exp(model.time) * own_z - own_x
        fitted = math.exp(model.time) * own_z - (x_mean + (own_z - z_mean) @ slope)
        losses = ((noise - fitted) ** 2).mean(axis=(1, 2)) / model.noise_variance
        expected, error = getattr(exact, name)[0], losses.std() / math.sqrt(count)
        assert abs(losses.mean() - expected) < 4 * error + 1e-12


def test_the_loss_of_a_fit(double_precision):
    model = OneStepModel(dimension=3, time=0.4, noise_scale=0.7)
    z, x = (jnp.asarray(a) for a in pairs(model, np.random.default_rng(0), 9, 3))
    params = least_squares(z, x)
    slope, bias = params["params"]["kernel"], params["params"]["bias"]
    residuals = np.asarray(x) - np.asarray(z) @ np.asarray(slope) - np.asarray(bias)
    expected = np.mean(residuals**2) / model.noise_variance
    assert float(prediction_loss(model, params, z, x)) == pytest.approx(expected, rel=1e-12)
    few = least_squares(z[:4], x[:4])
    assert float(prediction_loss(model, few, z[:4], x[:4])) < 1e-20
    with pytest.raises(ValueError, match="d"):
        prediction_loss(model, params, z[:, :2], x)


def test_no_denoiser_is_better_on_fresh_pairs_than_the_posterior_mean():
    model = ornstein_uhlenbeck(50, 0.3, mean=0.0, std=2.0)
    losses = expected_losses(model, np.array([10, 49, 50, 51, 52, 53, 10**8]))
    assert (losses.test >= model.limiting_ratio).all()
    np.testing.assert_array_equal(np.isinf(losses.test), [False] * 2 + [True] * 3 + [False] * 2)
    np.testing.assert_array_equal(losses.train[:4], 0.0)
    assert losses.train[-1] == pytest.approx(model.limiting_ratio, rel=1e-6)
    assert losses.test[-1] == pytest.approx(model.limiting_ratio, rel=1e-6)


def test_the_step_of_an_ornstein_uhlenbeck_process():
    model, process, t = ornstein_uhlenbeck(2, 0.3, 1.0, 0.5), OrnsteinUhlenbeck(), jnp.array([0.3])
    z = np.asarray(model.corrupt(jax.random.key(0), jnp.ones((200_000, 2))), np.float64)
    assert z.mean() == pytest.approx(float(process.alpha(t)[0]), abs=0.005)
    assert z.std() == pytest.approx(float(process.sigma(t)[0]), rel=0.005)


def test_no_noise_to_predict():
    with pytest.raises(ValueError, match="noise_scale must be positive to predict noise, got 0"):
        expected_losses(OneStepModel(dimension=2, noise_scale=0.0), np.array([5]))
