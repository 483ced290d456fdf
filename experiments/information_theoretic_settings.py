"""Flags of `experiments.information_theoretic`. Imports no JAX."""

import dataclasses
from typing import Literal

from diffusions.networks.presets import UNET_PRESETS, UNetPreset
from experiments.settings import RunSettings
from jkonet_star.settings import at_least, one_of

PLANAR = ("dino", "moons", "scg", "line", "circle")
IMAGES = ("cifar10", "fashion-mnist", "synthetic")
Dataset = Literal["dino", "moons", "scg", "line", "circle", "cifar10", "fashion-mnist", "synthetic"]
Preset = Literal["paper", "cpu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InformationTheoreticSettings(RunSettings):
    """What a run learns the density of, and how.

    Fields that are None take the value that suits the dataset, see `resolved`.

    Attributes:
        dataset: dino, moons, scg, line or circle in the plane; cifar10, fashion-mnist or synthetic
            images.
        data_path: folder of the images' files; not for synthetic ones.
        preset: of images: paper, the full network and all images, or cpu, a small network on a part of
            them.
        data_seed: of the sample in the plane, and of the choice of images.
        n_points: points in the plane, or training images; absent, 8000 (scg 20000), or the preset's.
        validation_ratio: share of the points that is held out.
        epochs: passes over the training data; absent, 160, or the preset's.
        batch_size: examples per gradient step; absent, 128, or the preset's.
        noises: log SNRs and noises drawn for every example of a batch; absent, 4, or 1 for images.
        learning_rate: of Adam; absent, 3e-3, or 1e-4 for the full image network.
        schedule: cosine decay to zero, or constant.
        weighting: likelihood makes the training loss an estimate of the nll; uniform counts all drawn
            log SNRs alike, which is less noisy; absent, likelihood, or uniform for images.
        ema_decay: of the averaged parameters that are evaluated and saved; 0 for none.
        log_snr: LOC,SCALE of the log SNRs, `spectrum` of the data, or `curve`: measured by a first run
            of a tenth of the epochs; absent, 0,3, or 6.2614,3.0976 for images.
        clip: the log SNRs lie within this many scales of loc.
        precondition: gaussian lets the network correct the ideal denoiser of a Gaussian with the data's
            covariance; none lets it learn everything.
        width: of the planar network.
        n_layers: of the planar network.
        embedding: length of the planar network's sinusoidal embeddings.
        coordinate_scale: finest frequency of the embedded coordinates.
        log_snr_scale: finest frequency of the embedded log SNR.
        activation: relu, silu or gelu, of the planar network.
        unet: configuration of the image network; absent, the preset's.
        dropout: of the image network.
        bfloat16: compute the image network in bfloat16.
        weights: folder of an imported DDPM network (see `checkpoints.import_torch`) to start from.
        flip: mirror half of the training images.
        eval_every: epochs between evaluations, each with a checkpoint and, in the plane, a picture;
            absent, a tenth of the epochs, or a fifth for images.
        n_log_snr: log SNRs of the error curves and of every log density; absent, 200, or 100 for
            images.
        grid: points per axis of the contour pictures.
        n_test: validation images; absent, 1000, or the preset's.
        n_samples: samples drawn at the end; absent, 2000 points or 64 images.
        sampler: ode or sde, for the samples; the plane gets both.
        sampler_steps: network calls are twice as many for the ode (Heun).
    """

    dataset: Dataset = "dino"
    data_path: str | None = None
    preset: Preset = "paper"
    data_seed: int = 0
    n_points: int | None = None
    validation_ratio: float = 0.1
    epochs: int | None = None
    batch_size: int | None = None
    noises: int | None = None
    learning_rate: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    weighting: Literal["likelihood", "uniform"] | None = None
    ema_decay: float = 0.0
    log_snr: str | None = None
    clip: float = 4.0
    precondition: Literal["gaussian", "none"] = "gaussian"
    width: int = 128
    n_layers: int = 3
    embedding: int = 128
    coordinate_scale: float = 100.0
    log_snr_scale: float = 50.0
    activation: Literal["relu", "silu", "gelu"] = "silu"
    unet: UNetPreset | None = None
    dropout: float = 0.0
    bfloat16: bool = False
    weights: str | None = None
    flip: bool = True
    eval_every: int | None = None
    n_log_snr: int | None = None
    grid: int = 40
    n_test: int | None = None
    n_samples: int | None = None
    sampler: Literal["ode", "sde"] = "ode"
    sampler_steps: int = 100

    def __post_init__(self):
        super().__post_init__()
        one_of("dataset", self.dataset, PLANAR + IMAGES)
        one_of("preset", self.preset, ("paper", "cpu"))
        one_of("schedule", self.schedule, ("cosine", "constant"))
        if self.weighting is not None:
            one_of("weighting", self.weighting, ("likelihood", "uniform"))
        one_of("precondition", self.precondition, ("gaussian", "none"))
        one_of("activation", self.activation, ("relu", "silu", "gelu"))
        one_of("sampler", self.sampler, ("ode", "sde"))
        if self.unet is not None:
            one_of("unet", self.unet, tuple(UNET_PRESETS))
        for name, least in (
            ("n_points", 10),
            ("epochs", 1),
            ("batch_size", 1),
            ("noises", 1),
            ("width", 1),
            ("n_layers", 0),
            ("eval_every", 1),
            ("n_log_snr", 2),
            ("grid", 2),
            ("n_test", 2),
            ("n_samples", 1),
            ("sampler_steps", 1),
        ):
            value = getattr(self, name)
            if value is not None:
                at_least(name, value, least)
        for name in ("learning_rate", "clip", "coordinate_scale", "log_snr_scale"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be positive, got {value}")
        if not 0.0 < self.validation_ratio < 1.0:
            raise ValueError(f"validation_ratio must be in (0, 1), got {self.validation_ratio}")
        if not 0.0 <= self.ema_decay < 1.0 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"ema_decay and dropout must be in [0, 1), got {self.ema_decay}, {self.dropout}"
            )
        if self.embedding < 4 or self.embedding % 2:
            raise ValueError(f"embedding must be even and at least 4, got {self.embedding}")
        if self.data_seed < 0:
            raise ValueError(f"data_seed must not be negative, got {self.data_seed}")
        if self.log_snr not in (None, "spectrum", "curve"):
            log_snr_pair(self.log_snr or "")
        if self.is_planar and self.weights is not None:
            raise ValueError(f"weights of an image network do not fit the dataset {self.dataset}")
        if self.weights is not None and self.precondition != "none":
            raise ValueError(
                "imported weights predict all of the noise by themselves: give --precondition=none"
            )
        if not self.is_planar and self.dataset != "synthetic" and self.data_path is None:
            raise ValueError(
                f"--data-path is required with {self.dataset}: the folder of its files"
            )

    @property
    def is_planar(self) -> bool:
        """Whether the data are points in the plane."""
        return self.dataset in PLANAR

    def resolved(self) -> "InformationTheoreticSettings":
        """The same settings with no None left but for paths and n_points in the plane."""
        if self.is_planar:
            values: dict = {
                "epochs": 160,
                "batch_size": 128,
                "noises": 4,
                "weighting": "likelihood",
                "learning_rate": 3e-3,
                "log_snr": "0,3",
                "n_log_snr": 200,
                "n_samples": 2000,
                "n_test": 1000,
                "unet": "tiny",
            }
        else:
            values = {
                "epochs": 50,
                "batch_size": 128,
                "noises": 1,
                "weighting": "uniform",
                "learning_rate": 1e-4,
                "log_snr": "6.2614,3.0976",
                "n_log_snr": 100,
                "n_samples": 64,
                "n_test": 1000,
                "unet": "ddpm-cifar10",
            }
            if self.preset == "cpu":
                values |= {
                    "epochs": 6,
                    "batch_size": 32,
                    "learning_rate": 1e-3,
                    "unet": "tiny",
                    "n_points": 4096,
                    "n_samples": 16,
                    "n_test": 500,
                }
        given = {k: v for k in values if (v := getattr(self, k)) is not None}
        made = values | given
        made["eval_every"] = self.eval_every or max(
            1, made["epochs"] // (10 if self.is_planar else 5)
        )
        return dataclasses.replace(self, **made)


def log_snr_pair(text: str) -> tuple[float, float]:
    """LOC,SCALE as numbers.

    Raises:
        ValueError: it is neither that nor a known word.
    """
    try:
        loc, scale = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"log_snr must be spectrum, curve or LOC,SCALE, got {text!r}") from None
    if not abs(loc) < float("inf") or not 0.0 < scale < float("inf"):
        raise ValueError(f"log_snr needs a finite loc and a positive scale, got {text!r}")
    return loc, scale
