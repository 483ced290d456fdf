"""How much of the integral over the log SNR lies outside a range, and a range that holds it all.

Of the ideal denoiser, e^{-a} mse = E |x - x_hat|^2 falls with a, and e^a (d - mse) = tr of the Fisher
information of x + e^{-a/2} eps grows with it (less noise, more information), so that there are

    1/2 int_{-inf}^{a_L} mse da >= 1/2 mse(a_L)   and
    1/2 int_{a_R}^{inf} (d - mse) da >= 1/2 (d - mse(a_R))                                         (1)

nats outside, and hardly more once nothing narrower is left to resolve. It has to be asked of a
denoiser that resolves the data: that of a Gaussian has resolved the Gaussian at a_R, and knows nothing
of a line in it. An estimate with a reference lacks the difference of the denoiser's and the
reference's.
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
GROWTH = 1.25
"""Of the scale at a time."""
MOST_REACH = 24.0
"""On either side of 0: single precision has two digits of the noise there."""


class Outside(NamedTuple):
    """The right-hand sides of (1), in nats per example; of the ideal denoiser at least so much."""

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
    would have large weights. It ends at `MOST_REACH`, whatever is left.

    Args:
        denoiser: of a law as narrow as that of the data.
        key: as above.
        x: as above.
        law: to begin with.
    """
    dimension = x[0].size
    while not outside(denoiser, key, x, law).tolerable(dimension):
        wider = dataclasses.replace(law, scale=GROWTH * law.scale)
        if max(map(abs, wider.ends)) > MOST_REACH:
            break
        law = wider
    return law
