"""Flags of `experiments.sparse_pixels`. Imports no JAX."""

import dataclasses
from typing import Annotated, Any, Literal, get_args

from data_generation.formats.json_file import check_file
from data_generation.images.dataset_names import ImageDataset, check_image_folder
from data_generation.images.mask_settings import MaskSettings
from diffusions.checks import (
    Bounds,
    Count,
    Decay,
    InnerShare,
    Natural,
    NotNegative,
    PathText,
    Positive,
    Rounds,
    Seed,
    Share,
    check_fields,
    one_of,
    resolved_as,
)
from diffusions.networks.presets import UNetPreset
from experiments.run.place import finished_run_place
from experiments.run.settings import RunSettings, changed

ModelName = Literal["ddpm", "flow", "em"]
Supervision = Literal["observed", "full-input"]
Unseen = Literal["hidden", "mean", "simulated"]
Sampler = Literal["ddpm", "ddim", "ode-euler", "ode-heun", "ode-rk4", "sde"]
Variant = Literal["residual", "simulated", "mean", "hidden", "full-input"]
Mode = Literal["train", "sample", "evaluate"]

VARIANTS: dict[Variant, dict[str, Any]] = {
    "residual": {"supervision": "observed", "unseen": "simulated", "residual": True},
    "simulated": {"supervision": "observed", "unseen": "simulated", "residual": False},
    "mean": {"supervision": "observed", "unseen": "mean", "residual": False},
    "hidden": {"supervision": "observed", "unseen": "hidden", "residual": False},
    "full-input": {"supervision": "full-input", "residual": False, "preconditioned": False},
}
"""What is learned; the first, of which the measured numbers are, where nothing is said. The last is the
original's."""

SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
CALLS_PER_STEP = {"ode-heun": 2, "ode-rk4": 4}
"""Of the network; one for the other samplers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How images are sampled and judged, also of a run that is finished.

    Fields that are None take the value that suits the model, see `sampling_choices`.

    Attributes:
        sampler: ddpm is ancestral sampling; all work for both models; absent, ddpm for ddpm in the
            preset paper, otherwise ddim.
        steps: of the sampler; absent, in the preset cpu 10 with ddim of order 2 and 20 with the others,
            otherwise all of a ddpm's noising with ddpm, 50 with the others.
        order: of ddpm and ddim in the step; 2 has the right law in far fewer steps, 1 are the published
            ones.
        eta: noise of ddim, from 0 to 1, where it is ddpm.
        churn: noise of sde; 1 is the reversed noising, 0 the ODE.
        impose: put the told pixels back after every step; absent, yes but for full-input supervision.
        n_test: held-out images that are judged; absent, the preset's.
        draws: samples of each, for the mean and the diversity.
        eval_batch: images sampled side by side.
        compare_steps: step counts of the comparison of samplers.
        compare_samplers: samplers of the comparison.
        n_compare: images of the comparison; 0 leaves it out.
        inception_weights: file of Inception's weights, for FID; PyTorch's, by the names of pytorch-fid
            or torchvision. Nothing is downloaded; absent, no FID.
        lpips_weights: file of the state dict of an lpips.LPIPS with AlexNet or VGG, for LPIPS.
    """

    sampler: Sampler | None = None
    steps: Rounds | None = None
    order: Annotated[int, Bounds(1, 2)] = 2
    eta: Share = 0.0
    churn: NotNegative = 1.0
    impose: bool | None = None
    n_test: Count | None = None
    draws: Rounds | None = None
    eval_batch: Count | None = None
    compare_steps: Annotated[tuple[Rounds, ...], Bounds(0, 100)] = (5, 10, 20, 50)
    compare_samplers: tuple[str, ...] = ("ddim", "ode-euler", "ode-heun", "sde")
    n_compare: Natural | None = None
    inception_weights: PathText | None = None
    lpips_weights: PathText | None = None

    def __post_init__(self):
        check_fields(self)
        for name in self.compare_samplers:
            one_of("sampler", name, SAMPLERS)

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least, for the smallest images."""
        return {"the samples of one image (--draws)": 4 * 28.0**2 * (self.draws or 1)}

    def sampling_choices(self, model: ModelName, preset: str, noising_steps: int) -> dict[str, Any]:
        """What stands in the place of None."""
        published = model == "ddpm" and preset == "paper"
        sampler = self.sampler or ("ddpm" if published else "ddim")
        small = preset == "cpu"
        if small:  # others lose variance in ten steps
            steps = 10 if (sampler, self.order) == ("ddim", 2) else 20
        else:
            steps = noising_steps if sampler == "ddpm" else 50
        return {
            "sampler": sampler,
            "steps": steps,
            "n_test": 200 if small else 1000,
            "draws": 8,
            "eval_batch": 100 if small else 250,
            "n_compare": 16 if small else 250,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsePixelsSettings(RunSettings, SamplingSettings, MaskSettings):
    """What a run learns from sparse pixels, and how.

    Fields that are None take the value that suits preset and model, see `resolved`.

    Attributes:
        mode: train a new run and judge it; sample, or evaluate, with the network of a finished one.
        variant: what is learned: a name for supervision, unseen, residual and preconditioned, each of
            which can be given by itself; absent, residual, or full-input with that supervision.
        run: folder of the finished run; all settings of its training are its own.
        output: folder of the results of sample and evaluate; absent, `samples` or `evaluation` in the
            run's.
        dataset: cifar10 or fashion-mnist from files, or synthetic images.
        data_path: folder of the files.
        preset: paper, the original's network and training, or cpu, minutes on two cores.
        model: ddpm, noise predicted on the linear schedule, or flow, the velocity of straight lines, or
            em, a flow that after a first part of its epochs learns from the training images as it
            completes them itself, round by round; with --mask-mode=fixed.
        em_rounds: rounds of em, which share the epochs with its first part.
        em_steps: of the sampler that completes the training images.
        supervision: observed shows the network noised values of observed pixels only; full-input,
            the original's, noises the whole image and only the loss is sparse; absent, the variant's.
        unseen: what observed supervision puts at the other pixels of the noised image: hidden (zero),
            mean, or simulated from the observed ones; absent, the variant's.
        residual: diffuse the residual of the told pixels' kriging interpolation, which the network
            sees; absent, the variant's.
        preconditioned: the network gives what the best linear estimate leaves, of unit size at every
            time; absent, yes but for full-input supervision.
        residual_scale: usual size of that residual, pixels being in [-1, 1].
        told_weight: of the loss on conditioning pixels; 1 on target pixels, 0 elsewhere.
        noising_steps: of ddpm.
        beta_min: of ddpm's linear schedule.
        beta_max: likewise.
        unet: configuration of the network; absent, the preset's.
        dropout: of the network; absent, 0.1 for flow, otherwise 0; 0 in the preset cpu.
        class_conditional: tell the network the image's class.
        bfloat16: compute the network in bfloat16.
        n_train: training images; absent, the preset's.
        data_seed: of the choice of images.
        flip: mirror half of the training images.
        resolutions: sides of the training images, one drawn for every batch; images are averaged down.
            Absent, the data's own.
        epochs: passes over the training images; absent, the preset's.
        batch_size: images per gradient step; absent, the preset's.
        learning_rate: of Adam; absent, the preset's.
        schedule: cosine decay to zero, or constant; absent, the preset's.
        clip_norm: bound on the gradient's norm.
        ema_decay: of the averaged parameters that are judged and saved; absent, the preset's.
        panel_every: epochs between checkpoints, each with a panel of samples; absent, the preset's.
        n_panel: images of a panel.
        regression_epochs: of the one-shot regression network that the samples are compared with; 0
            leaves it out; absent, the preset's.
    """

    mode: Mode = "train"
    run: str | None = None
    output: PathText | None = None
    dataset: ImageDataset = "cifar10"
    data_path: PathText | None = None
    preset: Literal["paper", "cpu"] = "paper"
    model: ModelName = "flow"
    em_rounds: Rounds = 2
    em_steps: Rounds = 10
    variant: Variant | None = None
    supervision: Supervision | None = None
    unseen: Unseen | None = None
    residual: bool | None = None
    preconditioned: bool | None = None
    residual_scale: Positive = 0.2
    told_weight: NotNegative = 0.05
    noising_steps: Rounds = 1000
    beta_min: InnerShare = 1e-4
    beta_max: InnerShare = 0.02
    unet: UNetPreset | None = None
    dropout: Decay | None = None
    class_conditional: bool = False
    bfloat16: bool = False
    n_train: Count | None = None
    data_seed: Seed = 0
    flip: bool = True
    resolutions: Annotated[tuple[Count, ...], Bounds(0, 100)] = ()
    epochs: Rounds | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    schedule: Literal["cosine", "constant"] | None = None
    clip_norm: Positive = 1.0
    ema_decay: Decay | None = None
    panel_every: Count | None = None
    n_panel: Rounds = 8
    regression_epochs: Annotated[int, Bounds(0, 10**6)] | None = None

    def __post_init__(self):
        RunSettings.__post_init__(self)
        SamplingSettings.__post_init__(self)
        MaskSettings.__post_init__(self)
        if self.beta_min > self.beta_max:
            raise ValueError(
                f"betas must satisfy 0 < beta_min <= beta_max < 1, got {self.beta_min}, {self.beta_max}"
            )
        if len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError(f"resolutions must be different sides, got {self.resolutions}")
        if self.mode == "train":
            self._check_training()
        elif self.run is None:
            raise ValueError(f"--mode={self.mode} needs --run, the folder of a finished run")

    def check_inputs(self) -> None:
        """Raises ValueError where images, a run or weights are missing, too."""
        if self.mode == "train":
            super().check_inputs()
        else:
            finished_run_place(str(self.run))
        if self.data_path is not None and self.dataset != "synthetic":
            check_image_folder(self.dataset, self.data_path)
        for weights in (self.inception_weights, self.lpips_weights):
            if weights is not None:
                check_file(weights)

    def _check_training(self) -> None:
        if self.run is not None or self.output is not None:
            raise ValueError("run and output are for --mode=sample and --mode=evaluate")
        if self.dataset != "synthetic" and self.data_path is None:
            raise ValueError(
                f"--data-path is required with {self.dataset}: the folder of its files"
            )
        if self.model == "em" and self.mask_mode != "fixed":
            raise ValueError(
                "--model=em needs --mask-mode=fixed: it completes each training image from the pixels "
                "that are ever observed of it"
            )
        if self.model == "em" and "full-input" in (self.supervision, self.variant):
            raise ValueError(
                "--model=em learns from observed pixels alone; full-input shows the network all of them"
            )
        if self.target == 0.0:
            raise ValueError("target must be positive: the loss is taken on target pixels")
        if self.supervision == "full-input" and self.variant not in (None, "full-input"):
            raise ValueError(
                f"variant {self.variant} is of observed supervision, got supervision=full-input: leave "
                "one of them out"
            )
        if "full-input" in (self.supervision, self.variant) and self.unseen is not None:
            raise ValueError("unseen is for --supervision=observed; full-input hides nothing")

    def _variant(self) -> dict[str, Any]:
        """What the variant says."""
        own: Variant = "full-input" if self.supervision == "full-input" else "residual"
        return {"preconditioned": True} | VARIANTS[self.variant or own]

    def resolved(self) -> "ResolvedSparsePixelsSettings":
        """The same settings with no None left but for paths, and n_train where all images are used."""
        values: dict[str, Any] = {
            "unet": "sparse",
            "dropout": 0.0 if self.model == "ddpm" else 0.1,
            "epochs": 50,
            "batch_size": 128,
            "learning_rate": 2e-4,
            "schedule": "constant",
            "ema_decay": 0.9999,
            "panel_every": 5,
        }
        if self.preset == "cpu":
            values |= {
                "unet": "tiny",
                "dropout": 0.0,
                "n_train": 16384,
                "epochs": 4,
                "batch_size": 8,
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "ema_decay": 0.99,
                "panel_every": 2,
            }
        values |= self._variant()
        if self.model == "em" and (self.epochs or values["epochs"]) <= self.em_rounds:
            raise ValueError(
                f"--model=em needs more epochs than its {self.em_rounds} rounds (--em-rounds), got "
                f"{self.epochs}"
            )
        epochs = self.epochs or values["epochs"]
        values["regression_epochs"] = max(1, epochs // (3 if self.preset == "cpu" else 1))
        values |= self.sampling_choices(self.model, self.preset, self.noising_steps)
        values["impose"] = (self.supervision or values["supervision"]) == "observed"
        return resolved_as(ResolvedSparsePixelsSettings, self, values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedSparsePixelsSettings(SparsePixelsSettings):
    """`SparsePixelsSettings` with every choice made; n_train is None where all images are used."""

    sampler: Sampler
    steps: Rounds
    impose: bool
    n_test: Count
    draws: Rounds
    eval_batch: Count
    n_compare: Natural
    supervision: Supervision
    residual: bool
    preconditioned: bool
    unet: UNetPreset
    dropout: Decay
    epochs: Rounds
    batch_size: Count
    learning_rate: Positive
    schedule: Literal["cosine", "constant"]
    ema_decay: Decay
    panel_every: Count
    regression_epochs: Annotated[int, Bounds(0, 10**6)]

    @property
    def unused(self) -> list[str]:
        """Names of settings that are given, by flags, and that the others have no use for."""
        compared = self.compare_samplers if self.n_compare and self.compare_steps else ()
        samplers = {self.sampler, *compared}
        uses = {
            ("noising_steps", "beta_min", "beta_max"): self.model == "ddpm",
            ("em_rounds", "em_steps"): self.model == "em",
            ("residual_scale",): self.residual,
            ("block_size",): self.mask_pattern == "block",
            ("order",): samplers & {"ddpm", "ddim"},
            ("eta",): "ddim" in samplers,
            ("churn",): "sde" in samplers,
            ("compare_samplers", "compare_steps"): self.n_compare,
        }
        return changed(self, [name for names, used in uses.items() if not used for name in names])
