"""Samplers: from noise to data along a decreasing amount of noise. Each is one `lax.scan`.

All take a grid of process times t_0, t_1, .., t_n from noise to data and call the network once per
step (Heun twice, RK4 four times). With x_hat, eps_hat from the network at z = z_t, going from t to s:

    q(z_s | z_t, x):  a = alpha_t / alpha_s,   v = sigma_t^2 - a^2 sigma_s^2,
                      mean = a (sigma_s / sigma_t)^2 z_t + alpha_s v / sigma_t^2 x,
                      variance = v sigma_s^2 / sigma_t^2                                            (1)
    ancestral         z_s ~ (1) with x_hat for x; `large` noise takes v instead of the variance
    DDIM              z_s = alpha_s x_hat + sqrt(sigma_s^2 - c^2) eps_hat + c xi,
                      c = eta sqrt(variance of (1))                                                 (2)
    ODE               dz/dt = alpha' x_hat + sigma' eps_hat                                         (3)
    SDE               dz = (alpha' x_hat + sigma' eps_hat) dt + (c g)^2 / 2 score |dt| + c g dW,
                      score = -eps_hat / sigma,   g^2 = sigma^2 |d log SNR / dt|                    (4)

(1): Ho et al., 2020. (2): Song et al., Denoising diffusion implicit models, 2021, equations (12), (16);
with eta = 1 it equals (1). (3), (4): Song et al., Score-based generative modeling through SDEs, 2021;
the churn c interpolates between the ODE (0) and the reverse-time SDE (1), both of the same law.

With x_hat for x, (1) leaves out that x is uncertain given z_t: (alpha_s v / sigma_t^2)^2 Var(x | z_t)
of the variance of z_s. That is of second order in a step and adds up to the first, for any process:
from an exact network, a Gaussian of variance 0.01 loses 2.4 % of it in 1000 steps of the rectified flow
and 7.2 % in those of DDPM. So (1) and (2) take for x_hat of step i

    x_hat_i + r (x_hat_i - x_hat_{i-1}),   r = min(h_i / h_{i-1}, 1) / 2,                           (5)

h_i being the step in log SNR, r = 0 in the first step and where h_i is infinite: x_hat in the step's
middle, at no further call. The difference holds what the noise of step i - 1 did to x_hat, which is the
variance that was left out; the law is right to second order. Without the bound on r: the multistep SDE
and ODE solvers of Lu et al., DPM-Solver++, 2022.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.late_imports import import_extra
from diffusions.objectives import Denoiser
from diffusions.predictions import Prediction, clean_and_epsilon
from diffusions.processes import (
    Process,
    VariancePreserving,
    diffusion_squared,
    log_snr,
    rates,
)
from diffusions.sampling_loop import Constrain, scan_steps, scan_with_memory
from diffusions.short_repr import known
from diffusions.typing import Array, Float, Key

OdeMethod = Literal["euler", "heun", "rk4"]
Order = Literal[1, 2]


class Model(NamedTuple):
    """A network and how to read it.

    Attributes:
        denoiser: the network with its parameters.
        process: that it was trained on.
        prediction: what it predicts.
        clip: bound on the entries of x_hat, for data in [-clip, clip]; absent, none.
    """

    denoiser: Denoiser
    process: Process
    prediction: Prediction = "epsilon"
    clip: float | None = None

    @checked
    def estimates(
        self, z: Float[Array, "batch ..."], t: Float[Array, ""]
    ) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
        """x_hat and eps_hat at one time."""
        value = self.denoiser(z, jnp.broadcast_to(t, z.shape[:1]))
        clean, eps = clean_and_epsilon(self.process, z, t, value, self.prediction)
        if self.clip is None:
            return clean, eps
        clean = jnp.clip(clean, -self.clip, self.clip)
        return clean, (z - self.process.alpha(t) * clean) / self.process.sigma(t)

    @checked
    def velocity(
        self, z: Float[Array, "batch ..."], t: Float[Array, ""]
    ) -> Float[Array, "batch ..."]:
        """Right-hand side of equation (3)."""
        if self.prediction == "velocity" and self.clip is None:
            return self.denoiser(z, jnp.broadcast_to(t, z.shape[:1]))
        clean, eps = self.estimates(z, t)
        alpha_rate, sigma_rate = rates(self.process, t)
        return alpha_rate * clean + sigma_rate * eps


@checked
def prior(key: Key, shape: tuple[int, ...], process: Process, t: float) -> Array:
    """Noise sigma(t) eps: z_t where nothing of the data is left, alpha(t) x being negligible.

    Args:
        key: of the noise.
        shape: of z.
        process: its time is its own: noise is at -12 or so of `VariancePreserving`, whose time is the
            log SNR, at 1 of the rectified flow, at n_steps of DDPM, at 0 of stochastic localization.
        t: where sampling starts.

    Raises:
        ValueError: at this time there is more data than noise.
    """
    level = _level(process, jnp.asarray(t, jnp.float32))
    if level is not None and level > 0.0:
        raise ValueError(
            f"sampling starts from noise, and at t = {t:g} {type(process).__name__} has a log SNR of "
            f"{level:.3g}, more data than noise{_hint(process)}"
        )
    return process.sigma(jnp.asarray(t, jnp.float32)) * jax.random.normal(key, shape)


def _hint(process: Process) -> str:
    """What is to be known of the time of a process that is often taken for another."""
    is_log_snr = isinstance(process, VariancePreserving)
    return ": its time is the log SNR, from -12 or so up to 12" if is_log_snr else ""


def _level(process: Process, times: Array, *place: int) -> float | None:
    """The log SNR at a time that is known, also while a program is traced; None at another."""
    if not known(times):
        return None
    with jax.ensure_compile_time_eval():
        level = log_snr(process, times[place])
    return float(level) if known(level) else None


def _check_order(process: Process, times: Float[Array, "times"]) -> None:
    """Raises ValueError where times are known and run from data to noise."""
    first, last = _level(process, times, 0), _level(process, times, -1)
    if len(times) > 1 and first is not None and last is not None and first >= last:
        raise ValueError(
            f"times must run from noise to data, and the log SNR of {type(process).__name__} is "
            f"{first:.3g} at the first and {last:.3g} at the last{_hint(process)}"
        )


def uniform_times(start: float, stop: float, n_steps: int) -> Float[Array, "times"]:
    """Equidistant times from start to stop, n_steps + 1 of them."""
    return jnp.linspace(start, stop, n_steps + 1)


@checked
def posterior(
    process: Process,
    z: Float[Array, "batch ..."],
    clean: Float[Array, "batch ..."],
    t: Float[Array, ""],
    s: Float[Array, ""],
) -> tuple[Array, Float[Array, ""], Float[Array, ""]]:
    """Mean and variance of z_s given z_t and the data, equation (1), and v."""
    alpha_s, sigma_s, sigma_t = process.alpha(s), process.sigma(s), process.sigma(t)
    a = process.alpha(t) / alpha_s
    v = jnp.maximum(sigma_t**2 - (a * sigma_s) ** 2, 0.0)
    ratio = (sigma_s / sigma_t) ** 2
    return a * ratio * z + alpha_s * v / sigma_t**2 * clean, v * ratio, v


@checked
def ancestral(
    model: Model,
    key: Key,
    z: Float[Array, "batch ..."],
    times: Float[Array, "times"],
    *,
    noise: Literal["posterior", "large"] = "posterior",
    order: Order = 2,
    constrain: Constrain | None = None,
) -> Float[Array, "batch ..."]:
    """DDPM's ancestral sampling, equation (1), its law right to second order by (5).

    Args:
        model: the network.
        key: of the noise.
        z: z at times[0], as `prior` draws it.
        times: from noise to data; all steps of the process, or fewer.
        noise: variance of a step: that of (1), or v, beta_t in the paper's terms. Neither adds noise
            in a last step that ends without noise.
        order: 1 is Ho et al.'s, without (5). `large` is always so: its excess is to make up for the
            variance that is left out.
        constrain: see `Constrain`.

    Returns:
        z at times[-1].
    """
    if noise not in ("posterior", "large"):
        raise ValueError(f"noise must be posterior or large, got {noise!r}")
    _check_order(model.process, times)

    def step(key: Key, z: Array, clean: Array, _: Array, t: Array, s: Array) -> Array:
        mean, variance, v = posterior(model.process, z, clean, t, s)
        if noise == "large":
            variance = jnp.where(variance > 0, v, 0.0)
        return mean + jnp.sqrt(variance) * jax.random.normal(key, z.shape, z.dtype)

    return _multistep(model, step, key, z, times, 1 if noise == "large" else order, constrain)


@checked
def ddim(
    model: Model,
    key: Key,
    z: Float[Array, "batch ..."],
    times: Float[Array, "times"],
    *,
    eta: float = 0.0,
    order: Order = 2,
    constrain: Constrain | None = None,
) -> Float[Array, "batch ..."]:
    """Sampling by DDIM, equation (2), to second order by (5): deterministic at eta = 0.

    Args:
        model: the network.
        key: of the noise; without effect for eta = 0.
        z: z at times[0].
        times: from noise to data, any subset of the process's steps.
        eta: 0 is deterministic, 1 is `ancestral`.
        order: 1 is Song et al.'s, without (5).
        constrain: see `Constrain`.

    Returns:
        z at times[-1].
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    _check_order(model.process, times)

    def step(key: Key, z: Array, clean: Array, eps: Array, t: Array, s: Array) -> Array:
        process = model.process
        alpha, sigma = process.alpha(s), process.sigma(s)
        if eta == 0.0:
            return alpha * clean + sigma * eps
        _, variance, _ = posterior(process, z, clean, t, s)
        c_squared = eta**2 * variance
        kept = jnp.sqrt(jnp.maximum(sigma**2 - c_squared, 0.0))
        xi = jax.random.normal(key, z.shape, z.dtype)
        return alpha * clean + kept * eps + jnp.sqrt(c_squared) * xi

    return _multistep(model, step, key, z, times, order, constrain)


