"""Sparse pixels: images on the device, the network, and the losses of a batch."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_generation.images.batches import mirrored, normalised
from data_generation.images.datasets import ImageData, checksums, load_images, padded, subset
from data_generation.images.mask_settings import MaskSettings
from data_generation.images.masks import Masks, sparse_masks
from diffusions.checks import part_of
from diffusions.devices import Replicated
from diffusions.images.kriging import Kriging
from diffusions.images.sparse_denoising import Network, SparseDenoising
from diffusions.keys import named_key
from diffusions.networks.presets import UNET_PRESETS
from diffusions.networks.unet import UNet
from diffusions.objectives import stratified_uniform
from diffusions.processes import LinearBetaDDPM, Process, RectifiedFlow
from diffusions.training import Loss, shuffled_batches
from diffusions.typing import Array, Key, Params
from experiments.sparse_pixels.settings import ResolvedSparsePixelsSettings

Terms = Callable[[Array, Masks, Array, Key], Array]
"""(images, their masks, labels, key) -> the loss of every image."""

TIME_SCALE = 1000.0
"""Radians of the network's finest sinusoid over the whole noising."""


class SparseTask:
    """Data, network and losses of a run.

    Attributes:
        settings: resolved.
        masks: which pixels are told and asked.
        denoising: what is learned.
        regression: the same without noise.
        module: the network of both.
        classes: names.
        train: training images on the device, bytes.
        test: held-out ones on the host, bytes.
        checksums: of both splits, whole.
        devices: among which batches are divided.
    """

    def __init__(self, settings: ResolvedSparsePixelsSettings):
        """Args: resolved settings."""
        self.settings = settings
        self.masks = MaskSettings(**part_of(MaskSettings, settings))
        train, test = (self._read(split) for split in ("train", "test"))
        self.checksums = checksums(train=train, test=test)
        if settings.n_train is not None and settings.n_train < len(train):
            train = subset(train, settings.n_train, seed=settings.data_seed)
        if settings.n_test < len(test):
            test = subset(test, settings.n_test, seed=settings.data_seed)
        self.classes = train.classes
        self.train, self.labels = jnp.asarray(train.images), jnp.asarray(train.labels)
        self.test = test
        self.devices = Replicated.of(min(settings.batch_size, len(self.train)))
        self.sides = self._sides()
        kriging = Kriging(per_channel=settings.per_channel)
        shared = {
            "residual": bool(settings.residual),
            "kriging": kriging,
            "scale": settings.residual_scale,
            "told_weight": settings.told_weight,
            "preconditioned": settings.preconditioned,
        }
        process: Process = RectifiedFlow()
        if settings.model == "ddpm":
            process = LinearBetaDDPM(
                n_steps=settings.noising_steps,
                beta_min=settings.beta_min,
                beta_max=settings.beta_max,
            )
        self.denoising = SparseDenoising(
            process=process,
            prediction="epsilon" if settings.model == "ddpm" else "velocity",
            visible="full" if settings.supervision == "full-input" else settings.unseen or "hidden",
            **shared,  # type: ignore[arg-type]
        )
        self.regression = dataclasses.replace(self.denoising, prediction="clean")
        last = settings.noising_steps if settings.model == "ddpm" else 1
        self.module = UNet(
            out_channels=self.shape[-1],
            dropout=settings.dropout or 0.0,
            n_classes=len(self.classes) if settings.class_conditional else 0,
            time_scale=TIME_SCALE / last,
            dtype=jnp.bfloat16 if settings.bfloat16 else jnp.float32,
            **UNET_PRESETS[settings.unet],
        )

    def _read(self, split: Literal["train", "test"]) -> ImageData:
        settings = self.settings
        data = load_images(settings.dataset, split, path=settings.data_path)
        return padded(data, self._multiple)

    @property
    def _multiple(self) -> int:
        """Of which an image's sides must be multiples, for the network to halve it."""
        return 2 ** (len(UNET_PRESETS[self.settings.unet or ""]["multipliers"]) - 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.train.shape[1:]  # type: ignore[return-value]

    def _sides(self) -> tuple[int, ...]:
        """Of the training images; the images are square."""
        own = self.shape[0]
        for side in self.settings.resolutions:
            if own % side or side % self._multiple:
                raise ValueError(
                    f"resolutions must divide {own} and be multiples of {self._multiple} for the "
                    f"network {self.settings.unet}, got {side}"
                )
        return self.settings.resolutions or (own,)

    def counts(self, side: int) -> tuple[int, int]:
        """Told and asked pixels of a square image."""
        return self.masks.counts(side * side)

    def initial(self, key: Key) -> Params:
        """Parameters of a new network."""
        channels = (4 if self.denoising.residual else 3) * self.shape[-1]
        image = jnp.zeros((1, *self.shape[:2], channels))
        labels = jnp.zeros(1, jnp.int32) if self.module.n_classes else None
        return jax.jit(self.module.init)(key, image, jnp.zeros(1), labels)

    def network(
        self, params: Params, labels: Array | None, *, dropout: Key | None = None
    ) -> Network:
        """The network with its parameters, with dropout where there is a key for it.

        Args:
            params: of the module.
            labels: of the images; a batch that repeats them n times gets them n times.
            dropout: key.
        """
        told = labels if self.module.n_classes else None

        def network(channels: Array, t: Array) -> Array:
            own = None if told is None else jnp.tile(told, len(channels) // len(told))
            if dropout is None or not self.module.dropout:
                return self.module.apply(params, channels, t, own)  # type: ignore[return-value]
            rngs = {"dropout": dropout}
            return self.module.apply(params, channels, t, own, deterministic=False, rngs=rngs)  # type: ignore[return-value]

        return network

    def batches(self, key: Key) -> dict[str, Array]:
        """The batches of an epoch: images, and what their masks are drawn by."""
        order_key, epoch_key = jax.random.split(key)
        indices = shuffled_batches(order_key, len(self.train), self.settings.batch_size)
        # The loop gives an epoch's key and not its number; any number of its own will do.
        epoch = (jax.random.bits(epoch_key) >> 1).astype(jnp.int32)
        draws = jnp.arange(len(indices))
        return {"indices": indices, "draw": draws, "epoch": jnp.full(draws.shape, epoch)}

    def loss(self, params: Params, batch: dict[str, Array], key: Key) -> tuple[Array, dict]:
        """Of the diffusion model."""
        return self._mean(self._diffusion_terms(params, self.denoising), batch, key), {}

    def loss_on(self, completed: Array) -> Loss:
        """Of the diffusion model on the training images as completed: all their pixels are asked."""
        complete = dataclasses.replace(self.denoising, visible="full")

        def loss(params: Params, batch: dict[str, Array], key: Key) -> tuple[Array, dict]:
            terms = self._diffusion_terms(params, complete)

            def on_all(images: Array, masks: Masks, labels: Array, key: Key) -> Array:
                return terms(images, Masks(masks.conditioning, ~masks.conditioning), labels, key)

            return self._mean(on_all, batch, key, train=completed), {}

        return loss

    def _diffusion_terms(self, params: Params, denoising: SparseDenoising) -> Terms:
        """The loss of every image."""

        def terms(images: Array, masks: Masks, labels: Array, key: Key) -> Array:
            time_key, noise_key, dropout_key = jax.random.split(key, 3)
            t = stratified_uniform(time_key, len(images))
            if self.settings.model == "ddpm":  # its steps 1 .. n
                t = 1.0 + jnp.floor(t * self.settings.noising_steps)
            return denoising.loss(
                self.network(params, labels, dropout=dropout_key),
                noise_key,
                images,
                *masks,
                *self.counts(images.shape[1]),
                t,
            )

        return terms

    def regression_loss(
        self, params: Params, batch: dict[str, Array], key: Key
    ) -> tuple[Array, dict]:
        """Of the one-shot network."""

        def terms(images: Array, masks: Masks, labels: Array, key: Key) -> Array:
            network = self.network(params, labels, dropout=key)
            n_told, _ = self.counts(images.shape[1])
            return self.regression.regression_loss(network, images, *masks, n_told)

        return self._mean(terms, batch, key), {}

    def _mean(
        self, terms: Terms, batch: dict[str, Array], key: Key, train: Array | None = None
    ) -> Array:
        """The mean loss of a batch, at one of the resolutions."""
        flip_key, side_key, key = jax.random.split(key, 3)
        indices = batch["indices"]
        train = self.train if train is None else train
        images, labels = self.devices.batch((normalised(train[indices]), self.labels[indices]))

        def at(side: int) -> Callable[[], Array]:
            def loss() -> Array:
                small = averaged(images, side)
                masks = self.training_masks(batch, side)
                if self.settings.flip:
                    # Images with their masks: `fixed` masks hide the same pixels of a mirrored image.
                    small = mirrored(flip_key, small)
                    masks = Masks(*(mirrored(flip_key, mask) for mask in masks))
                return terms(small, masks, labels, key)

            return loss

        if len(self.sides) == 1:
            values = at(self.sides[0])()
        else:
            chosen = jax.random.randint(side_key, (), 0, len(self.sides))
            values = jax.lax.switch(chosen, [at(side) for side in self.sides])
        # The last batch of an epoch is filled up with images that do not count.
        counts = indices >= 0
        return jnp.where(counts, values, 0.0).sum() / counts.sum()

    def training_masks(self, batch: dict[str, Array], side: int) -> Masks:
        """Of the images of a batch."""
        return sparse_masks(
            named_key(jax.random.key(self.settings.seed), "masks"),
            batch["epoch"],
            batch["indices"],
            shape=(side, side, self.shape[-1]),
            settings=self.masks,
            draw=batch["draw"],
        )

    def optimizer(self, epochs: int) -> optax.GradientTransformation:
        """Adam with a bounded gradient."""
        settings = self.settings
        rate: Any = settings.learning_rate
        if settings.schedule == "cosine":
            steps = epochs * -(-len(self.train) // settings.batch_size)
            rate = optax.cosine_decay_schedule(rate, steps)
        return optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(rate))

    @property
    def n_groups(self) -> int:
        """Groups of pixels that a sampler shows in turn (`diffusions.images.sparse_denoising`)."""
        if self.denoising.visible != "hidden":
            return 1
        told, asked = self.counts(self.shape[0])
        return max(1, round((self.shape[0] ** 2 - told) / asked))

    def test_images(self) -> np.ndarray:
        """All of them, in [-1, 1]."""
        return np.asarray(normalised(jnp.asarray(self.test.images)))


def averaged(images: Array, side: int) -> Array:
    """Square images averaged down; a pixel of theirs is one observation."""
    n, own, _, channels = images.shape
    if side == own:
        return images
    return images.reshape(n, side, own // side, side, own // side, channels).mean(axis=(2, 4))
