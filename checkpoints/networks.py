"""Trained networks on disk: the module's fields and its parameters, so that a file opens by itself.

A network is saved as the name of its architecture, the fields of the Flax module, what else belongs to
it (the noising process, the data's scale; JSON), and its parameters.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from checkpoints.array_folder import read_arrays, read_description, save_folder
from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.networks.mlp import DenoisingMLP
from diffusions.networks.unet import UNet
from diffusions.typing import Params, PyTree

SCHEMA_VERSION = 1
_NAME = "network"
ARCHITECTURES: dict[str, type[nn.Module]] = {
    "denoising-mlp": DenoisingMLP,
    "message-passing": MessagePassingDenoiser,
    "unet": UNet,
}


class SavedNetwork(NamedTuple):
    """A network, and what belongs to it."""

    module: nn.Module
    params: Params
    about: dict[str, Any]  # JSON
    extra: PyTree  # arrays, such as the moments of the training data


def _fields(module: nn.Module) -> dict[str, Any]:
    own = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    values = {name: getattr(module, name) for name in own}
    return {
        name: jnp.dtype(value).name if name == "dtype" else value for name, value in values.items()
    }


def _module(architecture: str, fields: dict[str, Any]) -> nn.Module:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}")
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    if "dtype" in made:
        made["dtype"] = jnp.dtype(made["dtype"])
    return ARCHITECTURES[architecture](**made)


def save_network(
    path: str | Path,
    module: nn.Module,
    params: Params,
    about: dict[str, Any],
    extra: PyTree | None = None,
) -> None:
    """Writes a network to a new folder, which is complete or absent.

    Args:
        path: the folder.
        module: of one of the `ARCHITECTURES`.
        params: as `module.init` returns them.
        about: what else belongs to it, as JSON.
        extra: dictionary of arrays.

    Raises:
        ValueError: something is already there, or the module's class is not known.
    """
    names = [name for name, kind in ARCHITECTURES.items() if type(module) is kind]
    if not names:
        raise ValueError(f"{type(module).__name__} is not one of the known architectures")
    description = {"architecture": names[0], "module": _fields(module), "about": about}
    arrays = {"params": params, **({"extra": extra} if extra else {})}
    save_folder(path, _NAME, SCHEMA_VERSION, description, arrays)


def load_network(path: str | Path) -> SavedNetwork:
    """Reads what `save_network` wrote.

    Raises:
        ValueError: no network is there, it is damaged, or a newer release wrote it.
    """
    description = read_description(path, _NAME, SCHEMA_VERSION)
    try:
        module = _module(description["architecture"], description["module"])
        arrays = read_arrays(path, description)
        return SavedNetwork(module, arrays["params"], description["about"], arrays.get("extra", {}))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the network in {path} is damaged: {reason}") from error
