"""Fitted energies on disk: arrays by Orbax, the description of the model as JSON.

    energy.json     schema version, model, scheme, how it was fitted, checksums of the arrays' files
    arrays/         params, constants, times; origin and start, where the data have them

Schema 2 has the units of linear energies and the origin; folders of schema 1 are read.

The JSON alone says how to rebuild the model, so that a file opens without the code that trained it.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.array_folder import read_arrays, read_description, save_folder
from checkpoints.shapes import check_shapes
from diffusions.checks import record
from jkonet_star.energies import EnergyModel, LinearEnergy, NetworkEnergy, Units
from jkonet_star.fit_report import FitReport
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import Scheme

SCHEMA_VERSION = 2
_NAME = "energy"
_OPTIONAL = ("origin", "start")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Description:
    """The entries of `energy.json` beside those of every folder."""

    kind: Literal["network", "linear"]
    model: dict[str, Any]
    scheme: Scheme
    report: FitReport | None = None


_MODELS: dict[str, type[EnergyModel]] = {"network": NetworkEnergy, "linear": LinearEnergy}


def _check_arrays(model: EnergyModel, arrays: dict[str, Any]) -> None:
    """Raises ValueError unless the arrays are those of the model."""
    d = model.dimension
    vector, scalar = jax.ShapeDtypeStruct((d,), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    units = {f.name: vector if f.name == "center" else scalar for f in dataclasses.fields(Units)}
    wanted: dict[str, Any] = {
        "times": jax.ShapeDtypeStruct(arrays["times"].shape[-1:], jnp.float32),
        "constants": units,
    }
    if isinstance(model, NetworkEnergy):
        wanted["params"] = jax.eval_shape(model.init, jax.random.key(0))
    else:
        wanted["params"], wanted["constants"] = {}, {}
        if "units" in arrays.get("constants", {}):
            wanted["constants"]["units"] = units
        for name in ("potential", "interaction"):
            features = getattr(model, f"{name}_features")
            if features is None:
                continue
            if features.dimension != d or any(len(e) != d for e in features.exponents):
                raise ValueError(f"its {name} has features of another dimension than {d}")
            wanted["params"][name] = jax.ShapeDtypeStruct((features.n_features,), jnp.float32)
            if features.n_centers:
                centers = jax.ShapeDtypeStruct((features.n_centers, d), jnp.float32)
                wanted["constants"][name] = centers
        if model.internal != "none":
            wanted["params"]["internal"] = scalar
    wanted |= {name: shape for name, shape in _optional(d).items() if name in arrays}
    check_shapes(arrays, wanted, stack=arrays["times"].shape[:-1])


def _optional(d: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "origin": jax.ShapeDtypeStruct((d,), jnp.float32),
        "start": jax.ShapeDtypeStruct((), jnp.float32),
    }


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
    if energy.report is not None:
        description["report"] = dataclasses.asdict(energy.report)
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
        told = record(_Description, description, more=True)
        model = record(_MODELS[told.kind], told.model, "its model")
        arrays = read_arrays(path, description)
        _check_arrays(model, arrays)
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
            scheme=told.scheme,
            params=arrays["params"],
            constants=constants,
            times=arrays["times"],
            **{name: arrays[name] for name in _OPTIONAL if name in arrays},
        ).with_report(told.report)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the energy in {path} is damaged: {reason}") from error
