"""What an import of weights needs to be told. Imports no JAX."""

import dataclasses
from typing import Annotated, Literal

from checkpoints.place import check_model
from data_generation.formats.json_file import check_file
from diffusions.checks import Bounds, Count, Natural, PathText, check_fields
from diffusions.networks.presets import NoiseSteps

ImageSize = Annotated[tuple[Count, ...], Bounds(2, 2)]
ImportKind = Literal["message-passing", "ddpm-unet", "improved-ddpm-unet"]

_PUBLISHED_N, _PUBLISHED_K = 350, 20
_ONLY_OF = {"message-passing": ("n", "k"), "improved-ddpm-unet": ("heads", "noise_steps")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """One import.

    Attributes:
        kind: `message-passing` is the denoiser of sparse rank-one matrices; `ddpm-unet` the U-Net of
            DDPM, as the diffusers library saves it; `improved-ddpm-unet` that of improved DDPM, as its
            authors save it.
        weights: state dict to read (.pth, .pt, .bin of PyTorch 1.6 or newer, or .safetensors).
        out: folder to write; it must not exist.
        n: dimension that message-passing weights were trained for (350 when absent).
        k: non-zero entries that they were trained for (20 when absent).
        heads: of the attention of improved DDPM, which its weights do not show (4 when absent).
        noise_steps: that improved DDPM was trained on (cosine-4000 when absent).
    """

    kind: ImportKind | None = None
    weights: str | None = None
    out: PathText | None = None
    n: Count | None = None
    k: Count | None = None
    heads: Count | None = None
    noise_steps: NoiseSteps | None = None

    def __post_init__(self):
        for name in ("kind", "weights", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing")
        check_fields(self)
        for kind, names in _ONLY_OF.items():
            for name in names:
                if getattr(self, name) is not None and self.kind != kind:
                    raise ValueError(f"--{name.replace('_', '-')} needs --kind={kind}")

    def check_inputs(self) -> None:
        """Raises ValueError where the weights are missing."""
        check_file(str(self.weights))

    @property
    def problem(self) -> tuple[int, int]:
        """The n and k of message-passing weights."""
        n = _PUBLISHED_N if self.n is None else self.n
        return n, _PUBLISHED_K if self.k is None else self.k

    @property
    def unshown(self) -> tuple[int, NoiseSteps]:
        """What weights of improved DDPM do not show."""
        return self.heads or 4, self.noise_steps or "cosine-4000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """One model for others.

    Attributes:
        model: name of a pretrained model, or the folder of a run, of a saved energy or network.
        out: folder to write; it must not exist.
        seed: which of a run's seeds, by its number in the run's order.
        image_size: height and width that a program of an image network is for.
    """

    model: str | None = None
    out: PathText | None = None
    seed: Natural = 0
    image_size: ImageSize | None = None

    def __post_init__(self):
        for name in ("model", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing")
        check_fields(self)

    def check_inputs(self) -> None:
        """Raises ValueError where there is no such model."""
        check_model(str(self.model))
