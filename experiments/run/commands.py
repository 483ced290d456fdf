"""The commands that make a run and its data again, from what the run recorded."""

import re
import shlex
from pathlib import Path
from typing import Any

from absl import flags

from data_generation.populations.dataset_folder import read_metadata
from data_generation.populations.dataset_place import is_dataset
from data_generation.scripts.command_line import script_module


def script_flags(script: Any) -> flags.FlagValues | None:
    """The flags of a script of this project, by its name; None where there is no such script."""
    # The name comes from a file: nothing but a module of this package is imported for it.
    if not isinstance(script, str) or not re.fullmatch(r"experiments\.[a-z_]+", script):
        return None
    try:
        return getattr(script_module(script), "FLAGS", None)
    except ImportError:
        return None


def changed(settings: dict[str, Any], values: flags.FlagValues) -> dict[str, Any]:
    """The settings that have a flag and are not its default."""
    return {
        name: value
        for name, value in settings.items()
        if name in values and _plain(values[name].default) != _plain(value)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def command_line(program: str, settings: dict[str, Any], values: flags.FlagValues) -> str:
    """The shortest command with these settings."""
    words = program.split()
    for name, value in changed(settings, values).items():
        spelled = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{spelled}" if value else f"--no{spelled}")
        elif isinstance(value, list | tuple):
            words.append(f"--{spelled}={','.join(map(str, value))}")
        elif value is not None:
            words.append(f"--{spelled}={value}")
    return shlex.join(words)


def run_command(settings: dict[str, Any]) -> str | None:
    """The command of a run; None where its script is not of this release."""
    values = script_flags(settings.get("script"))
    if values is None:
        return None
    return command_line(f"python -m {settings['script']}", settings, values)


def dataset_metadata(settings: dict[str, Any]) -> dict[str, Any] | None:
    """What the run's dataset says of itself, where its folder is still there."""
    folder = settings.get("dataset")
    if not isinstance(folder, str):
        return None
    try:
        return read_metadata(Path(folder)) if is_dataset(Path(folder)) else None
    except (ValueError, OSError):
        return None


def dataset_command(metadata: dict[str, Any]) -> str:
    """The command that made a dataset."""
    values = script_module("data_generation").FLAGS
    return command_line("data_generation", metadata["arguments"], values)
