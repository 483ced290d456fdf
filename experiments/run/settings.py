"""What every script is told of its run. Imports no JAX."""

import dataclasses
import re
from collections.abc import Collection, Iterable
from typing import Any

from diffusions.checks import (
    PathText,
    Seed,
    check_fields,
    check_folder_name,
    shown,
)
from experiments.run.place import check_place


def changed(settings: Any, names: Iterable[str]) -> list[str]:
    """Those of the names that have another value than their default: what was given, by flags."""
    fields = {field.name: field for field in dataclasses.fields(settings)}
    return [name for name in names if getattr(settings, name) != fields[name].default]


def without_effect(names: Collection[str]) -> str | None:
    """Flags that were given in vain, in words; None where there are none."""
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
    return f"without effect here: {flags}" if flags else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSettings:
    """What computes.

    Attributes:
        devices: among which networks side by side, or the batches of one, are divided: how many of
            those that a process has, or auto, all of them.
    """

    devices: str = "auto"

    def __post_init__(self):
        check_fields(self)
        if self.devices != "auto" and not re.fullmatch("[1-9][0-9]{0,5}", self.devices):
            raise ValueError(
                f"devices must be auto or how many, 1 at least, got {shown(self.devices)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSettings(DeviceSettings):
    """Where a run goes, and what becomes of an older one there.

    Attributes:
        run_name: folder of the run below runs_dir; absent, named after what it does.
        runs_dir: where runs go.
        resume: continue the run of this name where it was interrupted.
        overwrite: replace a run of this name.
        plots: draw the figures.
        wandb: also log to Weights & Biases (extra `track`).
    """

    run_name: str | None = None
    runs_dir: PathText = "runs"
    resume: bool = False
    overwrite: bool = False
    plots: bool = True
    wandb: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.resume and self.run_name is None:
            raise ValueError("resume needs run_name, the run to continue")
        if self.resume and self.overwrite:
            raise ValueError("resume continues a run and overwrite deletes it: give one of them")
        if self.run_name is not None:
            check_folder_name("run_name", self.run_name)

    def check_inputs(self) -> None:
        """Raises ValueError where a run cannot go where it shall."""
        check_place(self.runs_dir, self.run_name, resume=self.resume, overwrite=self.overwrite)

    @property
    def seeds_in_words(self) -> str:
        """Where a run's randomness comes from."""
        return "no seed"


FOLDER_FIELDS = tuple(field.name for field in dataclasses.fields(FolderSettings))
"""Fields that say nothing of a run's results, so that a resumed run may have others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(FolderSettings):
    """What every script with one random seed shares.

    Attributes:
        seed: random seed.
    """

    seed: Seed = 0

    @property
    def seeds_in_words(self) -> str:
        """The seed."""
        return f"seed {self.seed}"
