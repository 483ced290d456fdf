"""Flags of the solvable linear denoiser and of its learned counterpart. Imports no JAX."""

import dataclasses
from typing import Literal, get_args

from experiments.settings import RunSettings
from jkonet_star.settings import at_least, one_of, positive

Precision = Literal["float32", "float64"]

CHOSEN = {
    "n_train": (tuple(range(50, 1051, 100)), (50, 250, 450, 750, 1050)),
    "n_simulations": (500, 10),
    "channels": ((64, 128, 256, 256), (16, 32, 64, 64)),
    "epochs": (10, 30),
    "learning_rate": (2e-4, 2e-3),
}
"""What is taken for an absent setting of the learned model: the published one, and in quick mode."""


def _check_sizes(n_train: tuple[int, ...], lowest: int) -> None:
    if not n_train or len(set(n_train)) != len(n_train) or min(n_train) < lowest:
        raise ValueError(f"n_train must be different integers from {lowest} on, got {n_train}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearDenoiserSettings(RunSettings):
    """The linear model: its data, its step and the repetitions.

    Attributes:
        n_train: numbers of training points.
        n_simulations: independent repetitions for each of them.
        n_original: points of the original set; each repetition has its own, the same for every
            number of training points.
        mean: of every coordinate of the data.
        std: of every coordinate of the data.
        n_pixels: side of a point seen as an image; the dimension is its square.
        time: of the noising step.
        noise_scale: lambda, the variance of its noise relative to exp(-2 time).
        bandwidth_scale: of the smoothed distance; its bandwidth is this times std N^(-1/dimension).
        block_size: points per block of the pairwise sum; memory is its square.
        chunk_size: repetitions between two rows of the metrics, from which a run resumes.
        vmapped: repetitions side by side in one program; 0 chooses one on a CPU, where XLA's thread
            pool can stall on batches of linear algebra, and the chunk elsewhere.
        precision: of the linear algebra, float32 or float64; the data are the same in both.
    """

    n_train: tuple[int, ...] = (25, 50, 75, 100)
    n_simulations: int = 300
    n_original: int = 10_000
    mean: float = 10.0
    std: float = 1.0
    n_pixels: int = 10
    time: float = 2.0
    noise_scale: float = 1.0
    bandwidth_scale: float = 1.0
    block_size: int = 1000
    chunk_size: int = 10
    vmapped: int = 0
    precision: Precision = "float32"

    def __post_init__(self):
        super().__post_init__()
        _check_sizes(self.n_train, 2)
        at_least("n_simulations", self.n_simulations, 1)
        at_least("n_original", self.n_original, 2)
        positive("std", self.std)
        at_least("n_pixels", self.n_pixels, 1)
        positive("time", self.time)
        at_least("noise_scale", self.noise_scale, 0)
        positive("bandwidth_scale", self.bandwidth_scale)
        at_least("block_size", self.block_size, 1)
        at_least("chunk_size", self.chunk_size, 1)
        at_least("vmapped", self.vmapped, 0)
        one_of("precision", self.precision, get_args(Precision))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedDenoiserSettings(RunSettings):
    """The learned model: its data, network, training and the repetitions.

    Attributes:
        n_train: numbers of training images; absent, 50, 150, ..., 1050, and in quick mode 50, 250,
            450, 750, 1050.
        n_simulations: repetitions for each of them; 0 chooses 500, and in quick mode 10.
        quick: fewer sizes and repetitions, and a narrower network that is trained faster and longer,
            unless these are given: minutes on two cores instead of days.
        n_pixels: side of the images, a multiple of 8.
        mean_list: means of the pixels, one per component of the mixture.
        std_list: their standard deviations.
        weights: of the components; absent, equal.
        n_original: images of the original set; each repetition has its own, the same for every
            number of training images.
        n_generated: images that each trained model generates, in one batch.
        distance_cutoff: most images of a set that enter the distances; 0 for all.
        bandwidth_scale: of the distances; a set of N has bandwidth this times std / N.
        epochs: passes over the training images; 0 chooses 10, and in quick mode 30.
        batch_size: images per gradient step; fewer images make one smaller batch.
        learning_rate: of Adam; 0 chooses 2e-4, and in quick mode 2e-3.
        validation_fraction: of the training images that only the validation loss sees.
        diffusion_steps: steps of the noising process.
        beta_small: variance added by its first step.
        beta_large: variance added by its last step.
        channels: of the network at full, half, quarter and eighth resolution; absent, 64, 128, 256,
            256, and in quick mode 16, 32, 64, 64.
        heads: of its self-attention.
        chunk_size: repetitions trained side by side under vmap; 0 chooses one on a CPU and ten
            elsewhere.
    """

    n_train: tuple[int, ...] = ()
    n_simulations: int = 0
    quick: bool = False
    n_pixels: int = 8
    mean_list: tuple[float, ...] = (0.5,)
    std_list: tuple[float, ...] = (0.1,)
    weights: tuple[float, ...] = ()
    n_original: int = 10_000
    n_generated: int = 10
    distance_cutoff: int = 0
    bandwidth_scale: float = 1.0
    epochs: int = 0
    batch_size: int = 128
    learning_rate: float = 0.0
    validation_fraction: float = 0.1
    diffusion_steps: int = 200
    beta_small: float = 1e-4
    beta_large: float = 0.02
    channels: tuple[int, ...] = ()
    heads: int = 4
    chunk_size: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name, (published, quick) in CHOSEN.items():
            if getattr(self, name) in (0, ()):
                object.__setattr__(self, name, quick if self.quick else published)
        _check_sizes(self.n_train, 2)
        at_least("n_simulations", self.n_simulations, 1)
        at_least("n_pixels", self.n_pixels, 8)
        if self.n_pixels % 8:
            raise ValueError(f"n_pixels must be a multiple of 8, got {self.n_pixels}")
        if not len(self.mean_list) == len(self.std_list) == len(self.weights or self.mean_list):
            raise ValueError(
                "mean_list, std_list and weights must be of one length, got "
                f"{len(self.mean_list)}, {len(self.std_list)} and {len(self.weights)}"
            )
        for name in ("n_original", "n_generated", "epochs", "batch_size", "diffusion_steps"):
            at_least(name, getattr(self, name), 1)
        at_least("distance_cutoff", self.distance_cutoff, 0)
        positive("bandwidth_scale", self.bandwidth_scale)
        positive("learning_rate", self.learning_rate)
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction must lie in [0, 1), got {self.validation_fraction}"
            )
        if not 0 < self.beta_small <= self.beta_large < 1:
            raise ValueError(
                "0 < beta_small <= beta_large < 1 must hold, got "
                f"{self.beta_small} and {self.beta_large}"
            )
        if len(self.channels) != 4 or min(self.channels) < 4 or any(c % 2 for c in self.channels):
            raise ValueError(f"channels must be four even numbers from 4 on, got {self.channels}")
        at_least("heads", self.heads, 1)
        for width in self.channels[1:]:
            if width % self.heads:
                raise ValueError(f"heads must divide the channels, {self.heads} does not {width}")
        at_least("chunk_size", self.chunk_size, 0)
