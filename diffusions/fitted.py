"""A learned diffusion: samples and log densities, in the units of the data.

The network is of standardised data, u = (x - m) / s coordinate by coordinate, and

    log p(x) = log p_u((x - m) / s) - sum_i log s_i.                                                (1)

Samples are drawn, and densities integrated, along the log SNR, whichever the process of the network is
(`diffusions.density.channel`): from the lower end of `law`, where nothing is left of the data, to the
upper one, and there the clean estimate is taken.
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.checks import conform
from diffusions.density import likelihood
from diffusions.density.channel import Condition, on_channel, on_process
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.likelihood import Likelihood, MeanLikelihood
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.keys import named_key
from diffusions.objectives import Denoiser
from diffusions.predictions import Prediction
from diffusions.processes import TimedProcess
from diffusions.samplers import Model, ancestral, ode, prior, uniform_times
from diffusions.short_repr import count
from diffusions.training_report import TrainingReport
from diffusions.typing import Array, Float, Key, Params

Method = Literal["ode", "ancestral"]


@flax.struct.dataclass
class FittedDiffusion:
    """What `diffusions.fit` learned.

    Attributes:
        network: the Flax module.
        process: that it is of.
        prediction: what it predicts.
        condition: what it is called with.
        law: of the log SNRs that it learned.
        report: how the training went.
        params: of the network.
        reference: the Gaussian of the standardised training data, which the network corrects.
        centre: m of equation (1), in the units of the data.
        scale: s of equation (1), likewise.
    """

    network: nn.Module = flax.struct.field(pytree_node=False)
    process: TimedProcess = flax.struct.field(pytree_node=False)
    prediction: Prediction = flax.struct.field(pytree_node=False)
    condition: Condition = flax.struct.field(pytree_node=False)
    law: LogSNRLaw = flax.struct.field(pytree_node=False)
    report: TrainingReport = flax.struct.field(pytree_node=False)
    params: Params
    reference: GaussianReference
    centre: Float[Array, "d ..."]
    scale: Float[Array, "d ..."]

    def __repr__(self) -> str:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        report = self.report
        return (
            f"FittedDiffusion({type(self.network).__name__} of {count(size, 'parameter')} on "
            f"{type(self.process).__name__}, examples of shape {self.centre.shape},\n"
            f"  {count(len(report.loss), 'epoch')}, held-out nll {report.validation[-1]:.4g} +- "
            f"{report.validation_error:.2g} nats, by a Gaussian {report.gaussian:.4g},\n"
            f"  two fifths of the training lowered it by {report.drop:.2g} +- {report.drop_error:.2g})"
        )

    @property
    def denoiser(self) -> Denoiser:
        """(z, log SNR) -> eps_hat on `CHANNEL`, of standardised data: for `diffusions.density`."""
        return on_channel(
            functools.partial(self.network.apply, self.params),  # type: ignore[arg-type]
            self.process,
            self.reference,
            prediction=self.prediction,
            condition=self.condition,
        )

    @property
    def model(self) -> Model:
        """The network on its own process, of standardised data: for `diffusions.samplers`."""
        predicted = on_process(
            functools.partial(self.network.apply, self.params),  # type: ignore[arg-type]
            self.process,
            self.reference,
            self.law,
            prediction=self.prediction,
            condition=self.condition,
        )
        return Model(predicted, self.process, self.prediction)

    def times(self, n_steps: int) -> Float[Array, "times"]:
        """n_steps + 1 times of the process from noise to data, evenly spaced in log SNR."""
        return self.process.time(uniform_times(*self.law.ends, n_steps))

    @checked
    def sample(
        self, key: Key, n: int, *, n_steps: int = 200, method: Method = "ancestral"
    ) -> Float[Array, "n d ..."]:
        """Draws new examples.

        Args:
            key: of the noise.
            n: how many.
            n_steps: steps along the log SNR; an ode calls the network twice in each.
            method: ancestral, with noise in every step, which makes up for errors of those before; or
                ode, the probability flow by Heun's method, a smooth map of the noise.

        Returns:
            Examples in the units of the data.

        Raises:
            ValueError: unknown method.
        """
        conform(method, Method, "method")
        return _drawn(self, key, n, n_steps, method)

    @checked
    def log_density(
        self, x: Float[Array, "n d ..."], key: Key, *, n_log_snr: int = 1024
    ) -> Likelihood:
        """Log p(x) of each example, in nats per example, in the units of the data.

        It is exact for the ideal denoiser; for this one its mean over the law of the data is too low,
        by the excess of its denoising error.

        Args:
            x: examples in the units of the data.
            key: of log SNRs and noises.
            n_log_snr: draws per example; powers of two are best.

        Returns:
            Log densities [n], and the standard errors [n] of the draws: what the network has not
            learned is not in them.

        Raises:
            ValueError: the examples are not of the shape of the training data.
        """
        self._check(x)
        return _log_density(self, x, key, n_log_snr)

    @checked
    def nll(self, x: Float[Array, "n d ..."], key: Key, *, n_samples: int = 64) -> MeanLikelihood:
        """The mean of -log p(x) over examples, in nats per example, in the units of the data.

        Args:
            x: examples in the units of the data, not those of the training.
            key: of log SNRs and noises.
            n_samples: draws per example.

        Returns:
            The mean, its standard error as an estimate of the mean over the law of the examples, and
            the error of the evaluation itself, as the mean over these very examples.

        Raises:
            ValueError: the examples are not of the shape of the training data.
        """
        self._check(x)
        return _nll(self, x, key, n_samples)

    def _check(self, x: Array) -> None:
        if x.shape[1:] != self.centre.shape:
            raise ValueError(
                f"x must have examples of shape {self.centre.shape}, as the training data had, got "
                f"{x.shape[1:]}"
            )


@functools.partial(jax.jit, static_argnames=("n", "n_steps", "method"))
def _drawn(fitted: FittedDiffusion, key: Key, n: int, n_steps: int, method: Method) -> Array:
    low, high = fitted.law.ends
    model, times = Model(fitted.denoiser, CHANNEL), uniform_times(low, high, n_steps)
    z = prior(named_key(key, "prior"), (n, *fitted.centre.shape), CHANNEL, low)
    step_key = named_key(key, "steps")
    z = ode(model, z, times) if method == "ode" else ancestral(model, step_key, z, times)
    clean, _ = model.estimates(z, jnp.asarray(high, z.dtype))
    return fitted.centre + fitted.scale * clean


@functools.partial(jax.jit, static_argnames="n_log_snr")
def _log_density(fitted: FittedDiffusion, x: Array, key: Key, n_log_snr: int) -> Likelihood:
    found = likelihood.log_density(
        fitted.denoiser,
        key,
        (x - fitted.centre) / fitted.scale,
        fitted.law,
        fitted.reference,
        n_log_snr=n_log_snr,
    )
    return found._replace(value=found.value - jnp.log(fitted.scale).sum())


@functools.partial(jax.jit, static_argnames="n_samples")
def _nll(fitted: FittedDiffusion, x: Array, key: Key, n_samples: int) -> MeanLikelihood:
    found: Any = likelihood.nll(
        fitted.denoiser,
        key,
        (x - fitted.centre) / fitted.scale,
        fitted.law,
        fitted.reference,
        n_samples=n_samples,
    )
    return found._replace(value=found.value + jnp.log(fitted.scale).sum())
