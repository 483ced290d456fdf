"""Fitted energies on disk: arrays by Orbax, the description of the model as JSON.

    energy.json     schema version, model, scheme, checksums of the arrays' files
    arrays/         params, constants, times

The JSON alone says how to rebuild the model, so that a file opens without the code that trained it.
"""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jkonet_star.energies import LinearEnergy, NetworkEnergy, Units
from jkonet_star.features import Features
from jkonet_star.fitted import FittedEnergy

SCHEMA_VERSION = 1
_DESCRIPTION = "energy.json"
_ARRAYS = "arrays"


def _checksums(path: Path) -> dict[str, str]:
    """Of every file of the arrays below a saved energy."""
    files = sorted(p for p in (path / _ARRAYS).rglob("*") if p.is_file())
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


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
        ValueError: something is already there.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} already exists; a saved energy is never overwritten")
    kind = "network" if isinstance(energy.model, NetworkEnergy) else "linear"
    description = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "model": dataclasses.asdict(energy.model),
        "scheme": energy.scheme,
    }
    constants = energy.constants
    if isinstance(constants, Units):
        constants = {f.name: getattr(constants, f.name) for f in dataclasses.fields(Units)}
    # Orbax takes no empty arrays: features without radial functions have no centres.
    constants = {name: value for name, value in constants.items() if np.size(value)}
    arrays = {"params": energy.params, "constants": constants, "times": energy.times}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(unfinished / _ARRAYS, jax.tree.map(np.asarray, arrays))
    description["checksums"] = _checksums(unfinished)
    (unfinished / _DESCRIPTION).write_text(json.dumps(description, indent=1))
    unfinished.rename(path)


def load_energy(path: str | Path) -> FittedEnergy:
    """Reads what `save_energy` wrote.

    Raises:
        ValueError: no energy is there, it is damaged, or a newer release wrote it.
    """
    path = Path(path).absolute()
    file = path / _DESCRIPTION
    if not file.is_file():
        raise ValueError(f"{path} holds no saved energy ({_DESCRIPTION} is missing)")
    try:
        description = json.loads(file.read_text())
        version = description["schema_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}; this release reads up to {SCHEMA_VERSION}: "
            "upgrade jkonet-diffusions"
        )
    try:
        # First, because Orbax does not notice every damage, and tells of the others at length.
        if _checksums(path) != description["checksums"]:
            raise ValueError("its arrays are not those that were saved")
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path / _ARRAYS).item_metadata
            template = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), metadata.tree
            )
            arrays = checkpointer.restore(path / _ARRAYS, template)
        arrays = jax.tree.map(jnp.asarray, arrays)
        model = _model_from_json(description["kind"], description["model"])
        constants = arrays.get("constants", {})
        if isinstance(model, NetworkEnergy):
            constants = Units(**constants)
        else:
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
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the energy in {path} is damaged: {reason}") from error
