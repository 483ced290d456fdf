"""Models that come with the project, by name.

    pretrained/NAME/network.json or energy.json, arrays/     as `save_network`, `save_energy` write them
    pretrained/NAME/card.json                                 what it is and how it was made

A folder is a model: to ship another one, save it there and write its card.
"""

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path

from checkpoints.energies import load_energy
from checkpoints.networks import SavedNetwork, load_network
from checkpoints.place import SHIPPED, described_by, model_names
from data_generation.formats.json_file import read_record
from diffusions.checks import Seed
from jkonet_star.fitted import FittedEnergy

FOLDER = SHIPPED
CARD = "card.json"
_LOADERS: dict[str, Callable[[str | Path], SavedNetwork | FittedEnergy]] = {
    "network.json": load_network,
    "energy.json": load_energy,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured number.

    Attributes:
        name: what was measured, with its unit.
        value: the number.
        standard_error: of the value; absent where nothing was sampled.
        command: that measured it.
    """

    name: str
    value: float
    standard_error: float | None = None
    command: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What somebody should know before using a model.

    Attributes:
        title: one line.
        architecture: the network or energy, its inputs and outputs, and its number of parameters.
        data: what it was trained on.
        command: that trained it.
        seed: of the training.
        metrics: what was measured of it.
        use: what it is for, with the call.
        limits: what it is not for.
        licence: of the weights.
        versions: that trained it.
    """

    title: str
    architecture: str
    data: str
    command: str
    seed: Seed
    metrics: tuple[Metric, ...]
    use: str
    limits: str
    licence: str
    versions: dict[str, str]

    def __str__(self) -> str:
        """The card as Markdown."""
        lines = [f"# {self.title}", ""]
        for name in ("architecture", "data", "use", "limits", "licence"):
            lines += [f"**{name.capitalize()}.** {getattr(self, name)}", ""]
        released = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines += [f"**Training.** Seed {self.seed}; {released}", "", f"    {self.command}", ""]
        for command in dict.fromkeys(metric.command for metric in self.metrics):
            lines += ["| measured | value |", "|---|---|"]
            for metric in self.metrics:
                if metric.command == command:
                    error = metric.standard_error
                    spread = "" if error is None else f" +- {error:.2g}"
                    lines.append(f"| {metric.name} | {metric.value:.4g}{spread} |")
            lines += ["", f"    {command}", ""]
        return "\n".join(lines)


def pretrained_names() -> tuple[str, ...]:
    """The names that `load_pretrained` accepts."""
    return model_names(FOLDER)


def load_pretrained(name: str) -> SavedNetwork | FittedEnergy:
    """Reads a model that comes with the project, and checks that it is the one that was shipped.

    Args:
        name: one of `pretrained_names()`.

    Returns:
        A network (`load_network`) or an energy (`load_energy`); `pretrained_card` says which.

    Raises:
        ValueError: there is none of this name, it is damaged, or a newer release wrote it.
    """
    folder = pretrained_folder(name)
    description = described_by(folder)
    assert description is not None
    return _LOADERS[description](folder)


def pretrained_folder(name: str) -> Path:
    """Where a model is.

    Raises:
        ValueError: there is none of this name.
    """
    names = pretrained_names()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"no pretrained model {name!r}{hint} (there are: {', '.join(names) or 'none'})"
        )
    return FOLDER / name


def pretrained_card(name: str) -> ModelCard:
    """What a model is and how it was made.

    Raises:
        ValueError: there is no model of this name, or its card is missing or damaged.
    """
    try:
        return read_record(pretrained_folder(name) / CARD, ModelCard)
    except ValueError as error:
        raise ValueError(f"the model card {error}") from error
