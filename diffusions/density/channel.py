"""Any process on the channel of the densities, and back.

All Gaussian processes pass through the same laws, up to a factor and the names of the times. With
z_t = alpha x + sigma eps, c = sqrt(alpha^2 + sigma^2) and a the log SNR of t,

    z_t / c = sqrt(sigmoid(a)) x + sqrt(sigmoid(-a)) eps                                            (1)

is `CHANNEL` (Kingma et al., Variational diffusion models, 2021, section 5.1). So a network that was
trained on any of them has a density, whatever it predicts: its prediction is an affine function of
eps_hat. The network adds f to the prediction of the Gaussian G, whose ideal denoiser is known,

    prediction(z_t, t) = prediction_G(z_t, t) + f,   eps_hat = eps_G + L f,                         (2)

L being the linear part of the conversion to eps at (z_t, t): 1, -sigma, -alpha / sigma and
alpha / (alpha sigma' - alpha' sigma) where f is an epsilon, a score, a clean estimate, a velocity.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.objectives import Denoiser
from diffusions.predictions import Prediction, clean_and_epsilon, express
from diffusions.processes import Process, TimedProcess, beside, log_snr
from diffusions.typing import Array, Float

Condition = Literal["log_snr", "time"]
"""What a network is called with: (z_t / c, log SNR), alike for all processes, or (z_t, t)."""

REACHED = 0.01
"""How near a process must come to a log SNR that is asked of it."""


@checked
def size(process: Process, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
    """The c of equation (1)."""
    return jnp.sqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)


def on_channel(
    network: Callable[[Array, Array], Array],
    process: TimedProcess,
    reference: GaussianReference,
    *,
    prediction: Prediction,
    condition: Condition,
) -> Denoiser:
    """The denoiser by log SNR of equation (2): (`CHANNEL`'s z, a) -> eps_hat.

    Args:
        network: f of (2), called as `condition` says.
        process: that the network is of.
        reference: G.
        prediction: what the network predicts.
        condition: see `Condition`.
    """

    def epsilon(z: Array, a: Array) -> Array:
        t = process.time(a)
        by_time = condition == "time"
        own = beside(size(process, t), z) * z if by_time else z
        f = network(own, t if by_time else a)
        _, correction = clean_and_epsilon(process, jnp.zeros_like(z), t, f, prediction)
        return reference.epsilon(z, a) + correction

    return epsilon


def on_process(
    network: Callable[[Array, Array], Array],
    process: TimedProcess,
    reference: GaussianReference,
    law: LogSNRLaw,
    *,
    prediction: Prediction,
    condition: Condition,
) -> Denoiser:
    """The same by the process's own variables: (z_t, t) -> prediction, for `Model` and the samplers.

    Args:
        network: as above.
        process: as above.
        reference: as above.
        law: what lies beyond its ends is taken at them: there the network has learned nothing.
        prediction: as above.
        condition: as above.
    """

    def predicted(z: Array, t: Array) -> Array:
        a = jnp.clip(log_snr(process, t), *law.ends)
        alike = z / beside(size(process, t), z)
        eps = reference.epsilon(alike, a)
        clean = (alike - beside(CHANNEL.sigma(a), z) * eps) / beside(CHANNEL.alpha(a), z)
        f = network(z, t) if condition == "time" else network(alike, a)
        return express(process, t, clean, eps, prediction) + f

    return predicted


def reached_law(process: TimedProcess, law: LogSNRLaw | None) -> LogSNRLaw:
    """The law that a process can follow: the one that is given, or the default as far as it goes.

    Args:
        process: any.
        law: of the log SNRs; absent, the default, cut off on both sides where the process ends.

    Raises:
        ValueError: the process does not reach an end of the law that is given, or of any.
    """
    wanted = LogSNRLaw() if law is None else law
    ends = jnp.asarray(wanted.ends)
    low, high = (float(a) for a in log_snr(process, process.time(ends)))
    misses = max(low - wanted.ends[0], wanted.ends[1] - high)
    if misses <= REACHED:
        return wanted
    clip = wanted.clip - misses / wanted.scale
    if law is None and clip > 1.0:
        return LogSNRLaw(loc=wanted.loc, scale=wanted.scale, clip=clip)
    raise ValueError(
        f"log SNRs from {wanted.ends[0]:.4g} to {wanted.ends[1]:.4g} are asked of "
        f"{type(process).__name__}, which has {low:.4g} to {high:.4g} of them: give a LogSNRLaw "
        "whose ends, loc +- clip scale, lie inside"
    )
