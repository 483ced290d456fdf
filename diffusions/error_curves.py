"""Denoising errors as curves over the log SNR: what they say of densities.

For data on a grid of step Delta, -log P(x) is half the integral of mmse_x over the SNR (Kong,
Brekelmans and Ver Steeg, Information-theoretic diffusion, ICLR 2023), and any estimate of x bounds it:

    -log P(x) <= 1/2 sum_i log(1 + l_i e^{a_L}) + 1/2 int_{a_L}^{a_R} e^a mse_x(a) da
                 + 4 d sum_{j >= 1} exp(-(j - 1/2)^2 Delta^2 e^{a_R} / 2),                          (1)

the first term being the error of a Gaussian below a_L, the last that of rounding z above a_R: the error
j Delta needs noise beyond (j - 1/2) Delta, and int 1/2 sum_j Delta^2 (2 j - 1) exp(-(j - 1/2)^2 Delta^2
snr / 2) d snr = sum_j 2 / (j - 1/2) exp(...) <= 4 sum_j exp(...).

In the middle the estimate is clamped to the range of the data and rounded where that helps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.gaussian_reference import GaussianReference
from diffusions.likelihood import square_norm
from diffusions.log_snr import CHANNEL, LogSNRLaw
from diffusions.objectives import Denoiser
from diffusions.processes import corrupt
from diffusions.typing import Array, Float, Key

SOFT_REACH = 3
"""Grid steps on either side that soft rounding averages over."""


class ErrorCurves(NamedTuple):
    """Mean errors over data at log SNRs `a`, with the weights of their law."""

    a: Float[Array, "n"]
    weight: Float[Array, "n"]
    epsilon: Float[Array, "n"]  # E |eps - eps_hat|^2
    clean: Float[Array, "n roundings"]  # e^a E |x - x_hat|^2: unrounded, and rounded hard and soft


@checked
def error_curves(
    denoiser: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    *,
    n_log_snr: int = 100,
    delta: float | None = None,
    bound: float | None = None,
    examples: int | None = None,
) -> ErrorCurves:
    """MSE curves.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of examples and noises.
        x: the data.
        law: its grid gives the log SNRs.
        n_log_snr: number of them.
        delta: step of the grid that data lie on; absent, nothing is rounded.
        bound: data lie in [-bound, bound], and clean estimates are clamped to it.
        examples: drawn at random for each log SNR; absent, all.

    Raises:
        ValueError: rounding asked for without a bound, or more examples than there are.
    """
    if delta is not None and bound is None:
        raise ValueError("rounding to a grid needs the bound of the data")
    if examples is not None and not 1 <= examples <= x.shape[0]:
        raise ValueError(f"examples must be in [1, {x.shape[0]}], got {examples}")
    a, weight = law.grid(n_log_snr)

    def one(inputs: tuple[Array, Key]) -> tuple[Array, Array]:
        a, key = inputs
        choice_key, noise_key = jax.random.split(key)
        own = x
        if examples is not None and examples < x.shape[0]:
            own = x[jax.random.choice(choice_key, x.shape[0], (examples,), replace=False)]
        snr = jnp.exp(a)
        levels = jnp.full(own.shape[0], a)
        z, eps = corrupt(CHANNEL, noise_key, own, levels)
        found = denoiser(z, levels)
        clean = (z - CHANNEL.sigma(a) * found) / CHANNEL.alpha(a)
        if bound is not None:
            clean = jnp.clip(clean, -bound, bound)
        options = [clean]
        if delta is not None and bound is not None:
            options += [
                hard_rounding(clean, delta, bound),
                soft_rounding(clean, snr, delta, bound),
            ]
        errors = [snr * square_norm(own - option).mean() for option in options]
        return square_norm(eps - found).mean(), jnp.stack(errors)

    epsilon, clean = jax.lax.map(one, (a, jax.random.split(key, n_log_snr)))
    return ErrorCurves(a, weight, epsilon, clean)


@checked
def hard_rounding(x: Float[Array, "..."], delta: float, bound: float) -> Array:
    """The nearest point of the grid -bound, -bound + delta, .., bound."""
    return jnp.clip(jnp.round((x + bound) / delta) * delta - bound, -bound, bound)


@checked
def soft_rounding(
    x: Float[Array, "..."], snr: Float[Array, ""], delta: float, bound: float
) -> Array:
    """Mean of the grid points near x, weighed by exp(-snr (x - point)^2 / 2)."""
    nearest = hard_rounding(x, delta, bound)
    points = nearest[..., None] + delta * jnp.arange(-SOFT_REACH, SOFT_REACH + 1)
    logits = -0.5 * snr * (x[..., None] - points) ** 2
    inside = jnp.abs(points) <= bound + 0.5 * delta
    return (jax.nn.softmax(jnp.where(inside, logits, -jnp.inf), axis=-1) * points).sum(axis=-1)


def ensemble(curves: list[ErrorCurves]) -> ErrorCurves:
    """The smallest error of several models at each log SNR, which still gives a bound.

    Raises:
        ValueError: no curves, or at different log SNRs.
    """
    if not curves:
        raise ValueError("an ensemble needs at least one model")
    if any(not np.array_equal(c.a, curves[0].a) for c in curves):
        raise ValueError("the curves of an ensemble must have the same log SNRs")
    return curves[0]._replace(
        epsilon=jnp.min(jnp.stack([c.epsilon for c in curves]), axis=0),
        clean=jnp.min(jnp.stack([c.clean for c in curves]), axis=0),
    )


def nll_from_curves(curves: ErrorCurves, reference: GaussianReference) -> Float[Array, ""]:
    """The mean of -log p(x), `diffusions.likelihood` equation (1), in nats."""
    difference = curves.epsilon - reference.mmse(curves.a)
    return reference.entropy() + 0.5 * (curves.weight * difference).mean()


@checked
def discrete_bound(
    curves: ErrorCurves, law: LogSNRLaw, eigenvalues: Float[Array, "d"], delta: float
) -> Float[Array, ""]:
    """Equation (1), with the best of all roundings at each log SNR.

    Args:
        curves: measured with `delta` on the grid of `law`.
        law: its ends are a_L and a_R.
        eigenvalues: of the data's covariance.
        delta: step of the data's grid.

    Returns:
        Nats per example.
    """
    low, high = law.ends
    left = 0.5 * jnp.log1p(eigenvalues * np.exp(low)).sum()
    middle = 0.5 * (curves.weight * curves.clean.min(axis=1)).mean()
    j = np.arange(1, 1000) - 0.5
    right = 4.0 * len(eigenvalues) * np.exp(-0.5 * j**2 * delta**2 * np.exp(high)).sum()
    return left + middle + right
