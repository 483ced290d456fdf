"""Gaussian noising processes: one vocabulary for every diffusion model of this repository.

    z_t = alpha(t) x + sigma(t) eps,   eps ~ N(0, I)                                                (1)
    log SNR(t) = 2 log(alpha(t) / sigma(t))                                                         (2)
    dz/dt = alpha'(t) x + sigma'(t) eps   along a path of fixed x and eps                           (3)
    g(t)^2 = sigma(t)^2 |d log SNR / dt|                                                            (4)

(4) is the squared diffusion coefficient of the process as a stochastic differential equation (Kingma
et al., Variational diffusion models, 2021). A process is a pair of functions of a time whose meaning
is its own; derivatives follow by automatic differentiation.

    process                  data .. noise             alpha               sigma
    VariancePreserving       log SNR, inf .. -inf      sqrt(sigmoid(t))    sqrt(sigmoid(-t))
    LinearBetaDDPM           step 0 .. n_steps         sqrt(abar_t)        sqrt(1 - abar_t)
    OrnsteinUhlenbeck        0 .. inf                  exp(-t)             sqrt(c (1 - exp(-2 t)))
    StochasticLocalization   inf .. 0                  t                   sqrt(t)
    RectifiedFlow            0 .. 1                    1 - t               t

with abar_t the product of 1 - beta_i over i <= t, and log abar linear between steps. The first and the
fourth run from noise to data as their time grows, the others from data to noise. The log SNR a tells
how much noise there is in any of them; the `time` of each process inverts (2),

    VariancePreserving a,   OrnsteinUhlenbeck log(1 + exp(-a) / c) / 2,   StochasticLocalization exp(a),
    RectifiedFlow sigmoid(-a / 2),   LinearBetaDDPM where log abar_t = log sigmoid(a).              (5)
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Array, Float, Key


@runtime_checkable
class Process(Protocol):
    """A diffusion process: the functions of equation (1), elementwise in t."""

    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Factor of the data."""

    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """Factor of the noise."""


@runtime_checkable
class TimedProcess(Process, Protocol):
    """A process that also knows when it has a log SNR."""

    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """The time at which the log SNR (2) is a."""


@dataclasses.dataclass(frozen=True)
class VariancePreserving:
    """alpha^2 + sigma^2 = 1, with the log SNR itself as the time.

    So its time has no unit and no end: at -12 there is nothing but noise, at 0 as much noise as data of
    unit variance, at 12 data with a noise of 0.0025. It grows from noise to data, and neither 0 nor 1
    is an end of it.
    """

    @checked
    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(t))

    @checked
    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.exp(0.5 * jax.nn.log_sigmoid(-t))

    @checked
    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (5)."""
        return jnp.asarray(a)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearBetaDDPM:
    """Ho et al., Denoising diffusion probabilistic models, 2020: beta grows linearly over n steps.

    Attributes:
        n_steps: number of steps; the time t = 0 is the data.
        beta_min: variance added by the first step.
        beta_max: by the last.
    """

    n_steps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02

    def __post_init__(self):
        if self.n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {self.n_steps}")
        if not 0.0 < self.beta_min <= self.beta_max < 1.0:
            raise ValueError(
                f"betas must satisfy 0 < beta_min <= beta_max < 1, got {self.beta_min}, {self.beta_max}"
            )

    def betas(self) -> np.ndarray:
        """beta_1 .. beta_n."""
        return np.linspace(self.beta_min, self.beta_max, self.n_steps)

    def _log_alpha_squared(self, t: Array) -> Array:
        table = np.concatenate([[0.0], np.cumsum(np.log1p(-self.betas()))])
        return jnp.interp(
            t, jnp.arange(self.n_steps + 1, dtype=t.dtype), jnp.asarray(table, t.dtype)
        )

    @checked
    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.exp(0.5 * self._log_alpha_squared(t))

    @checked
    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.sqrt(-jnp.expm1(self._log_alpha_squared(t)))

    @checked
    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (5); n_steps for a log SNR below the last."""
        table = self._log_alpha_squared(jnp.arange(self.n_steps + 1, dtype=a.dtype))
        steps = jnp.arange(self.n_steps, -1.0, -1.0, dtype=a.dtype)
        return jnp.interp(jax.nn.log_sigmoid(a), table[::-1], steps)


def cosine_betas(n_steps: int) -> np.ndarray:
    """beta_1 .. beta_n of Nichol and Dhariwal, Improved denoising diffusion models, 2021.

    beta_i = min(1 - f(i / n) / f((i - 1) / n), .999),   f(u) = cos((u + .008) / 1.008 pi / 2)^2.

    Args:
        n_steps: n, at least 1.
    """
    u = np.linspace(0.0, 1.0, n_steps + 1)
    kept = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1.0 - kept[1:] / kept[:-1], 0.999)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeck:
    """dz = -z dt + sqrt(2 c) dW, whose stationary law is N(0, c I).

    Attributes:
        variance: c.
    """

    variance: float = 1.0

    def __post_init__(self):
        if not self.variance > 0.0:
            raise ValueError(f"variance must be positive, got {self.variance}")

    @checked
    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.exp(-t)

    @checked
    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.sqrt(-self.variance * jnp.expm1(-2.0 * t))

    @checked
    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (5)."""
        return 0.5 * jax.nn.softplus(-a - np.log(self.variance))


@dataclasses.dataclass(frozen=True)
class StochasticLocalization:
    """y_t = t x + W_t (Eldan, 2013; Montanari, 2023): information about x arrives at rate one."""

    @checked
    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.asarray(t)

    @checked
    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.sqrt(t)

    @checked
    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (5)."""
        return jnp.exp(a)


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from data at t = 0 to noise at t = 1 (Liu et al., 2022; Lipman et al., 2022)."""

    @checked
    def alpha(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return 1.0 - t

    @checked
    def sigma(self, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (1)."""
        return jnp.asarray(t)

    @checked
    def time(self, a: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """See (5)."""
        return jax.nn.sigmoid(-0.5 * a)


@checked
def log_snr(process: Process, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
    """Equation (2)."""
    return 2.0 * (jnp.log(process.alpha(t)) - jnp.log(process.sigma(t)))


@checked
def rates(
    process: Process, t: Float[Array, "*times"]
) -> tuple[Float[Array, "*times"], Float[Array, "*times"]]:
    """alpha'(t) and sigma'(t) of equation (3)."""
    one = jnp.ones_like(t)
    return jax.jvp(process.alpha, (t,), (one,))[1], jax.jvp(process.sigma, (t,), (one,))[1]


@checked
def diffusion_squared(process: Process, t: Float[Array, "*times"]) -> Float[Array, "*times"]:
    """g(t)^2 of equation (4)."""
    alpha_rate, sigma_rate = rates(process, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return 2.0 * jnp.abs(sigma * sigma_rate - alpha_rate / alpha * sigma**2)


def beside(t: Float[Array, "..."], z: Float[Array, "batch ..."]) -> Float[Array, "..."]:
    """One number per example, shaped to multiply examples of any rank; a scalar stays one."""
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (z.ndim - t.ndim))


@checked
def corrupt(
    process: Process, key: Key, x: Float[Array, "batch ..."], t: Float[Array, "batch"]
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
    """Adds noise to data: draws z_t of equation (1).

    Args:
        process: alpha and sigma.
        key: of the noise.
        x: clean examples.
        t: one time per example.

    Returns:
        z and the eps in it.
    """
    eps = jax.random.normal(key, x.shape, x.dtype)
    return beside(process.alpha(t), x) * x + beside(process.sigma(t), x) * eps, eps