@checked
def ode(
    model: Model,
    z: Float[Array, "batch ..."],
    times: Float[Array, "times"],
    *,
    method: OdeMethod = "heun",
    key: Key | None = None,
    constrain: Constrain | None = None,
) -> Float[Array, "batch ..."]:
    """The probability flow (3), by a Runge-Kutta method of order 1, 2 or 4.

    Args:
        model: the network.
        z: z at times[0]; going from data to noise gives the latent of an example.
        times: where the rates alpha', sigma' are finite, also at the ends, but for the last one of
            Euler's method.
        method: Euler, Heun or the classical method of fourth order.
        key: for `constrain`, if it is random.
        constrain: see `Constrain`.

    Returns:
        z at times[-1].
    """
    if method not in ("euler", "heun", "rk4"):
        raise ValueError(f"method must be euler, heun or rk4, got {method!r}")
    f = model.velocity

    def step(_: Key, z: Array, t: Array, s: Array) -> Array:
        h = s - t
        first = f(z, t)
        if method == "euler":
            return z + h * first
        if method == "heun":
            return z + 0.5 * h * (first + f(z + h * first, s))
        middle = t + 0.5 * h
        second = f(z + 0.5 * h * first, middle)
        third = f(z + 0.5 * h * second, middle)
        fourth = f(z + h * third, s)
        return z + h / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)

    return scan_steps(step, jax.random.key(0) if key is None else key, z, times, constrain)


