"""Images: data on the device as bytes, the U-Net, likelihoods in bits per dimension, sample panels."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import load_network
from data_generation.formats.array_files import write_npz
from data_generation.images.batches import GRID_STEP, as_bytes, image_batch, normalised
from data_generation.images.datasets import ImageData, checksums, load_images, padded, subset
from diffusions.density.error_curves import best_rounding, discrete_nll, error_curves
from diffusions.density.gaussian_reference import GaussianReference, fitted_reference
from diffusions.density.likelihood import MeanLikelihood
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.networks.presets import UNET_PRESETS
from diffusions.networks.unet import UNet
from diffusions.samplers import Model, ode, prior, sde, uniform_times
from diffusions.typing import Array, Key
from experiments.information_theoretic.assessment import IMAGE_CHUNK, evaluation_key
from experiments.information_theoretic.figures import plot_error_curve, plot_images, plot_loss
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Learned, Measured, Task
from experiments.run.folder import RunFolder

SAMPLE_SEED = 22
LOG_SNR_SCALE = 50.0
DISCRETE_SAMPLES = 8
"""Draws per validation image; without a reference to subtract one would tell little."""
ROUNDING_IMAGES = 16
"""Training images by which the rounding of each log SNR is chosen."""


class ImageTask(Task):
    """The data are bytes on the device."""

    def __init__(
        self, settings: ResolvedInformationTheoreticSettings, saved: Sequence[nn.Module] = ()
    ):
        """Args: resolved settings, and the networks that are evaluated."""
        self.settings = settings
        weights = None if settings.weights is None else load_network(settings.weights)
        modules = saved if weights is None else [weights.module]
        self.levels = max(
            (len(module.multipliers) for module in modules if isinstance(module, UNet)),
            default=len(UNET_PRESETS[settings.unet]["multipliers"]),
        )
        everything = self._read("train")
        chosen = everything
        if settings.n_points is not None and settings.n_points < len(everything):
            chosen = subset(everything, settings.n_points, seed=settings.data_seed)
        held_out = self._read("test")
        self.checksums = checksums(train=everything, test=held_out)
        if settings.n_test < len(held_out):
            held_out = subset(held_out, settings.n_test, seed=settings.data_seed)
        self.train = jnp.asarray(chosen.images)
        self.validation = jnp.asarray(held_out.images)
        self.dimension = int(np.prod(self.train.shape[1:]))
        # The covariance of thousands of pixels needs all images, whatever the network is trained on.
        self.gaussian = self.reference = fitted_reference(
            normalised(jnp.asarray(everything.images))
        )
        dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
        image = normalised(self.train[:1])
        if weights is not None:
            self.module = weights.module.clone(dtype=dtype, dropout=settings.dropout)
            self.params = weights.params
            self._check_weights(image)
            return
        self.module = UNet(
            out_channels=self.train.shape[-1],
            dropout=settings.dropout,
            time_scale=LOG_SNR_SCALE,
            dtype=dtype,
            **UNET_PRESETS[settings.unet],
        )
        self.shown = settings.precondition != "none"
        if settings.mode == "evaluate":
            return
        image = jnp.concatenate([image] * (1 + self.shown), axis=-1)
        key = jax.random.key(settings.seed)
        self.params = jax.jit(self.module.init)(key, image, jnp.zeros(1))

    def _check_weights(self, image: Array) -> None:
        try:
            jax.eval_shape(self.module.apply, self.params, image, jnp.zeros(1))
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            raise ValueError(
                f"the network in {self.settings.weights} does not take images of shape "
                f"{list(image.shape[1:])} with a log SNR: {reason}"
            ) from error

    def _read(self, split: Any) -> ImageData:
        settings = self.settings
        data = load_images(settings.dataset, split, path=settings.data_path)  # type: ignore[arg-type]
        return padded(data, 2 ** (self.levels - 1))

    def examples(self, key: Key, indices: Array) -> Array:
        """Mirrored at random, in [-1, 1]."""
        return image_batch(key, self.train, indices, flip=self.settings.flip)

    def training_examples(self, number: int) -> Array:
        """In [-1, 1], not mirrored."""
        return normalised(self.train[:number])

    def validation_examples(self) -> Array:
        """All of them, in [-1, 1]."""
        return normalised(self.validation)

    def evaluated(self, run: RunFolder, learned: Learned, law: LogSNRLaw, epoch: int) -> None:
        """Nothing: a panel of samples costs more than an epoch of a small network."""

    def concluded(
        self, run: RunFolder, learned: Learned, law: LogSNRLaw, measured: Measured
    ) -> dict[str, Any]:
        """Samples and pictures."""
        samples = as_bytes(self._samples(learned, law))
        write_npz(run.path / "samples.npz", {"samples": np.asarray(samples)}, compressed=True)
        if self.settings.plots:
            plot_images(run.plots / "samples.png", np.asarray(samples))
            plot_images(run.plots / "data.png", np.asarray(self.train[: len(samples)]))
            plot_error_curve(run.plots / "mse_curve.png", measured.curves, measured.gaussian_curves)
            if rows := run.rows():
                plot_loss(
                    run.plots / "training.png",
                    rows,
                    truth=None,
                    gaussian=float(measured.gaussian_nll.value),
                )
        return {}

    def discrete(self, learned: Learned, law: LogSNRLaw) -> dict[str, MeanLikelihood]:
        """Of the network and of the Gaussian, with the best rounding of each."""
        return {
            "nll_discrete": self._discrete(learned, law),
            "nll_discrete_gaussian": self._discrete(None, law),
        }

    def _discrete(self, learned: Learned | None, law: LogSNRLaw) -> MeanLikelihood:
        n_log_snr = self.settings.n_log_snr
        grid: dict[str, Any] = {"delta": GRID_STEP, "bound": 1.0}
        choice_key, noise_key = evaluation_key("rounding"), evaluation_key("noise")

        def measure(
            learned: Learned | None, reference: GaussianReference, shown: Array, x: Array
        ) -> MeanLikelihood:
            denoiser = reference.epsilon if learned is None else self.denoiser(learned)
            denoiser = self.devices.divided(denoiser)
            rounding = best_rounding(
                error_curves(denoiser, choice_key, shown, law, n_log_snr=n_log_snr, **grid)
            )
            return discrete_nll(
                denoiser,
                noise_key,
                x,
                law,
                reference,
                rounding,
                n_samples=DISCRETE_SAMPLES,
                chunk=IMAGE_CHUNK,
                **grid,
            )

        shown = self.training_examples(ROUNDING_IMAGES)
        measured = self.devices.called(measure)
        return measured(learned, self.gaussian, shown, self.validation_examples())

    def _samples(self, learned: Learned, law: LogSNRLaw) -> Array:
        settings = self.settings
        low, high = law.ends
        times = uniform_times(low, high, settings.sampler_steps)
        model = Model(self.devices.divided(self.denoiser(learned)), CHANNEL)
        prior_key, noise_key = jax.random.split(jax.random.key(SAMPLE_SEED))
        noise = prior(prior_key, (settings.n_samples, *self.train.shape[1:]), CHANNEL, low)
        if settings.sampler == "sde":
            return self.devices.called(lambda z: sde(model, noise_key, z, times))(noise)
        return self.devices.called(lambda z: ode(model, z, times))(noise)
