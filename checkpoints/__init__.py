"""Saving and restoring through Orbax: training states, energies, networks; pretrained models."""

from diffusions.late_imports import names_on_first_use

__getattr__, __dir__, __all__ = names_on_first_use("checkpoints")