@checked
def sde(
    model: Model,
    key: Key,
    z: Float[Array, "batch ..."],
    times: Float[Array, "times"],
    *,
    churn: float = 1.0,
    constrain: Constrain | None = None,
) -> Float[Array, "batch ..."]:
    """The reverse-time SDE (4), by Euler and Maruyama.

    Args:
        model: the network.
        key: of the noise.
        z: z at times[0].
        times: from noise to data, where g is finite: for the rectified flow, starting below 1.
        churn: c.
        constrain: see `Constrain`.

    Returns:
        z at times[-1].
    """
    if churn < 0.0:
        raise ValueError(f"churn must not be negative, got {churn}")
    _check_order(model.process, times)

    def step(key: Key, z: Array, t: Array, s: Array) -> Array:
        clean, eps = model.estimates(z, t)
        alpha_rate, sigma_rate = rates(model.process, t)
        spread = churn**2 * diffusion_squared(model.process, t) * jnp.abs(s - t)
        drift = (s - t) * (alpha_rate * clean + sigma_rate * eps)
        score = -eps / model.process.sigma(t)
        xi = jax.random.normal(key, z.shape, z.dtype)
        return z + drift + 0.5 * spread * score + jnp.sqrt(spread) * xi

    return scan_steps(step, key, z, times, constrain)


