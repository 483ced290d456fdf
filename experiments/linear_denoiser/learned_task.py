"""Repetitions of the learned denoiser: data, training, samples and distances, in a run folder."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from data_generation.gaussians import IsotropicMixture
from data_generation.scripts.device import division
from diffusions.devices import Members, Replicated
from diffusions.linear_denoiser.pixel_distance import pixel_distance
from diffusions.networks.attention_unet import AttentionUNet
from diffusions.objectives import denoising_loss
from diffusions.processes import LinearBetaDDPM
from diffusions.samplers import Model, ancestral
from diffusions.training import initial_state, shuffled_batches, train_epochs
from experiments.linear_denoiser.figures import plot_generated, plot_learned
from experiments.linear_denoiser.learned_evaluation import running_averages, say_table, summarise
from experiments.linear_denoiser.settings import LearnedDenoiserSettings
from experiments.linear_denoiser.verdict import learned_verdict
from experiments.run.repetitions import run_chunks
from experiments.run.session import Session, session
from experiments.run.tables import write_table


def simulate(settings: LearnedDenoiserSettings, begin: float) -> None:
    """Runs what the settings ask for.

    Args:
        settings: of the flags.
        begin: when the script did, by `time.perf_counter`.
    """
    with session(settings, "experiments.learned_denoiser", begin) as run:
        data = IsotropicMixture(settings.mean_list, settings.std_list, settings.weights)
        simulations = settings.n_simulations
        size = settings.chunk_size or (1 if jax.default_backend() == "cpu" else 10)
        size = min(size, simulations)
        started = run.start(
            "learned_denoiser",
            f"learned denoiser of {settings.n_pixels} x {settings.n_pixels} images: {simulations} "
            f"repetitions of n = {','.join(map(str, settings.n_train))}, {settings.epochs} epochs, "
            f"{settings.diffusion_steps} steps",
            chunk_size=size,
            divided=division(*_shared(settings, size)),
        )
        if started:
            run.conclude(_results(run, data, settings, size))


def _shared(settings: LearnedDenoiserSettings, size: int) -> tuple[str, Members | Replicated]:
    """What is divided among the devices: chunks of repetitions, or the batches of one."""
    if size > 1:
        return f"chunks of {size} repetitions", Members.of(size)
    return f"batches of {settings.batch_size}", Replicated.of(settings.batch_size)


def _results(
    run: Session, data: IsotropicMixture, settings: LearnedDenoiserSettings, size: int
) -> dict[str, Any]:
    """All repetitions, `size` of them side by side, with tables and figures; for the summary."""
    experiment = Experiment(data, settings, size)
    newest: dict[str, Any] = {}

    def compute(chunk: dict[str, Any]) -> dict[str, Any]:
        values = experiment.repetitions(chunk["first"], chunk["n"])
        newest["images"] = values.pop("images")[0]
        return {name: value[: chunk["count"]].tolist() for name, value in values.items()}

    # Every size before the next repetitions: an unfinished run has all of them already.
    chunks = [
        {"n": n, "first": first, "count": min(size, settings.n_simulations - first)}
        for first in range(0, settings.n_simulations, size)
        for n in settings.n_train
    ]
    folder = run.folder
    with run.timed("simulate"):
        rows = run_chunks(
            folder,
            chunks,
            compute,
            columns=("delta", "distance_train", "distance_original", "loss"),
            unit="training" if size == 1 else "chunk",
        )
    table = summarise(rows, settings.n_train)
    say_table(table)
    write_table(folder.path / "table.csv", table)
    averages = running_averages(rows, settings.n_train)
    write_table(folder.path / "running_averages.csv", averages)
    if settings.plots:
        plot_learned(folder.plots / "curves.png", table, averages)
        if newest:  # absent when a resumed run had all rows
            plot_generated(folder.plots / "generated.png", np.asarray(newest["images"]), data)
    said = learned_verdict(table, data.mean, data.std, settings.n_simulations).said()
    return {**said, "table": table, "n_simulations": settings.n_simulations}


class Experiment:
    """Repetitions side by side, as four programs; only those of training and comparison depend on n."""

    def __init__(self, data: Any, settings: LearnedDenoiserSettings, size: int):
        """Args: the law of the pixels, the settings, how many repetitions are side by side."""
        self.data, self.settings, self.size = data, settings, size
        self.process = LinearBetaDDPM(
            n_steps=settings.diffusion_steps,
            beta_min=settings.beta_small,
            beta_max=settings.beta_large,
        )
        self.network = AttentionUNet(channels=settings.channels, heads=settings.heads)
        self.optimizer = optax.adam(settings.learning_rate)
        self.shape = (settings.n_pixels, settings.n_pixels, 1)
        # Most of the work on a CPU is in library calls: LLVM's full effort costs more than it saves.
        on_cpu = jax.default_backend() == "cpu"
        self._options = {"xla_backend_optimization_level": 1} if on_cpu else None
        self._drawn = functools.cache(lambda n: self._mapped(functools.partial(self._draw, n=n)))
        self._initialised = self._mapped(self._initialise)
        self._trained = functools.cache(lambda n: self._mapped(self._train, self._batch_size(n)))
        self._sampled = self._mapped(self._sample, settings.n_generated)
        self._compared = self._mapped(self._compare)

    def repetitions(self, first: int, n: int) -> dict[str, Any]:
        """Results of repetitions first, first + 1, ... with n training images, one per row."""
        key = jax.random.key(self.settings.seed)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first + jnp.arange(self.size))
        original_keys, keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
        # What a size draws does not depend on which others there are.
        keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, n), 6))(keys)
        draw, start, order, noise, sampling, validation = jnp.unstack(keys, axis=1)
        train = self._drawn(n)(draw)
        params = self._initialised(start)
        params, losses = self._trained(n)(params, train, order, validation)
        images = self._sampled(params, noise, sampling)
        distances = self._compared(images, train, original_keys)
        return jax.device_get({**losses, **distances, "images": images})

    def _mapped(self, function: Callable[..., Any], batch: int = 1) -> Callable[..., Any]:
        """The program of a stage, for all repetitions.

        Several are divided among the devices; of one alone, the batches are.

        Args:
            function: of one repetition; it may take the devices that share its batches.
            batch: size of these.
        """
        if self.size > 1:
            return Members.of(self.size).called(function, compiler_options=self._options)
        devices = Replicated.of(batch)
        own = functools.partial(function, devices=devices) if batch > 1 else function

        def alone(*arguments: Any) -> Any:
            result = own(*jax.tree.map(lambda leaf: leaf[0], arguments))
            return jax.tree.map(lambda leaf: leaf[None], result)

        return devices.called(alone, compiler_options=self._options)

    def _draw(self, key: Any, *, n: int) -> Any:
        return self.data.draw_images(key, n, self.settings.n_pixels)

    def _initialise(self, key: Any) -> Any:
        return self.network.init(key, jnp.zeros((1, *self.shape)), jnp.zeros(1))

    def _denoiser(self, params: Any) -> Callable[[Any, Any], Any]:
        return lambda z, t: self.network.apply(params, z, t)

    def _losses(self, params: Any, key: Any, images: Any) -> Any:
        time_key, noise_key = jax.random.split(key)
        t = jax.random.randint(time_key, images.shape[:1], 1, self.settings.diffusion_steps + 1)
        return denoising_loss(
            self._denoiser(params), noise_key, self.process, images, t.astype(jnp.float32)
        )

    def _n_fit(self, n: int) -> int:
        """Images to train on, at least one; the others are for validation."""
        return n - min(int(self.settings.validation_fraction * n), n - 1)

    def _batch_size(self, n: int) -> int:
        """As many steps as the settings ask for, in batches of equal size: none is a remainder."""
        n_fit = self._n_fit(n)
        n_batches = -(-n_fit // self.settings.batch_size)
        return -(-n_fit // n_batches)

    def _train(
        self,
        params: Any,
        train: Any,
        key: Any,
        validation_key: Any,
        devices: Replicated = Replicated(),  # noqa: B008 (frozen)
    ) -> Any:
        """The trained parameters, and the last epoch's losses."""
        n = train.shape[0]
        n_fit, batch_size = self._n_fit(n), self._batch_size(n)
        scaled = 2.0 * train - 1.0

        def loss(params: Any, rows: Any, key: Any) -> Any:
            weights = rows >= 0
            each = self._losses(params, key, devices.batch(scaled[jnp.maximum(rows, 0)]))
            return jnp.sum(weights * each) / jnp.sum(weights), {}

        state, scalars = train_epochs(
            initial_state(params, self.optimizer),
            key,
            batches=lambda key: shuffled_batches(key, n_fit, batch_size),
            loss=loss,
            optimizer=self.optimizer,
            n_epochs=self.settings.epochs,
        )
        losses = {"loss": scalars["loss"][-1]}
        if n_fit < n:
            held_out = self._losses(state.params, validation_key, scaled[n_fit:])
            losses["validation_loss"] = held_out.mean()
        return state.params, losses

    def _sample(
        self,
        params: Any,
        noise_key: Any,
        key: Any,
        devices: Replicated = Replicated(),  # noqa: B008 (frozen)
    ) -> Any:
        """Generated images, in the units of the data."""
        model = Model(self._denoiser(params), self.process)
        times = jnp.arange(self.settings.diffusion_steps, -1, -1, dtype=jnp.float32)
        noise = jax.random.normal(noise_key, (self.settings.n_generated, *self.shape))
        noise = devices.batch(noise)
        return 0.5 * (ancestral(model, key, noise, times, noise="large") + 1.0)

    def _compare(self, images: Any, train: Any, original_key: Any) -> dict[str, Any]:
        """Distances of the generated images to the training set and to the original one."""
        settings = self.settings
        original = self._draw(original_key, n=settings.n_original)
        generated, near, far = (
            some[: settings.distance_cutoff or None].reshape(-1, settings.n_pixels**2)
            for some in (images, train, original)
        )
        distance = functools.partial(
            pixel_distance, generated, std=self.data.kernel_std, scale=settings.bandwidth_scale
        )
        to_train, to_original = distance(near), distance(far)
        return {
            "distance_train": to_train,
            "distance_original": to_original,
            "delta": to_train - to_original,
            "generated_mean": images.mean(),
            "generated_std": images.std(),
        }
