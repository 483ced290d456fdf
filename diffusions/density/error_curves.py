"""Denoising errors as curves over the log SNR: what they say of densities.

For data on a grid of step Delta, -log P(x) is half the integral of mmse_x over the SNR (Kong,
Brekelmans and Ver Steeg, Information-theoretic diffusion, ICLR 2023), and the mean over data of any
estimate of x bounds that of -log P(x):

    -log P(x) <= G(x, a_L) + 1/2 int_{a_L}^{a_R} e^a E_eps |x - x_hat|^2 da
                 + 4 d sum_{j >= 1} exp(-(j - 1/2)^2 Delta^2 e^{a_R} / 2),                          (1)

the first term being the error of a Gaussian's estimate below a_L, equation (4) of
`diffusions.density.gaussian_reference`, the last that of rounding z above a_R: the error j Delta
needs noise beyond (j - 1/2) Delta, and
int 1/2 sum_j Delta^2 (2 j - 1) exp(-(j - 1/2)^2 Delta^2 snr / 2) d snr = sum_j 2 / (j - 1/2) exp(...)
<= 4 sum_j exp(...).

In the middle the estimate is clamped to the range of the data and rounded where that helps. Which
rounding, and which model of an ensemble, is fixed at every log SNR before (1) is estimated, because the
smallest of several noisy errors is too small.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.likelihood import MeanLikelihood, square_norm, values_of_blocks
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.objectives import Denoiser
from diffusions.processes import beside, corrupt
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Int, Key

SOFT_REACH = 3
"""Grid steps on either side that soft rounding averages over."""


class ErrorCurves(NamedTuple):
    """Mean errors over data at log SNRs `a`, with the weights of their law."""

    a: Float[Array, "n"]
    weight: Float[Array, "n"]
    epsilon: Float[Array, "n"]  # E |eps - eps_hat|^2
    clean: Float[Array, "n roundings"]  # e^a E |x - x_hat|^2: unrounded, and rounded hard and soft

    def __repr__(self) -> str:
        return short_repr(self)


class Choice(NamedTuple):
    """What is best at log SNRs in increasing order: the number of a rounding, or of a model."""

    a: Float[Array, "n"]
    best: Int[Array, "n"]

    def __repr__(self) -> str:
        return short_repr(self)

    @checked
    def at(self, a: Float[Array, "batch"]) -> Int[Array, "batch"]:
        """The choice at the nearest log SNR."""
        return self.best[jnp.searchsorted(0.5 * (self.a[1:] + self.a[:-1]), a)]


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
        levels = jnp.full(own.shape[0], a)
        z, eps = corrupt(CHANNEL, noise_key, own, levels)
        found = denoiser(z, levels)
        clean = _clean_errors(z, found, own, levels, delta, bound)
        return square_norm(eps - found).mean(), clean.mean(axis=0)

    epsilon, clean = jax.lax.map(one, (a, jax.random.split(key, n_log_snr)))
    return ErrorCurves(a, weight, epsilon, clean)


def _clean_errors(
    z: Float[Array, "batch ..."],
    epsilon: Float[Array, "batch ..."],
    x: Float[Array, "batch ..."],
    a: Float[Array, "batch"],
    delta: float | None,
    bound: float | None,
) -> Float[Array, "batch roundings"]:
    """e^a |x - x_hat|^2 of a prediction of eps: unrounded, and with a grid rounded hard and soft."""
    clean = (z - beside(CHANNEL.sigma(a), z) * epsilon) / beside(CHANNEL.alpha(a), z)
    if bound is not None:
        clean = jnp.clip(clean, -bound, bound)
    snr = jnp.exp(a)
    options = [clean]
    if delta is not None and bound is not None:
        options += [
            hard_rounding(clean, delta, bound),
            soft_rounding(clean, beside(snr, clean), delta, bound),
        ]
    return jnp.stack([snr * square_norm(x - option) for option in options], axis=-1)


@checked
def hard_rounding(x: Float[Array, "..."], delta: float, bound: float) -> Array:
    """The nearest point of the grid -bound, -bound + delta, .., bound."""
    return jnp.clip(jnp.round((x + bound) / delta) * delta - bound, -bound, bound)


@checked
def soft_rounding(
    x: Float[Array, "..."], snr: Float[Array, "..."], delta: float, bound: float
) -> Array:
    """Mean of the grid points near x, weighed by exp(-snr (x - point)^2 / 2).

    Args:
        x: of any shape.
        snr: to be broadcast against x.
        delta: step of the grid.
        bound: where it ends, on either side.
    """
    nearest = hard_rounding(x, delta, bound)
    points = nearest[..., None] + delta * jnp.arange(-SOFT_REACH, SOFT_REACH + 1)
    logits = -0.5 * snr[..., None] * (x[..., None] - points) ** 2
    inside = jnp.abs(points) <= bound + 0.5 * delta
    return (jax.nn.softmax(jnp.where(inside, logits, -jnp.inf), axis=-1) * points).sum(axis=-1)


def best_rounding(curves: ErrorCurves) -> Choice:
    """The rounding of smallest clean error at each log SNR, for `discrete_nll` on other draws."""
    return Choice(curves.a, curves.clean.argmin(axis=1))


def ensemble(denoisers: Sequence[Denoiser], pilots: Sequence[ErrorCurves]) -> Denoiser:
    """One denoiser out of several models: at each log SNR the one of smallest error in its pilot.

    It is fixed before it is evaluated, on other draws than the pilots', so every bound by it is one.

    Args:
        denoisers: predict eps at log SNR a.
        pilots: of each, at the same log SNRs.

    Raises:
        ValueError: no model, not one curve each, or curves at different log SNRs.
    """
    if not denoisers or len(denoisers) != len(pilots):
        raise ValueError(
            "an ensemble needs at least one model and a curve of each, "
            f"got {len(denoisers)} and {len(pilots)}"
        )
    if any(not np.array_equal(pilot.a, pilots[0].a) for pilot in pilots):
        raise ValueError("the curves of an ensemble must have the same log SNRs")
    errors = jnp.stack([pilot.epsilon for pilot in pilots])
    choice = Choice(pilots[0].a, errors.argmin(axis=0))

    def chosen(z: Array, a: Array) -> Array:
        number = beside(choice.at(a).astype(z.dtype), z)
        conditions = [number == k for k in range(len(denoisers))]
        return jnp.select(conditions, [denoiser(z, a) for denoiser in denoisers])

    return chosen


def nll_from_curves(curves: ErrorCurves, reference: GaussianReference) -> Float[Array, ""]:
    """The mean of -log p(x), `diffusions.density.likelihood` equation (1), in nats.

    Whatever the Gaussian: h_G and mmse_G together are a constant.
    """
    difference = curves.epsilon - reference.mmse(curves.a)
    return reference.entropy() + 0.5 * (curves.weight * difference).mean()


@checked
def discrete_nll(
    denoiser: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    reference: GaussianReference,
    rounding: Choice,
    *,
    delta: float,
    bound: float,
    n_samples: int = 8,
    chunk: int | None = None,
) -> MeanLikelihood:
    """Negative log likelihood of discrete data, equation (1) averaged over them, in nats.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of log SNRs and noises, not the one that `rounding` was chosen with.
        x: the data, on the grid.
        law: of the log SNRs; its ends are a_L and a_R.
        reference: estimates x below a_L.
        rounding: which one where, from `best_rounding`.
        delta: step of the grid.
        bound: data lie in [-bound, bound].
        n_samples: draws per example.
        chunk: examples computed at a time, which bounds memory; absent, all.

    Returns:
        The mean over these examples, with its standard errors. Those hold for the bound of this choice
        of roundings, which is one whatever the choice.
    """

    def terms(eps: Array, x: Array, a: Array, weight: Array) -> Array:
        z = beside(CHANNEL.alpha(a), x) * x + beside(CHANNEL.sigma(a), x) * eps
        errors = _clean_errors(z, denoiser(z, a), x, a, delta, bound)
        chosen = jnp.take_along_axis(errors, rounding.at(a)[:, None], axis=1)[:, 0]
        return 0.5 * weight * chosen

    low, high = law.ends
    j = np.arange(1, 1000) - 0.5
    d = int(np.prod(x.shape[1:]))
    right = 4.0 * d * np.exp(-0.5 * j**2 * delta**2 * np.exp(high)).sum()
    known = reference.clean_error_below(x, jnp.asarray(low)) + right
    return values_of_blocks(terms, key, x, law, n_samples=n_samples, chunk=chunk).mean(known)
