"""Samplers of sparse pixels by name: grids of times, told pixels put back, compiled once each.

Between the ends of a grid all samplers are those of `diffusions.samplers`. What is particular:

    sde         Euler and Maruyama's steps are stable where the log SNR changes by less than one: the
                times are equidistant in log SNR from -6 to 8, and the first and last step, where the
                flow's SDE is singular, are Euler's of the ODE
    ode-heun,   the last step of ddpm is Euler's, because sigma' is infinite at its end
    ode-rk4
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.images.masks import Masks, sparse_masks
from diffusions.images.sparse_denoising import Condition, SparseDenoising
from diffusions.objectives import Denoiser
from diffusions.processes import LinearBetaDDPM, Process, log_snr
from diffusions.samplers import (
    Model,
    OdeMethod,
    Order,
    ancestral,
    ddim,
    ode,
    prior,
    sde,
    uniform_times,
)
from diffusions.sampling_loop import Constrain
from diffusions.typing import Array, Key, Params
from experiments.sparse_pixels.settings import CALLS_PER_STEP, Sampler
from experiments.sparse_pixels.task import SparseTask

SDE_LOG_SNR = (-6.0, 8.0)
TEST_MASK_SEED = 30
"""Of the masks of held-out images: the same for every run and epoch."""
RESIDUAL_BOUND = 1.0
"""On the residual of an interpolation, in units of the pixels, where an estimate must be bounded."""


class SamplerSpec(NamedTuple):
    """A sampler with its options."""

    name: Sampler
    steps: int
    order: Order = 2
    eta: float = 0.0
    churn: float = 1.0
    impose: bool = False

    @property
    def calls(self) -> int:
        """Of the network, for one batch."""
        return self.steps * CALLS_PER_STEP.get(self.name, 1)


def time_grid(process: Process, name: Sampler, steps: int) -> Array:
    """The times of a sampler, steps + 1 of them, from noise to data."""
    start = float(process.n_steps) if isinstance(process, LinearBetaDDPM) else 1.0
    if name != "sde" or steps < 3:
        return uniform_times(start, 0.0, steps)
    # The log SNR falls with time, and interpolation wants increasing places.
    table = start * jnp.linspace(1 - 1e-4, 1e-4, 20_000)
    inner = jnp.interp(jnp.linspace(*SDE_LOG_SNR, steps - 1), log_snr(process, table), table)
    return jnp.concatenate([jnp.array([start]), inner, jnp.zeros(1)])


def sampled(
    model: Model, key: Key, z: Array, spec: SamplerSpec, constrain: Constrain | None
) -> Array:
    """Runs a sampler from the noise z."""
    times = time_grid(model.process, spec.name, spec.steps)
    if spec.name == "ddpm":
        return ancestral(model, key, z, times, order=spec.order, constrain=constrain)
    if spec.name == "ddim":
        return ddim(model, key, z, times, eta=spec.eta, order=spec.order, constrain=constrain)
    start_key, key, end_key = jax.random.split(key, 3)

    def euler(key: Key, z: Array, times: Array) -> Array:
        return ode(model, z, times, method="euler", key=key, constrain=constrain)

    if spec.name == "sde" and spec.steps >= 3:
        z = euler(start_key, z, times[:2])
        z = sde(model, key, z, times[1:-1], churn=spec.churn, constrain=constrain)
        return euler(end_key, z, times[-2:])
    if spec.name in ("ode-euler", "sde") or spec.steps == 1:
        return euler(key, z, times)
    method: OdeMethod = "heun" if spec.name == "ode-heun" else "rk4"
    if not isinstance(model.process, LinearBetaDDPM):
        return ode(model, z, times, method=method, key=key, constrain=constrain)
    z = ode(model, z, times[:-1], method=method, key=key, constrain=constrain)
    return euler(end_key, z, times[-2:])


def told_put_back(denoising: SparseDenoising, condition: Condition) -> Constrain:
    """Replaces z at the told pixels by their own values, noised as z is."""
    u, told = denoising.latent(condition, condition.sparse), condition.told > 0
    process = denoising.process

    def constrain(key: Key, z: Array, s: Array) -> Array:
        noised = process.alpha(s) * u + process.sigma(s) * jax.random.normal(key, z.shape, z.dtype)
        return jnp.where(told, noised, z)

    return constrain


def sampler_model(denoising: SparseDenoising, denoiser: Denoiser) -> tuple[Model, float]:
    """A denoiser as samplers read it, and the time at which they start."""
    process = denoising.process
    if not isinstance(process, LinearBetaDDPM):
        return Model(denoiser, process, denoising.prediction), 1.0
    bound = RESIDUAL_BOUND / denoising.scale if denoising.residual else 1.0
    return Model(denoiser, process, denoising.prediction, clip=bound), float(process.n_steps)


class Reconstruction:
    """Compiled functions from told pixels to whole images, for batches of one size."""

    def __init__(self, task: SparseTask):
        """Args: the task, whose network it is."""
        self.task = task
        self._sampled = task.devices.jit(self._sample, static_argnames="spec")
        self.regressed = jax.jit(self._regressed)
        self.kriged = jax.jit(self._kriged)

    def sample(
        self, spec: SamplerSpec, params: Params, key: Key, images: Array, told: Array, labels: Array
    ) -> Array:
        """Images by a sampler, as many as there are told pixels of."""
        devices = self.task.devices
        given = devices.placed((params, key, images, told, labels))
        return devices.own(self._sampled(spec, *given))

    def masks(self, indices: np.ndarray) -> Masks:
        """Of held-out images, by their place."""
        return sparse_masks(
            jax.random.key(TEST_MASK_SEED),
            0,
            jnp.asarray(indices),
            shape=self.task.shape,
            settings=self.task.masks,
        )

    def _condition(self, images: Array, told: Array) -> Condition:
        n_told, _ = self.task.counts(self.task.shape[0])
        return self.task.denoising.condition(images, told, n_told)

    def _sample(
        self, spec: SamplerSpec, params: Params, key: Key, images: Array, told: Array, labels: Array
    ) -> Array:
        denoising = self.task.denoising
        images, told, labels = self.task.devices.batch((images, told, labels))
        condition = self._condition(images, told)
        prior_key, split_key, noise_key = jax.random.split(key, 3)
        denoiser = denoising.denoiser(
            self.task.network(params, labels),
            condition,
            key=split_key,
            n_groups=self.task.n_groups,
        )
        constrain = None
        if self.task.settings.model == "em":
            n_told, _ = self.task.counts(self.task.shape[0])
            denoiser = denoising.posterior_denoiser(denoiser, condition, images, told, n_told)
        elif spec.impose:
            constrain = told_put_back(denoising, condition)
        model, start = sampler_model(denoising, denoiser)
        z = prior(prior_key, images.shape, denoising.process, start)
        u = sampled(model, noise_key, z, spec, constrain)
        return jnp.clip(denoising.image(condition, u), -1.0, 1.0)

    def _regressed(self, params: Params, images: Array, told: Array, labels: Array) -> Array:
        condition = self._condition(images, told)
        regression = self.task.regression
        u = regression.regression(self.task.network(params, labels), condition)
        return jnp.clip(regression.image(condition, u), -1.0, 1.0)

    def _kriged(self, images: Array, told: Array) -> Array:
        n_told, _ = self.task.counts(self.task.shape[0])
        return jnp.clip(self.task.denoising.kriging.mean(images, told, n_told), -1.0, 1.0)
