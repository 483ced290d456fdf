"""Flags of the solvable linear denoiser and of its learned counterpart. Imports no JAX."""

import dataclasses
from typing import Annotated, Literal

from diffusions.checks import (
    MOST_INT,
    Bounds,
    Count,
    Decay,
    InnerShare,
    Natural,
    NotNegative,
    Positive,
    Rounds,
    shown,
)
from experiments.run.settings import RunSettings

Mode = Literal["curves", "memorisation"]
Precision = Literal["float32", "float64"]

Size = Annotated[int, Bounds(2, MOST_INT)]
Sizes = Annotated[tuple[Size, ...], Bounds(1, 1000)]
MaybeSizes = Annotated[tuple[Size, ...], Bounds(0, 1000)]
NoisingTime = Annotated[float, Bounds(above=0, high=40)]
"""exp(-2 time) is still a number of float32."""

Times = Annotated[tuple[NoisingTime, ...], Bounds(1, 100)]

ChosenRounds = Annotated[int, Bounds(0, 10**6)]

MAPPED = ("times",)
NOT_MAPPED = ("time", "noise_scale", "bandwidth_scale", "block_size")
"""Settings of the linear model that only the map of memorisation uses, and that it does not use."""

CHOSEN = {
    "n_train": (tuple(range(50, 1051, 100)), (50, 250, 450, 750, 1050)),
    "n_simulations": (500, 10),
    "channels": ((64, 128, 256, 256), (16, 32, 64, 64)),
    "epochs": (10, 30),
    "learning_rate": (2e-4, 2e-3),
}
"""What is taken for an absent setting of the learned model: the published one, and in quick mode."""


def _check_sizes(n_train: tuple[int, ...]) -> None:
    if not n_train or len(set(n_train)) != len(n_train):
        raise ValueError(f"n_train must be different integers from 2 on, got {shown(n_train)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearDenoiserSettings(RunSettings):
    """The linear model: its data, its step and the repetitions.

    Attributes:
        mode: curves, distances over the number of training points; or memorisation, the losses on
            training and fresh pairs and KL over that number and diffusion time.
        n_train: numbers of training points.
        n_simulations: independent repetitions for each of them.
        n_original: points of the original set; each repetition has its own, the same for every
            number of training points. With memorisation, the fresh pairs.
        times: of an Ornstein-Uhlenbeck process, in place of time and noise_scale, with memorisation.
        mean: of every coordinate of the data.
        std: of every coordinate of the data.
        n_pixels: side of a point seen as an image; the dimension is its square.
        time: of the noising step, at most 40.
        noise_scale: lambda, the variance of its noise relative to exp(-2 time).
        bandwidth_scale: of the smoothed distance; its bandwidth is this times std N^(-1/dimension).
        block_size: points per block of the pairwise sum; memory is its square.
        chunk_size: repetitions between two rows of the metrics, from which a run resumes.
        vmapped: repetitions side by side in one program; 0 chooses one on a CPU, where XLA's thread
            pool can stall on batches of linear algebra, and the chunk elsewhere.
        precision: of the linear algebra; the data are the same in both.
    """

    mode: Mode = "curves"
    n_train: Sizes = (25, 50, 75, 100, 110, 125, 150, 200, 300, 500, 1000, 3000)
    n_simulations: Rounds = 300
    n_original: Size = 10_000
    times: Times = (0.05, 0.1, 0.2, 0.4, 0.7, 1.2, 2.0, 3.0)
    mean: float = 10.0
    std: Positive = 1.0
    n_pixels: Count = 10
    time: NoisingTime = 2.0
    noise_scale: NotNegative = 1.0
    bandwidth_scale: Positive = 1.0
    block_size: Count = 1000
    chunk_size: Count = 10
    vmapped: Natural = 0
    precision: Precision = "float32"

    def __post_init__(self):
        super().__post_init__()
        _check_sizes(self.n_train)
        if len(set(self.times)) != len(self.times):
            raise ValueError(f"times must be different numbers, got {shown(self.times)}")
        for name in MAPPED if self.mode == "curves" else NOT_MAPPED:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                other = "memorisation" if self.mode == "curves" else "curves"
                raise ValueError(f"--{name.replace('_', '-')} needs --mode={other}")

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        size = 8.0 if self.precision == "float64" else 4.0
        together = max(1, min(self.vmapped, self.chunk_size))
        most, d = float(max(self.n_train)), float(self.n_pixels) ** 2
        block = min(self.block_size, max(most, self.n_original))
        return {
            "the linear model (--n-pixels)": together * size * d**2,
            "the training points (--n-train, --n-pixels)": together * size * most * d,
            "the original points (--n-original, --n-pixels)": together * size * self.n_original * d,
            "the pairs of a block (--block-size)": together * size * block**2,
        }


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

    n_train: MaybeSizes = ()
    n_simulations: ChosenRounds = 0
    quick: bool = False
    n_pixels: Annotated[int, Bounds(8, MOST_INT)] = 8
    mean_list: tuple[float, ...] = (0.5,)
    std_list: tuple[Positive, ...] = (0.1,)
    weights: tuple[NotNegative, ...] = ()
    n_original: Count = 10_000
    n_generated: Count = 10
    distance_cutoff: Natural = 0
    bandwidth_scale: Positive = 1.0
    epochs: ChosenRounds = 0
    batch_size: Count = 128
    learning_rate: NotNegative = 0.0
    validation_fraction: Decay = 0.1
    diffusion_steps: Rounds = 200
    beta_small: InnerShare = 1e-4
    beta_large: InnerShare = 0.02
    channels: tuple[Count, ...] = ()
    heads: Count = 4
    chunk_size: Natural = 0

    def __post_init__(self):
        super().__post_init__()
        for name, (published, quick) in CHOSEN.items():
            if getattr(self, name) in (0, ()):
                object.__setattr__(self, name, quick if self.quick else published)
        _check_sizes(self.n_train)
        if self.n_pixels % 8:
            raise ValueError(f"n_pixels must be a multiple of 8, got {self.n_pixels}")
        if not len(self.mean_list) == len(self.std_list) == len(self.weights or self.mean_list):
            raise ValueError(
                "mean_list, std_list and weights must be of one length, got "
                f"{len(self.mean_list)}, {len(self.std_list)} and {len(self.weights)}"
            )
        if self.beta_small > self.beta_large:
            raise ValueError(
                "0 < beta_small <= beta_large < 1 must hold, got "
                f"{self.beta_small} and {self.beta_large}"
            )
        if len(self.channels) != 4 or min(self.channels) < 4 or any(c % 2 for c in self.channels):
            raise ValueError(f"channels must be four even numbers from 4 on, got {self.channels}")
        for width in self.channels[1:]:
            if width % self.heads:
                raise ValueError(f"heads must divide the channels, {self.heads} does not {width}")

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        together, pixels = max(1, self.chunk_size), float(self.n_pixels) ** 2
        drawn = max(self.n_original, *self.n_train)
        batch = max(self.n_generated, min(self.batch_size, max(self.n_train)))
        joints = zip(self.channels[:-1], self.channels[1:], strict=True)
        return {
            "the images (--n-original, --n-train, --n-pixels)": 4 * together * drawn * pixels,
            "a batch of images (--batch-size, --n-generated, --channels)": 4
            * together
            * batch
            * pixels
            * self.channels[0],
            # Filters of 3 x 3, with their gradients and both moments of Adam.
            "the network (--channels)": together * 16 * 9 * sum(float(a) * b for a, b in joints),
        }
