"""Flags of the sparse rank-one experiment. Imports no JAX.

The published numbers are for n = 350. Times are in proportion to n, so that other dimensions meet the
same ratios t/n; what is given as a flag is taken as it is.
"""

import dataclasses
from typing import Literal, get_args

from experiments.settings import RunSettings
from jkonet_star.settings import at_least, one_of, positive

Mode = Literal["train", "evaluate", "generate", "reproduce"]

PUBLISHED_N = 350
REFERENCE_SAMPLES = 15_000  # behind each published mean
PUBLISHED_TIMES = tuple(20.0 * i for i in range(1, 71))
STAGES = 3


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
        batch_size: samples at once, in evaluation and generation; 0 lets the memory decide.
        baselines: evaluates the spectral estimator and power iteration beside the network.
        reference: file of published mean squared errors at 20, 40, ..., 1400, one per line, to
            report z-scores against.
    """

    mode: Mode = "train"
    checkpoint: tuple[str, ...] = ()
    n: int | None = None
    k: int | None = None
    zero_probability: float = 0.5
    times: tuple[float, ...] = ()
    n_samples: int | None = None
    step: float = 0.5
    horizon: float | None = None
    batch_size: int = 0
    baselines: bool = True
    reference: str | None = None

    def __post_init__(self):
        super().__post_init__()
        one_of("mode", self.mode, get_args(Mode))
        if self.n is not None:
            at_least("n", self.n, 2)
        if self.k is not None:
            at_least("k", self.k, 1)
            if self.n is not None and self.k > self.n:
                raise ValueError(f"k must be at most n = {self.n}, got {self.k}")
        if not 0 < self.zero_probability < 1:
            raise ValueError(f"zero_probability must be in (0, 1), got {self.zero_probability}")
        for time in self.times:
            positive("each of times", time)
        if self.n_samples is not None:
            at_least("n_samples", self.n_samples, 2)
        positive("step", self.step)
        if self.horizon is not None:
            positive("horizon", self.horizon)
        at_least("batch_size", self.batch_size, 0)
        if self.resume and self.mode != "train":
            raise ValueError("--resume continues a training; the other modes start anew")
        if self.mode == "train" and self.checkpoint:
            raise ValueError("--mode=train makes a checkpoint; --checkpoint is for the other modes")


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

    layers: int = 10
    hidden: int = 32
    update_hidden: int = 16
    readout_hidden: int = 4
    epochs: tuple[int, ...] = (600, 300, 300)
    samples_per_epoch: int = 10_000
    train_batch_size: int = 200
    fresh_data: bool = True
    learning_rates: tuple[float, ...] = (3e-3, 1e-3, 7e-4)
    weight_decay: float = 0.01
    clip_norms: tuple[float, ...] = (1.0, 1.0, 0.9)
    time_step: float | None = None
    largest_time: float | None = None
    heavy_from: tuple[float, ...] = ()
    heavy_weight: float = 0.95
    depths: tuple[int, ...] = (7, 9, 10)
    deepen_at: tuple[int, ...] = (150, 250)
    noise_free_every: int = 6
    noise_free_time: float = 10_000.0
    settle_epochs: int = 12
    checkpoint_every: int = 10

    def __post_init__(self):
        for name in ("layers", "hidden", "update_hidden", "readout_hidden", "checkpoint_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("epochs", "learning_rates", "clip_norms", "heavy_from"):
            values = getattr(self, name)
            if len(values) != STAGES and not (name == "heavy_from" and not values):
                raise ValueError(f"{name} needs {STAGES} numbers, one per stage, got {values}")
            for value in values:
                positive(f"each of {name}", value)
        at_least("train_batch_size", self.train_batch_size, 1)
        if self.samples_per_epoch < 1 or self.samples_per_epoch % self.train_batch_size:
            raise ValueError(
                f"samples_per_epoch must be a multiple of train_batch_size "
                f"{self.train_batch_size}, got {self.samples_per_epoch}"
            )
        at_least("weight_decay", self.weight_decay, 0)
        for name in ("time_step", "largest_time"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if not 0 <= self.heavy_weight <= 1:
            raise ValueError(f"heavy_weight must be in [0, 1], got {self.heavy_weight}")
        if len(self.depths) != len(self.deepen_at) + 1:
            raise ValueError(
                f"depths {self.depths} needs one number more than deepen_at {self.deepen_at}"
            )
        if list(self.depths) != sorted(set(self.depths)) or not self.depths[0] >= 1:
            raise ValueError(f"depths must increase from at least 1, got {self.depths}")
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
        at_least("noise_free_every", self.noise_free_every, 0)
        positive("noise_free_time", self.noise_free_time)
        if not 0 <= self.settle_epochs < self.epochs[-1]:
            raise ValueError(
                f"settle_epochs must be less than the {self.epochs[-1]} epochs of the last stage, "
                f"got {self.settle_epochs}"
            )
        if self.noise_free_every == 1:
            raise ValueError("noise_free_every 1 would train the last stage without noise alone")

    def scaled(self, n: int) -> "CurriculumSettings":
        """The same with every time filled in."""
        ratio = n / PUBLISHED_N
        result = dataclasses.replace(
            self,
            time_step=self.time_step or 0.5 * ratio,
            largest_time=self.largest_time or 700.0 * ratio,
            heavy_from=self.heavy_from or (400 * ratio, 325 * ratio, 205 * ratio),
        )
        assert result.time_step is not None
        assert result.largest_time is not None
        if result.time_step > result.largest_time:
            raise ValueError(
                f"time_step {result.time_step:g} exceeds largest_time {result.largest_time:g}"
            )
        if max(result.heavy_from) >= result.largest_time:
            raise ValueError(
                f"heavy_from {result.heavy_from} must be below largest_time {result.largest_time:g}"
            )
        return result
