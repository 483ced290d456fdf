"""Fitted energies on disk: arrays by Orbax, the description of the model as JSON.

    energy.json     schema version, model, scheme, checksums of the arrays' files
    arrays/         params, constants, times; origin and start, where the data have them

Schema 2 has the units of linear energies and the origin; folders of schema 1 are read.

The JSON alone says how to rebuild the model, so that a file opens without the code that trained it.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from checkpoints.array_folder import read_arrays, read_description, save_folder
from jkonet_star.energies import LinearEnergy, NetworkEnergy, Units
from jkonet_star.features import Features
from jkonet_star.fitted import FittedEnergy

SCHEMA_VERSION = 2
_NAME = "energy"
_OPTIONAL = ("origin", "start")


def _features_from_json(data: dict | None) -> Features | None:
    if data is None:
        return None
    return Features(**{**data, "exponents": tuple(tuple(e) for e in data["exponents"])})


def _model_from_json(kind: str, data: dict[str, Any]) -> NetworkEnergy | LinearEnergy:
    if kind == "network":
        return NetworkEnergy(**{**data, "hidden": tuple(data["hidden"])})
    if kind == "linear":
        return LinearEnergy(
            dimension=data["dimension"],
            potential_features=_features_from_json(data["potential_features"]),
            interaction_features=_features_from_json(data["interaction_features"]),
            internal=data["internal"],
        )
    raise ValueError(f"unknown model {kind!r}")


def save_energy(path: str | Path, energy: FittedEnergy) -> None:
    """Writes one energy, or a stack of them, to a new folder.

    Args:
        path: the folder; it is complete or absent.
        energy: with or without leading seed axes.

    Raises:
        ValueError: something is already there, or this is no energy.
    """
    if not isinstance(energy, FittedEnergy):
        raise ValueError(f"energy must be a FittedEnergy, got {type(energy).__name__}")
    kind = "network" if isinstance(energy.model, NetworkEnergy) else "linear"
    description = {
        "kind": kind,
        "model": dataclasses.asdict(energy.model),
        "scheme": energy.scheme,
    }
    constants = energy.constants
    if isinstance(constants, Units):
        constants = _fields(constants)
    elif "units" in constants:
        constants = {**constants, "units": _fields(constants["units"])}
    # Orbax takes no empty arrays: features without radial functions have no centres.
    constants = {
        name: value
        for name, value in constants.items()
        if isinstance(value, dict) or np.size(value)
    }
    arrays = {"params": energy.params, "constants": constants, "times": energy.times}
    for name in _OPTIONAL:
        if getattr(energy, name) is not None:
            arrays[name] = getattr(energy, name)
    save_folder(path, _NAME, SCHEMA_VERSION, description, arrays)


def _fields(units: Units) -> dict[str, Any]:
    return {f.name: getattr(units, f.name) for f in dataclasses.fields(Units)}


def load_energy(path: str | Path) -> FittedEnergy:
    """Reads what `save_energy` wrote.

    Raises:
        ValueError: no energy is there, it is damaged, or a newer release wrote it.
    """
    description = read_description(path, _NAME, SCHEMA_VERSION)
    try:
        arrays = read_arrays(path, description)
        model = _model_from_json(description["kind"], description["model"])
        constants = arrays.get("constants", {})
        if isinstance(model, NetworkEnergy):
            constants = Units(**constants)
        else:
            if "units" in constants:
                constants["units"] = Units(**constants["units"])
            stack = arrays["times"].shape[:-1]
            for name in ("potential", "interaction"):
                features = getattr(model, f"{name}_features")
                if features is not None and features.n_centers == 0:
                    constants[name] = jnp.zeros((*stack, 0, model.dimension))
        return FittedEnergy(
            model=model,
            scheme=description["scheme"],
            params=arrays["params"],
            constants=constants,
            times=arrays["times"],
            **{name: arrays[name] for name in _OPTIONAL if name in arrays},
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the energy in {path} is damaged: {reason}") from error
