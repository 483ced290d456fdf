"""Where to sample the log SNR: a logistic law cut off at `clip` scales.

    a = loc + scale u,   u = logit(p),   p uniform on [sigmoid(-clip), sigmoid(clip)],
    weight w(a) = 1 / density(a) = scale tanh(clip / 2) / (sigmoid(u) sigmoid(-u))                  (1)

so that the mean of w(a) f(a) is the integral of f over loc +- clip scale. Kong, Brekelmans
and Ver Steeg, Information-theoretic diffusion (ICLR 2023), take loc and scale from the
spectrum of the data or from a measured curve of the denoising error.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.objectives import stratified_uniform
from diffusions.processes import VariancePreserving
from diffusions.typing import Array, Float, Key

CHANNEL = VariancePreserving()
"""z = sqrt(sigmoid(a)) x + sqrt(sigmoid(-a)) eps, of all densities by denoising.

Its time is the log SNR a, which grows from noise to data: sampling starts at the lower end of a
`LogSNRLaw` (-12 of the default) and stops at the upper one. Any other process passes through the same
laws up to a factor (`diffusions.density.channel`).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSNRLaw:
    """The law (1) that log SNRs are drawn from.

    Attributes:
        loc: where half of the information is resolved.
        scale: width of the transition.
        clip: cut-off, in scales; the range is loc +- clip scale.
    """

    loc: float = 0.0
    scale: float = 3.0
    clip: float = 4.0

    def __post_init__(self):
        if not np.isfinite(self.loc) or not self.scale > 0.0 or not self.clip > 0.0:
            raise ValueError(
                "a log SNR law needs a finite loc and positive scale and clip, "
                f"got {self.loc}, {self.scale}, {self.clip}"
            )

    @property
    def ends(self) -> tuple[float, float]:
        """The range."""
        return self.loc - self.clip * self.scale, self.loc + self.clip * self.scale

    @checked
    def at(self, p: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """Log SNRs and their weights, at numbers in [0, 1)."""
        low = jax.nn.sigmoid(-self.clip)
        u = jax.scipy.special.logit(low + (1.0 - 2.0 * low) * p)
        # Rounding must not leave the interval: the weight grows exponentially there.
        u = jnp.clip(u, -self.clip, self.clip)
        density = jax.nn.sigmoid(u) * jax.nn.sigmoid(-u)
        return self.loc + self.scale * u, self.scale * np.tanh(0.5 * self.clip) / density

    @checked
    def sample(
        self, key: Key, n: int, *, stratified: bool = True
    ) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """Draws n log SNRs with their weights."""
        p = stratified_uniform(key, n) if stratified else jax.random.uniform(key, (n,))
        return self.at(p)

    def grid(self, n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
        """The middles of n strata, in order, with their weights."""
        return self.at((jnp.arange(n) + 0.5) / n)


@checked
def law_from_spectrum(eigenvalues: Float[Array, "d"], *, clip: float = 4.0) -> LogSNRLaw:
    """The law by the data's covariance: loc = -mean(log l), scale = sqrt(1 + 3/pi var(log l))."""
    logs = np.log(np.asarray(eigenvalues, np.float64))
    loc, scale = -logs.mean(), np.sqrt(1.0 + 3.0 / np.pi * logs.var())
    return LogSNRLaw(loc=float(loc), scale=float(scale), clip=clip)


@checked
def law_from_curve(
    a: Float[Array, "n"], mse: Float[Array, "n"], dimension: int, *, clip: float = 4.0
) -> LogSNRLaw:
    """The law whose distribution function is mse / d, by its median and 3/4 quantile.

    Args:
        a: log SNRs in increasing order.
        mse: measured errors of eps, between 0 and d.
        dimension: d.
        clip: of the law.

    Raises:
        ValueError: the curve does not cover both quantiles.
    """
    share = np.maximum.accumulate(np.asarray(mse, np.float64) / dimension)
    if share[0] > 0.5 or share[-1] < 0.75:
        raise ValueError(
            f"the MSE curve runs from {share[0]:.2f} to {share[-1]:.2f} of its maximum and must "
            "cover 0.5 and 0.75: measure it on a wider range of log SNRs"
        )
    loc, upper = np.interp([0.5, 0.75], share, np.asarray(a, np.float64))
    return LogSNRLaw(loc=float(loc), scale=float(max(upper - loc, 1e-3)), clip=clip)
