"""Saving and restoring: training states of a run, and fitted energies, through Orbax."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkpoints.energies import load_energy, save_energy
    from checkpoints.training import latest_step, restore_state, save_state

_HOME = {
    "load_energy": "energies",
    "save_energy": "energies",
    "latest_step": "training",
    "restore_state": "training",
    "save_state": "training",
}

__all__ = ["latest_step", "load_energy", "restore_state", "save_energy", "save_state"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'checkpoints' has no attribute {name!r}")
    return getattr(importlib.import_module(f"checkpoints.{_HOME[name]}"), name)