@checked
def adaptive_ode(
    model: Model,
    z: Float[Array, "batch ..."],
    start: float,
    stop: float,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 4096,
) -> tuple[Float[Array, "batch ..."], Float[Array, ""]]:
    """The probability flow (3) with steps chosen by Diffrax (extra `ode`): Tsitouras' method, order 5.

    Args:
        model: the network.
        z: z at `start`.
        start: time of noise.
        stop: time of data, where the rates are finite.
        tolerance: absolute and relative error of a step.
        max_steps: after which it gives up.

    Returns:
        z at `stop`, and the number of calls of the network.

    Raises:
        ImportError: Diffrax is not installed.
        RuntimeError: more than `max_steps` steps.
    """
    diffrax = import_extra("diffrax", "adaptive_ode")
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, z, _: model.velocity(z, jnp.asarray(t, z.dtype))),
        diffrax.Tsit5(),
        t0=start,
        t1=stop,
        dt0=None,
        y0=z,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=max_steps,
    )
    calls = 6.0 * solution.stats["num_steps"] + 1.0
    return solution.ys[0], jnp.asarray(calls, z.dtype)


def _multistep(
    model: Model,
    step: Callable[[Key, Array, Array, Array, Array, Array], Array],
    key: Key,
    z: Array,
    times: Array,
    order: Order,
    constrain: Constrain | None,
) -> Array:
    """Applies a step (key, z, x_hat, eps_hat, t, s) along the grid, at order 2 with (5) for x_hat."""
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if order == 1:

        def plain(key: Key, z: Array, t: Array, s: Array) -> Array:
            return step(key, z, *model.estimates(z, t), t, s)

        return scan_steps(plain, key, z, times, constrain)
    process = model.process

    def extrapolated(
        key: Key, z: Array, memory: tuple[Array, Array], t: Array, s: Array
    ) -> tuple[Array, tuple[Array, Array]]:
        before, h_before = memory
        h = log_snr(process, s) - log_snr(process, t)
        # Neither in the first step nor in one that ends without noise.
        usable = jnp.isfinite(h) & (h_before > 0)
        r = 0.5 * jnp.where(usable, jnp.minimum(h / jnp.where(usable, h_before, 1.0), 1.0), 0.0)
        own, eps = model.estimates(z, t)
        clean = own + r * (own - before)
        if model.clip is not None:
            clean = jnp.clip(clean, -model.clip, model.clip)
        ratio = process.alpha(t) / jnp.where(usable, process.sigma(t), 1.0)
        return step(key, z, clean, eps - ratio * (clean - own), t, s), (own, h)

    start = (jnp.zeros_like(z), jnp.zeros_like(times[0]))
    return scan_with_memory(extrapolated, key, z, start, times, constrain)
