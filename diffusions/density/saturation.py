"""How much of the integral over the log SNR lies outside a range, and a range that holds it all.

Below a_L the error of a denoiser falls like e^a, above a_R what it lacks of d falls like e^{-a}, once
the narrowest part of the law is resolved, so that there are

    1/2 int_{-inf}^{a_L} mse da ~ 1/2 mse(a_L)   and
    1/2 int_{a_R}^{inf} (d - mse) da ~ 1/2 (d - mse(a_R))                                          (1)

nats outside. An estimate with a reference lacks the difference of the denoiser's and the reference's.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.objectives import Denoiser
from diffusions.processes import corrupt
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key

TOLERATED = 0.025
"""Nats per dimension outside, on either side, with which a range counts as wide enough."""
GROWTH, MOST_GROWTHS = 1.25, 8
"""Of the scale at a time, and how often."""


class Outside(NamedTuple):
    """Equation (1), in nats per example."""

    left: Float[Array, ""]
    right: Float[Array, ""]

    def __repr__(self) -> str:
        return short_repr(self)

    def tolerable(self, dimension: int) -> bool:
        """Whether the range is wide enough."""
        return max(float(self.left), float(self.right)) <= TOLERATED * dimension


@checked
def outside(denoiser: Denoiser, key: Key, x: Float[Array, "batch ..."], law: LogSNRLaw) -> Outside:
    """Equation (1) by one draw of the noise for every example at each end.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of the noises.
        x: the data.
        law: its ends are a_L and a_R.
    """

    def at(end: float, key: Array) -> tuple[Array, Array]:
        levels = jnp.full(x.shape[0], end, x.dtype)
        z, eps = corrupt(CHANNEL, key, x, levels)
        found = denoiser(z, levels)
        # |eps|^2 - |eps - found|^2, whose mean is d - mse and whose noise is small where found is.
        error, lack = (eps - found) ** 2, found * (2.0 * eps - found)
        return 0.5 * error.sum() / x.shape[0], 0.5 * lack.sum() / x.shape[0]

    low_key, high_key = jax.random.split(key)
    low, high = law.ends
    return Outside(at(low, low_key)[0], at(high, high_key)[1])


@checked
def widened(
    denoiser: Denoiser, key: Key, x: Float[Array, "batch ..."], law: LogSNRLaw
) -> LogSNRLaw:
    """A law with a scale that leaves no more than is tolerated outside; the same where it does already.

    The scale grows and not the clip, because the density at the ends falls like e^{-clip}: few draws
    would have large weights.

    Args:
        denoiser: as above.
        key: as above.
        x: as above.
        law: to begin with.
    """
    dimension = x[0].size
    for _ in range(MOST_GROWTHS):
        if outside(denoiser, key, x, law).tolerable(dimension):
            break
        law = dataclasses.replace(law, scale=GROWTH * law.scale)
    return law
