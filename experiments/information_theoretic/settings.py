"""Flags of `experiments.information_theoretic`. Imports no JAX."""

import dataclasses
from typing import Annotated, Literal, get_args

from checkpoints.place import check_saved, saved_in
from data_generation.images.dataset_names import ImageDataset, check_image_folder
from data_generation.points_file import check_points_file
from diffusions.checks import (
    MOST_INT,
    Bounds,
    Count,
    Decay,
    InnerShare,
    NotNegative,
    PathText,
    Positive,
    Rounds,
    Seed,
    conform,
    resolved_as,
    shown,
)
from diffusions.networks.presets import UNetPreset
from experiments.run.settings import RunSettings, changed

PlanarDataset = Literal["dino", "moons", "scg", "line", "circle"]
PLANAR = get_args(PlanarDataset)
OWN = "points"
NETWORKS = "networks"
_OF_POINTS = frozenset(
    ("width", "n_layers", "embedding", "coordinate_scale", "log_snr_scale", "activation")
    + ("validation_ratio", "grid")
)
_OF_IMAGES = frozenset(("preset", "unet", "dropout", "bfloat16", "flip", "n_test", "sampler"))
_OF_A_TRAINING = frozenset(
    ("seed", "epochs", "batch_size", "noises", "learning_rate", "schedule", "weighting")
    + ("ema_decay", "gradient_clip", "precondition", "width", "n_layers", "embedding")
    + ("coordinate_scale", "log_snr_scale", "activation", "unet", "dropout", "bfloat16")
    + ("weights", "flip", "eval_every")
)
"""Settings that do nothing for images, for points, and where nothing is trained."""
Preset = Literal["paper", "cpu"]
Two = Annotated[int, Bounds(2, MOST_INT)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InformationTheoreticSettings(RunSettings):
    """What a run learns the density of, and how.

    Fields that are None take the value that suits the dataset, see `resolved`.

    Attributes:
        dataset: dino, moons, scg, line or circle in the plane; points of one's own in any dimension;
            cifar10, fashion-mnist or synthetic images.
        data_path: file of the points, .npy or .csv, a row per point; or the folder of the images'
            files, not for synthetic ones.
        mode: train, or evaluate saved networks without any training.
        checkpoint: of `evaluate`: a run of this script or the folder of a network, such as an imported
            one; several with commas are an ensemble, at each log SNR the one that errs least on
            training data.
        preset: of images: paper, the full network and all images, or cpu, a small network on a part of
            them.
        data_seed: of the sample in the plane, and of the choice of images.
        n_points: points in the plane, or training images; absent, 8000 (scg 20000), or the preset's.
        validation_ratio: share of the points that is held out.
        epochs: passes over the training data; absent, 30 (160 without a mixture), or the preset's.
        batch_size: examples per gradient step; absent, 128, or the preset's.
        noises: log SNRs and noises drawn for every example of a batch; absent, 4, or 1 for images.
        learning_rate: of Adam; absent, 3e-3, or of images 1e-4 (2e-3 with the preset cpu).
        schedule: cosine decay to zero, or constant.
        weighting: likelihood makes the training loss an estimate of the nll; uniform counts all drawn
            log SNRs alike, which is less noisy; absent, likelihood, or uniform for images.
        ema_decay: of the averaged parameters that are evaluated and saved; 0 for none; absent, none of
            points, .999 of images (.99 with the preset cpu).
        gradient_clip: norm that gradients are scaled down to; 0 for none; absent, none of points, 1 of
            images.
        log_snr: LOC,SCALE of the log SNRs, `spectrum` of the data, or `curve`: measured by a first run
            of a tenth of the epochs; absent, 0,3, or 6.2614,3.0976 for images; `networks`, the default
            of `evaluate`, is the law that they were trained on.
        clip: the log SNRs lie within this many scales of loc.
        precondition: what the network corrects the ideal denoiser of, and is let in where points kept
            out of the training gain by it: mixture, of Gaussians, their number chosen by these points;
            gaussian, one with the data's covariance, everywhere; none lets the network learn all;
            absent, mixture, or gaussian for images.
        width: of the planar network.
        n_layers: of the planar network.
        embedding: length of the planar network's sinusoidal embeddings.
        coordinate_scale: finest frequency of the embedded coordinates.
        log_snr_scale: finest frequency of the embedded log SNR.
        activation: relu, silu or gelu, of the planar network.
        unet: configuration of the image network; absent, the preset's.
        dropout: of the image network.
        bfloat16: compute the image network in bfloat16.
        weights: folder of an imported network (see `checkpoints.import_torch`) to start from.
        flip: mirror half of the training images.
        eval_every: epochs between evaluations, each with a checkpoint and, in the plane, a picture;
            absent, a fifth of the epochs.
        n_log_snr: log SNRs of the error curves and of every log density; absent, 200, or 100 for
            images.
        grid: points per axis of the contour pictures.
        n_test: validation images; absent, all (at most 10000), or the preset's.
        n_samples: samples drawn at the end; absent, 2000 points or 64 images.
        sampler: ode or sde, for the samples; the plane gets both.
        sampler_steps: network calls are twice as many for the ode (Heun).
    """

    dataset: PlanarDataset | Literal["points"] | ImageDataset = "dino"
    data_path: PathText | None = None
    mode: Literal["train", "evaluate"] = "train"
    checkpoint: Annotated[tuple[str, ...], Bounds(0, 100)] = ()
    preset: Preset = "paper"
    data_seed: Seed = 0
    n_points: Annotated[int, Bounds(10, MOST_INT)] | None = None
    validation_ratio: InnerShare = 0.1
    epochs: Rounds | None = None
    batch_size: Count | None = None
    noises: Count | None = None
    learning_rate: Positive | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    weighting: Literal["likelihood", "uniform"] | None = None
    ema_decay: Decay | None = None
    gradient_clip: NotNegative | None = None
    log_snr: str | None = None
    clip: Positive = 4.0
    precondition: Literal["mixture", "gaussian", "none"] | None = None
    width: Count = 128
    n_layers: Annotated[int, Bounds(0, 1000)] = 3
    embedding: Annotated[int, Bounds(4, MOST_INT)] = 128
    coordinate_scale: Positive = 100.0
    log_snr_scale: Positive = 50.0
    activation: Literal["relu", "silu", "gelu"] = "silu"
    unet: UNetPreset | None = None
    dropout: Decay = 0.0
    bfloat16: bool = False
    weights: str | None = None
    flip: bool = True
    eval_every: Count | None = None
    n_log_snr: Two | None = None
    grid: Two = 40
    n_test: Two | None = None
    n_samples: Count | None = None
    sampler: Literal["ode", "sde"] = "ode"
    sampler_steps: Rounds = 100

    def __post_init__(self):
        super().__post_init__()
        if self.embedding % 2:
            raise ValueError(f"embedding must be even, got {self.embedding}")
        if self.log_snr == NETWORKS and self.mode == "train":
            raise ValueError(f"--log-snr={NETWORKS} is for --mode=evaluate, which has networks")
        if self.log_snr not in (None, "spectrum", "curve", NETWORKS):
            log_snr_pair(self.log_snr or "")
        if self.is_planar and self.weights is not None:
            raise ValueError(f"weights of an image network do not fit the dataset {self.dataset}")
        if (self.mode == "evaluate") != bool(self.checkpoint):
            raise ValueError(
                "--mode=evaluate and --checkpoint=RUN go together; to train on from a network, give "
                "--weights"
            )
        if self.resume and self.mode != "train":
            raise ValueError("--resume continues a training; --mode=evaluate starts anew")
        if not self.is_planar and self.precondition == "mixture":
            raise ValueError("--precondition=mixture is for points; images have gaussian and none")
        if self.weights is not None and self.precondition != "none":
            raise ValueError(
                "imported weights predict all of the noise by themselves: give --precondition=none"
            )
        if self.dataset in PLANAR and self.data_path is not None:
            raise ValueError(
                f"--data-path is not for {self.dataset}, which is drawn: give --dataset=points with a "
                "file of points, or the name of a set of images"
            )
        if self.dataset == OWN and self.data_path is None:
            raise ValueError("--data-path is required with points: a file, .npy or .csv")
        if not self.is_planar and self.dataset != "synthetic" and self.data_path is None:
            raise ValueError(
                f"--data-path is required with {self.dataset}: the folder of its files"
            )

    @property
    def memory_needs(self) -> dict[str, float]:
        """Bytes of the largest arrays, at least."""
        given = self.resolved()
        dimension = 2.0 if self.is_planar else 28.0**2
        needs = {
            "the points (--n-points)": 4 * dimension * (given.n_points or 0),
            "the samples (--n-samples)": 4 * dimension * given.n_samples,
            "the log SNRs of one density (--n-log-snr)": 4 * dimension * given.n_log_snr,
        }
        if self.is_planar:
            needs |= {
                "the network (--width, --n-layers)": 16.0 * self.n_layers * self.width**2,
                "the network's first layer (--embedding, --width)": 16.0
                * self.embedding
                * self.width,
                "the pictures (--grid)": 4.0 * self.grid**2,
            }
        return needs

    def check_inputs(self) -> None:
        """Raises ValueError where points, images or networks are missing, too."""
        super().check_inputs()
        for run in self.checkpoint:
            check_saved(saved_in(run, "network"), "network")
        if self.weights is not None:
            check_saved(self.weights, "network")
        if self.dataset == OWN:
            check_points_file(str(self.data_path))
        elif self.data_path is not None and self.dataset != "synthetic":
            check_image_folder(self.dataset, self.data_path)  # type: ignore[arg-type]

    @property
    def is_planar(self) -> bool:
        """Whether the data are points, in the plane or of the user's own, and no images."""
        return self.dataset in (*PLANAR, OWN)

    @property
    def unused(self) -> list[str]:
        """Names of settings that are given, by flags, and that mode or data have no use for."""
        vain = _OF_IMAGES if self.is_planar else _OF_POINTS
        if self.mode == "evaluate":
            vain |= _OF_A_TRAINING
        if self.weights is not None:
            vain |= {"unet"}
        return changed(self, [f.name for f in dataclasses.fields(self) if f.name in vain])

    @property
    def usual_log_snr(self) -> str:
        """LOC,SCALE where nothing is measured."""
        return "0,3" if self.is_planar else "6.2614,3.0976"

    def resolved(self) -> "ResolvedInformationTheoreticSettings":
        """The same settings with no None left but for paths and n_points in the plane."""
        if self.is_planar:
            values: dict = {
                # What a mixture leaves is little, and soon learned.
                "epochs": 30 if self.precondition in (None, "mixture") else 160,
                "precondition": "mixture",
                "batch_size": 128,
                "noises": 4,
                "weighting": "likelihood",
                "ema_decay": 0.0,
                "gradient_clip": 0.0,
                "learning_rate": 3e-3,
                "log_snr": self.usual_log_snr,
                "n_log_snr": 200,
                "n_samples": 2000,
                "n_test": 1000,
                "unet": "tiny",
            }
        else:
            values = {
                "epochs": 50,
                "precondition": "gaussian",
                "batch_size": 128,
                "noises": 1,
                "weighting": "uniform",
                "ema_decay": 0.999,
                "gradient_clip": 1.0,
                "learning_rate": 1e-4,
                "log_snr": self.usual_log_snr,
                "n_log_snr": 100,
                "n_samples": 64,
                "n_test": 10_000,
                "unet": "ddpm-cifar10",
            }
            if self.preset == "cpu":
                values |= {
                    "epochs": 6,
                    "batch_size": 32,
                    "learning_rate": 2e-3,
                    "ema_decay": 0.99,
                    "unet": "tiny",
                    "n_points": 4096,
                    "n_samples": 16,
                    "n_test": 500,
                }
        if self.mode == "evaluate":
            values["log_snr"] = NETWORKS
        epochs = self.epochs or values["epochs"]
        values["eval_every"] = max(1, epochs // 5)
        return resolved_as(ResolvedInformationTheoreticSettings, self, values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedInformationTheoreticSettings(InformationTheoreticSettings):
    """`InformationTheoreticSettings` with every choice made."""

    epochs: Rounds
    batch_size: Count
    noises: Count
    learning_rate: Positive
    ema_decay: Decay
    gradient_clip: NotNegative
    weighting: Literal["likelihood", "uniform"]
    log_snr: str
    precondition: Literal["mixture", "gaussian", "none"]
    unet: UNetPreset
    eval_every: Count
    n_log_snr: Two
    n_test: Two
    n_samples: Count


def log_snr_pair(text: str) -> tuple[float, float]:
    """LOC,SCALE as numbers.

    Raises:
        ValueError: it is neither that nor a known word.
    """
    try:
        loc, scale = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"log_snr must be spectrum, curve or LOC,SCALE, got {shown(text)}"
        ) from None
    return conform(loc, float, "loc of log_snr"), conform(scale, Positive, "scale of log_snr")
