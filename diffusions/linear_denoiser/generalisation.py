r"""Memorising against generalising: the losses of the linear denoiser on its own and on fresh pairs.

The noise that `diffusions.linear_denoiser.model` added is predicted by eps = e^T (z - e^{-T} x_hat) /
eta^{1/2}, so that the loss of denoising score matching, per coordinate, is

    L(x, z) = |x - b0 - B z|^2 / (eta d).                                                           (1)

Each training point is noised once (m = 1 in George, Veiga and Macris, arXiv 2502.00336, who compare
these losses; Merger and Goldt, arXiv 2505.24769, do so for linear denoisers, beside KL). With
N = n - 1 and r = s^2 / (s^2 + eta), by the moments of `linear_denoiser.expectation`, exactly,

    E L on the training pairs = r max(0, N - d) / n,                                                (2)
    E L on a fresh pair = (1 + 1/n) r (1 + d / (N - d - 1))                          for N > d + 1, (3)
    E L on a fresh pair = (1 + 1/n) r (1 + N / (d - N - 1) + (1 - N / d) s^2 / eta)  for N < d - 1, (4)

infinite between. No denoiser is below r on fresh pairs. Up to N = d the training pairs are reproduced
from their noise without error: the denoiser has memorised them. What it gains by that,

    gap = E L on a fresh pair - E L on the training pairs,                                          (5)

vanishes as n / d grows, at every time.

As a function of diffusion time, an Ornstein-Uhlenbeck process z = e^{-t} x + (1 - e^{-2t})^{1/2} xi is
the step with T = t and lambda = e^{2t}: then eta = e^{2t} - 1.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.precision import matmul
from diffusions.typing import Array, Float, HostArray, Params


def ornstein_uhlenbeck(dimension: int, time: float, mean: float, std: float) -> OneStepModel:
    """The step that an Ornstein-Uhlenbeck process takes from 0 to a time.

    Args:
        dimension: d.
        time: t.
        mean: of every coordinate of the data.
        std: of every coordinate of the data.
    """
    return OneStepModel(
        dimension=dimension, mean=mean, std=std, time=time, noise_scale=math.exp(2.0 * time)
    )


@checked(d=lambda model: model.dimension)
def prediction_loss(
    model: OneStepModel, params: Params, z: Float[Array, "n d"], x: Float[Array, "n d"]
) -> Float[Array, ""]:
    """Mean of equation (1) over pairs.

    Args:
        model: which step was inverted, with noise.
        params: of the fitted `LinearDenoiser`.
        z: noised points.
        x: the points.
    """
    fitted = matmul(z, params["params"]["kernel"]) + params["params"]["bias"]
    return jnp.mean((x - fitted) ** 2) / model.noise_variance


class ExpectedLosses(NamedTuple):
    """For each number of training points."""

    train: HostArray
    test: HostArray


def expected_losses(model: OneStepModel, n_train: HostArray) -> ExpectedLosses:
    """The losses that are expected on training and on fresh pairs, equations (2) to (4).

    Args:
        model: the data and the step.
        n_train: numbers of training points, each at least 2.

    Raises:
        ValueError: there is no noise to predict.
    """
    d, ratio = model.dimension, model.limiting_ratio
    if model.noise_variance == 0.0:
        raise ValueError(f"noise_scale must be positive to predict noise, got {model.noise_scale}")
    n = np.asarray(n_train, np.float64)
    freedom = n - 1.0
    gap = np.abs(freedom - d) - 1.0
    # Of the estimated slopes: from noise, and of the directions that the points do not span.
    spread = np.where(gap > 0.0, np.minimum(freedom, d) / np.where(gap > 0.0, gap, 1.0), np.inf)
    unseen = np.maximum(0.0, 1.0 - freedom / d) * model.std**2 / model.noise_variance
    return ExpectedLosses(
        train=ratio * np.maximum(0.0, freedom - d) / n,
        test=(1.0 + 1.0 / n) * ratio * (1.0 + spread + unseen),
    )
