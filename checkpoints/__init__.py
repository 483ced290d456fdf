"""Saving and restoring through Orbax: training states, energies, networks; pretrained models."""

from typing import TYPE_CHECKING

from diffusions.late_imports import names_on_first_use

if TYPE_CHECKING:
    from checkpoints.energies import load_energy, save_energy
    from checkpoints.networks import load_network, save_network
    from checkpoints.pretrained_models import load_pretrained, pretrained_card, pretrained_names
    from checkpoints.training import latest_step, restore_state, save_state

_HOME = {
    "load_energy": "energies",
    "save_energy": "energies",
    "load_network": "networks",
    "save_network": "networks",
    "load_pretrained": "pretrained_models",
    "pretrained_card": "pretrained_models",
    "pretrained_names": "pretrained_models",
    "latest_step": "training",
    "restore_state": "training",
    "save_state": "training",
}

__all__ = [
    "latest_step",
    "load_energy",
    "load_network",
    "load_pretrained",
    "pretrained_card",
    "pretrained_names",
    "restore_state",
    "save_energy",
    "save_network",
    "save_state",
]

__getattr__ = names_on_first_use("checkpoints", _HOME)
