"""Points, in the plane or of one's own: data, network, pictures and samples."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.formats.array_files import write_npz
from data_generation.planar import PlanarData, planar_data
from data_generation.points import PointData, points_data
from data_generation.scripts.command_line import say
from data_generation.scripts.files import sha256
from diffusions.density.gaussian_reference import fitted_reference
from diffusions.density.likelihood import log_density
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.density.mixture_choice import LEAST_POINTS, check_points, chosen_mixture
from diffusions.density.reference import Reference
from diffusions.metrics import gaussian_kernel, mmd_squared
from diffusions.networks.mlp import DenoisingMLP
from diffusions.samplers import Model, ode, prior, sde, uniform_times
from diffusions.typing import Array, HostArray, Key
from experiments.information_theoretic.figures import (
    plot_density,
    plot_error_curve,
    plot_final_density,
    plot_loss,
    plot_marginals,
    plot_samples,
    square_grid,
)
from experiments.information_theoretic.settings import OWN, ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Learned, Measured, Task
from experiments.run.folder import RunFolder

DENSITY_SEED = 21
SAMPLE_SEED = 22
FINAL_GRID = 100
PICTURE_SHARE = 4
DENSITY_CHUNK = 4
"""Nodes at a time: the responsibilities of all components stay in the cache."""
MMD_BANDWIDTH = 0.5
"""Of standardised data: half a standard deviation."""


class PlanarTask(Task):
    """The data are a standardised sample, of a known law or a file's."""

    def __init__(self, settings: ResolvedInformationTheoreticSettings):
        self.settings = settings
        given: dict[str, Any] = {
            "n_points": settings.n_points,
            "validation_ratio": settings.validation_ratio,
        }
        self.truth: PlanarData | None = None
        self.data: PlanarData | PointData
        if settings.dataset == OWN:
            file = settings.data_path or ""
            self.data = points_data(file, settings.data_seed, **given)
            self.checksums = {"points": sha256(Path(file))}
        else:
            self.data = self.truth = planar_data(settings.dataset, settings.data_seed, **given)
        if settings.mode == "train" and settings.precondition == "mixture":
            check_points(self.data.train)  # while there is no folder yet
        self.train = jnp.asarray(self.data.train)
        self.validation = jnp.asarray(self.data.validation)
        self.gaussian = self.reference = fitted_reference(self.train)
        self.dimension = self.data.train.shape[1]
        self.module = DenoisingMLP(
            width=settings.width,
            n_layers=settings.n_layers,
            embedding=settings.embedding,
            coordinate_scale=settings.coordinate_scale,
            log_snr_scale=settings.log_snr_scale,
            activation=settings.activation,
        )
        if settings.mode == "train":
            key = jax.random.key(settings.seed)
            self.params = self.module.init(key, self.train[:1], jnp.zeros(1))
        # Compiled once for all evaluations.
        self.density = jax.jit(self._density, static_argnums=(2, 3))

    def prepare(self) -> dict[str, Any]:
        """The mixture, and which points it was chosen by."""
        if self.settings.precondition != "mixture":
            return {}
        say("  fitting the reference ...")
        chosen = chosen_mixture(self.data.train, self.settings.seed)
        self.reference = chosen.reference
        self.judges = self.train[chosen.held_out]
        self.train = jnp.delete(self.train, chosen.held_out, axis=0)
        say(
            f"  reference: {chosen.in_words}, {chosen.held_out_nll:.4f} nats on "
            f"{len(self.judges)} training points that are kept out"
        )
        return {"reference": {"members": chosen.members, "held_out_nll": chosen.held_out_nll}}

    def resolving(self) -> Reference:
        """The mixture that was chosen, or one for this alone: a Gaussian is as wide as all points."""
        if self.reference is not self.gaussian or len(self.data.train) < LEAST_POINTS:
            return self.reference
        return self._narrow

    @functools.cached_property
    def _narrow(self) -> Reference:
        say("  fitting a mixture, for the range of the log SNRs ...")
        return chosen_mixture(self.data.train, self.settings.seed).reference

    def examples(self, key: Key, indices: Array) -> Array:
        """Points; the key is for data that are altered at random."""
        del key
        return self.train[indices]

    def training_examples(self, number: int) -> Array:
        """Points."""
        return self.train[:number]

    def validation_examples(self) -> Array:
        """All of them."""
        return self.validation

    def _log_density(self, learned: Learned, nodes: np.ndarray, law: LogSNRLaw) -> np.ndarray:
        """At the nodes of a picture; of a reference that stands alone in closed form."""
        if learned.gate is not None and learned.gate.shut:
            return np.asarray(self.reference.log_density(jnp.asarray(nodes)))
        # What a reference of many Gaussians leaves to the network is small, and so is its noise.
        few = self.settings.precondition == "mixture"
        n_log_snr = self.settings.n_log_snr // (PICTURE_SHARE if few else 1)
        return np.asarray(self.density(learned, jnp.asarray(nodes), law, max(2, n_log_snr)))

    def _density(self, learned: Learned, nodes: Array, law: LogSNRLaw, n_log_snr: int) -> Array:
        return log_density(
            self.denoiser(learned),
            jax.random.key(DENSITY_SEED),
            nodes,
            law,
            self.reference,
            n_log_snr=n_log_snr,
            chunk=DENSITY_CHUNK,
        ).value

    def evaluated(self, run: RunFolder, learned: Learned, law: LogSNRLaw, epoch: int) -> None:
        """The contours at this epoch."""
        if self.settings.plots and self.dimension == 2:
            file = run.plots / f"density_{epoch:04d}.png"
            self._plot_density(file, learned, law, f"log density, epoch {epoch}")

    def _plot_density(self, file: Path, learned: Learned, law: LogSNRLaw, title: str) -> None:
        axis, nodes = square_grid(self.data.train, self.settings.grid)
        plot_density(
            file, axis, self._log_density(learned, nodes, law), self.data.train[:2000], title
        )

    def concluded(
        self, run: RunFolder, learned: Learned, law: LogSNRLaw, measured: Measured
    ) -> dict[str, Any]:
        """Samples, the truth, and the last pictures."""
        samples = {name: np.asarray(s) for name, s in self._samples(learned, law).items()}
        write_npz(run.path / "samples.npz", samples)
        truth, about = self._truth()
        # One per coordinate, standardised: what they lack of the file's units.
        about["nll_in_own_units"] = float(measured.nll.value + np.log(self.data.deviation).sum())
        if self.settings.plots:
            plots = run.plots
            self._plot_final(plots, learned, law, samples)
            plot_error_curve(plots / "mse_curve.png", measured.curves, measured.gaussian_curves)
            if rows := run.rows():
                plot_loss(
                    plots / "training.png",
                    rows,
                    truth=truth,
                    gaussian=float(measured.gaussian_nll.value),
                )
        bandwidth = MMD_BANDWIDTH * float(np.sqrt(self.dimension / 2))
        distances = {
            name: float(
                mmd_squared(jnp.asarray(drawn), self.validation, gaussian_kernel(bandwidth))
            )
            for name, drawn in samples.items()
        }
        return {
            **about,
            "mmd_squared_of_samples": distances,
        }

    def exact_log_density(self) -> HostArray | None:
        """Where the points are of a known law."""
        return None if self.truth is None else self.truth.log_density(self.truth.validation)

    def _truth(self) -> tuple[float | None, dict[str, float]]:
        """The exact nll of the very points that the network is judged by, and the entropy."""
        log_densities = self.exact_log_density()
        if self.truth is None or log_densities is None:
            return None, {}
        # The mean over these points is not the entropy.
        exact = -float(np.mean(log_densities))
        return exact, {"nll_true": exact, "entropy": self.truth.entropy()}

    def _plot_final(
        self, plots: Path, learned: Learned, law: LogSNRLaw, samples: dict[str, np.ndarray]
    ) -> None:
        points = self.data.train
        if self.dimension != 2:
            plot_marginals(plots / "samples.png", points, samples)
            return
        if self.truth is None:
            self._plot_density(plots / "density.png", learned, law, "log density")
        else:
            axis, nodes = square_grid(points, max(self.settings.grid, FINAL_GRID))
            learned_values = self._log_density(learned, nodes, law)
            exact = self.truth.log_density(nodes)
            plot_final_density(plots / "density.png", axis, learned_values, exact, points[:2000])
        plot_samples(plots / "samples.png", points[: len(samples["ode"])], samples)

    def _samples(self, learned: Learned, law: LogSNRLaw) -> dict[str, Array]:
        settings = self.settings
        low, high = law.ends
        times = uniform_times(low, high, settings.sampler_steps)
        model = Model(self.denoiser(learned), CHANNEL)
        prior_key, noise_key = jax.random.split(jax.random.key(SAMPLE_SEED))
        noise = prior(prior_key, (settings.n_samples, self.dimension), CHANNEL, low)
        return {
            "ode": jax.jit(lambda z: ode(model, z, times))(noise),
            "sde": jax.jit(lambda z: sde(model, noise_key, z, times))(noise),
        }
