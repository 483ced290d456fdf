"""Flags of the sparse rank-one experiment. Imports no JAX.

The published numbers are for n = 350. Times are in proportion to n, so that other dimensions meet the
same ratios t/n; what is given as a flag is taken as it is.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated, Literal

from checkpoints.place import check_saved, saved_in
from data_generation.formats.json_file import check_file
from diffusions.checks import (
    MOST_INT,
    Bounds,
    Count,
    InnerShare,
    Layers,
    Natural,
    NotNegative,
    Positive,
    Rounds,
    Share,
    check_fields,
    resolved_as,
    shown,
)
from experiments.run.settings import RunSettings, changed

Mode = Literal["train", "evaluate", "generate", "reproduce"]

_UNUSED: dict[Mode, tuple[str, ...]] = {
    "train": ("step", "horizon"),
    "evaluate": ("step", "horizon"),
    "generate": ("times", "baselines", "reference"),
    "reproduce": (),
}
PUBLISHED_N = 350
REFERENCE_SAMPLES = 15_000  # behind each published mean
PUBLISHED_TIMES = tuple(20.0 * i for i in range(1, 71))
STAGES = 3


DENOISER = "denoiser"
"""The folder in a run that holds its network."""


@contextlib.contextmanager
def naming_reference(file: str) -> Iterator[None]:
    """What goes wrong inside is said of the file of published numbers."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the reference {file}: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseSettings(RunSettings):
    """What is run, and on which problem.

    Attributes:
        mode: train a network; evaluate its mean squared error; generate samples with it; or
            reproduce, which does all that with every figure.
        checkpoint: a denoiser's folder to evaluate or to generate with; several, separated by
            commas, are drawn together as seeds. Absent, the shipped one, at its own n and k.
        n: dimension; absent, that of the checkpoint, or 350.
        k: non-zero entries of u; absent, those of the checkpoint, or 20.
        zero_probability: probability of the zero matrix.
        times: at which to evaluate; absent, 20, 40, ..., 1400 times n / 350.
        n_samples: samples per time to evaluate, or samples to generate; absent, 15000 or 500.
        step: of the sampler.
        horizon: of the sampler; absent, 4 n.
        batch_size: the most samples at once, in evaluation and generation, such as all of them; 0
            lets the memory decide.
        baselines: evaluates the spectral estimator, power iteration and approximate message passing
            beside the network.
        reference: file of published mean squared errors at 20, 40, ..., 1400, one per line, to
            report z-scores against.
    """

    mode: Mode = "train"
    checkpoint: Annotated[tuple[str, ...], Bounds(0, 100)] = ()
    n: Annotated[int, Bounds(2, MOST_INT)] | None = None
    k: Count | None = None
    zero_probability: InnerShare = 0.5
    times: Annotated[tuple[Positive, ...], Bounds(0, 10_000)] = ()
    n_samples: Annotated[int, Bounds(2, MOST_INT)] | None = None
    step: Positive = 0.5
    horizon: Positive | None = None
    batch_size: Natural = 0
    baselines: bool = True
    reference: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.k is not None and self.n is not None and self.k > self.n:
            raise ValueError(f"k must be at most n = {self.n}, got {self.k}")
        if self.resume and self.mode not in ("train", "generate"):
            raise ValueError(
                "--resume continues --mode=train and --mode=generate; others start anew"
            )
        if self.mode == "train" and self.checkpoint:
            raise ValueError("--mode=train makes a checkpoint; --checkpoint is for the other modes")

    def check_inputs(self) -> None:
        """Raises ValueError where a denoiser or the reference is missing, too."""
        super().check_inputs()
        if self.reference is not None:
            with naming_reference(self.reference):
                check_file(self.reference)
        for run in self.checkpoint:
            check_saved(saved_in(run, DENOISER), "network")

    @property
    def unused(self) -> list[str]:
        """Names of settings that are given, by flags, and that the mode has no use for."""
        return changed(self, _UNUSED[self.mode])

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        n = float(self.n or 2)
        return {
            "the matrices of a batch (--n, --batch-size)": 4 * n**2 * max(1, self.batch_size),
            "the samples (--n-samples)": 4.0 * (self.n_samples or 1),
            "the times (--horizon, --step)": 4 * (self.horizon or 4 * n) / self.step,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumSettings:
    """The network and its training in three stages; lists have one number per stage.

    Attributes:
        layers: message-passing layers.
        hidden: hidden units of the message network.
        update_hidden: hidden units of the update network.
        readout_hidden: hidden units of the readout network.
        epochs: of each stage.
        samples_per_epoch: drawn in each epoch.
        train_batch_size: samples per gradient step.
        fresh_data: draws new vectors in every epoch; otherwise each stage keeps its first.
        learning_rates: of AdamW.
        weight_decay: of AdamW.
        clip_norms: largest norm of the gradient.
        time_step: of the grid that training times are drawn from; absent, n / 700.
        largest_time: of that grid; absent, 2 n.
        heavy_from: times from which the grid has most of its weight; absent, 400, 325 and 205 times
            n / 350.
        heavy_weight: that weight.
        depths: layers in use in the first stage, one after another.
        deepen_at: epochs of the first stage at which the next of depths begins.
        noise_free_every: every so many epochs of the last stage train at noise_free_time; 0 never.
        noise_free_time: where there is no noise to speak of.
        settle_epochs: first epochs of the last stage that are not kept, however small their loss.
        checkpoint_every: epochs between checkpoints.
    """

    layers: Layers = 10
    hidden: Count = 32
    update_hidden: Count = 16
    readout_hidden: Count = 4
    epochs: Annotated[tuple[Rounds, ...], Bounds(STAGES, STAGES)] = (600, 300, 300)
    samples_per_epoch: Count = 10_000
    train_batch_size: Count = 200
    fresh_data: bool = True
    learning_rates: Annotated[tuple[Positive, ...], Bounds(STAGES, STAGES)] = (3e-3, 1e-3, 7e-4)
    weight_decay: NotNegative = 0.01
    clip_norms: Annotated[tuple[Positive, ...], Bounds(STAGES, STAGES)] = (1.0, 1.0, 0.9)
    time_step: Positive | None = None
    largest_time: Positive | None = None
    heavy_from: tuple[Positive, ...] = ()
    heavy_weight: Share = 0.95
    depths: Annotated[tuple[Layers, ...], Bounds(1, 1000)] = (7, 9, 10)
    deepen_at: Annotated[tuple[Count, ...], Bounds(0, 1000)] = (150, 250)
    noise_free_every: Natural = 6
    noise_free_time: Positive = 10_000.0
    settle_epochs: Natural = 12
    checkpoint_every: Count = 10

    def __post_init__(self):
        check_fields(self)
        if len(self.heavy_from) not in (0, STAGES):
            raise ValueError(
                f"heavy_from needs {STAGES} numbers, one per stage, got {shown(self.heavy_from)}"
            )
        if self.samples_per_epoch % self.train_batch_size:
            raise ValueError(
                f"samples_per_epoch must be a multiple of train_batch_size "
                f"{self.train_batch_size}, got {self.samples_per_epoch}"
            )
        if len(self.depths) != len(self.deepen_at) + 1:
            raise ValueError(
                f"depths {self.depths} needs one number more than deepen_at {self.deepen_at}"
            )
        if list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths must increase, got {self.depths}")
        if self.depths[-1] != self.layers:
            raise ValueError(
                f"the last of depths, {self.depths[-1]}, must be --layers={self.layers}"
            )
        if list(self.deepen_at) != sorted(set(self.deepen_at)) or any(
            not 0 < epoch < self.epochs[0] for epoch in self.deepen_at
        ):
            raise ValueError(
                f"deepen_at must increase within the {self.epochs[0]} epochs of the first stage, "
                f"got {self.deepen_at}"
            )
        if not self.settle_epochs < self.epochs[-1]:
            raise ValueError(
                f"settle_epochs must be less than the {self.epochs[-1]} epochs of the last stage, "
                f"got {self.settle_epochs}"
            )
        if self.noise_free_every == 1:
            raise ValueError("noise_free_every 1 would train the last stage without noise alone")

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least, for the smallest dimension."""
        widest = max(self.hidden, self.update_hidden, self.readout_hidden)
        return {
            "the network (--layers, --hidden, --update-hidden, --readout-hidden)": 16.0
            * self.layers
            * widest,
            "the samples of an epoch (--samples-per-epoch)": 8.0 * self.samples_per_epoch,
            "the grid of times (--largest-time, --time-step)": 4.0
            * (self.largest_time or 1)
            / (self.time_step or self.largest_time or 1),
        }

    def scaled(self, n: int) -> "ScaledCurriculumSettings":
        """The same with every time filled in."""
        ratio = n / PUBLISHED_N
        heavy = self.heavy_from or (400 * ratio, 325 * ratio, 205 * ratio)
        times = {"time_step": 0.5 * ratio, "largest_time": 700.0 * ratio}
        return resolved_as(
            ScaledCurriculumSettings, dataclasses.replace(self, heavy_from=heavy), times
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledCurriculumSettings(CurriculumSettings):
    """`CurriculumSettings` of a dimension: with all times."""

    time_step: Positive
    largest_time: Positive

    def __post_init__(self):
        super().__post_init__()
        if self.time_step > self.largest_time:
            raise ValueError(
                f"time_step {self.time_step:g} exceeds largest_time {self.largest_time:g}"
            )
        if max(self.heavy_from) >= self.largest_time:
            raise ValueError(
                f"heavy_from {self.heavy_from} must be below largest_time {self.largest_time:g}"
            )
