"""Fitted energies on disk: arrays by Orbax, the description of the model as JSON.

    energy.json     what `jkonet_star.described` says, schema version, checksums of the arrays' files
    arrays/         its arrays

The folder is complete or absent. A run keeps its energies, one per seed, in its folder `energy`.
"""

from pathlib import Path

import flax.linen as nn

from checkpoints.array_folder import read_arrays, read_description, save_folder
from jkonet_star.described import NEWEST, Blueprint, damaged, describe
from jkonet_star.fitted import FittedEnergy

_NAME = "energy"
_RUN = "config.json"


def save_energy(path: str | Path, energy: FittedEnergy) -> None:
    """Writes one energy, or a stack of them, to a new folder.

    Args:
        path: the folder; it is complete or absent.
        energy: with or without leading seed axes.

    Raises:
        ValueError: something is already there, or this is no energy of a kind that is known.
    """
    save_folder(path, _NAME, *describe(energy))


def load_energy(
    path: str | Path,
    *,
    potential: nn.Module | None = None,
    interaction: nn.Module | None = None,
) -> FittedEnergy:
    """Reads what `save_energy` wrote, or what a run has learned.

    Args:
        path: the folder, or that of a run, whose energies are a stack, one per seed; a run of one
            seed is one energy; or a `.safetensors` of `checkpoints.export`.
        potential: the own module of V, where the energy was learned with one.
        interaction: likewise of U.

    Raises:
        ImportError: the path is a safetensors file, and the extra `exchange` is missing.
        ValueError: no energy is there, or not yet, it is damaged, a newer release wrote it, or it
            needs an own module that is not given.
    """
    folder = Path(path)
    if (folder / _RUN).is_file():
        if not (folder / _NAME).is_dir():
            raise ValueError(
                f"{path} is a run that has no energy, or is not finished: see its report"
            )
        energies = load_energy(folder / _NAME, potential=potential, interaction=interaction)
        return energies.member(0) if energies.times.shape[:-1] == (1,) else energies
    description = read_description(path, _NAME, NEWEST)
    read = Blueprint.read(description, str(path), potential=potential, interaction=interaction)
    try:
        return read.energy(read_arrays(path, description))
    except Exception as error:
        raise damaged(str(path), error) from error
