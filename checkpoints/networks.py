"""Trained networks on disk: the module's fields and its parameters, so that a file opens by itself.

A network is saved as the name of its architecture, the fields of the Flax module, what else belongs to
it (the noising process, the data's scale; JSON), and its parameters. Of a user's own module the name of
the class is kept, and it is given again when the file is opened: no file says what code is imported.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from checkpoints.array_folder import read_arrays, read_description, save_folder
from diffusions.checks import one_of, record
from diffusions.networks.attention_unet import AttentionUNet
from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.networks.mlp import DenoisingMLP
from diffusions.networks.unet import UNet
from diffusions.shapes import check_shapes
from diffusions.short_repr import short_repr
from diffusions.typing import Params, PyTree

SCHEMA_VERSION = 1
_NAME = "network"
ARCHITECTURES: dict[str, type[nn.Module]] = {
    "attention-unet": AttentionUNet,
    "denoising-mlp": DenoisingMLP,
    "message-passing": MessagePassingDenoiser,
    "unet": UNet,
}


_OWN = "own"


class SavedNetwork(NamedTuple):
    """A network, and what belongs to it."""

    module: nn.Module
    params: Params
    about: dict[str, Any]  # JSON
    extra: PyTree  # arrays, such as the moments of the training data

    def __repr__(self) -> str:
        return short_repr(self)


def _fields(module: nn.Module) -> dict[str, Any]:
    own = [f.name for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    values = {name: getattr(module, name) for name in own}
    return {
        name: jnp.dtype(value).name if name == "dtype" else value for name, value in values.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Description:
    """The entries of `network.json` beside those of every folder."""

    architecture: str
    module: dict[str, Any]
    about: dict[str, Any]


def _module(architecture: str, fields: dict[str, Any]) -> nn.Module:
    one_of("architecture", architecture, tuple(ARCHITECTURES))
    if {"parent", "name"} & fields.keys():
        raise ValueError("its module has the fields parent and name, which are Flax's own")
    made = dict(fields)
    if "dtype" in made:
        made["dtype"] = jnp.dtype(made["dtype"])
    return record(ARCHITECTURES[architecture], made, "its module")


def _check_params(module: nn.Module, params: Any) -> None:
    """Raises ValueError unless the parameters are those of the module."""
    key, n_leaves = jax.random.key(0), len(jax.tree.leaves(params))
    # Compared first: a network of a billion layers would be traced for as long.
    match module:
        case DenoisingMLP():
            n_layers = module.n_layers
        case UNet():
            n_layers = len(module.multipliers) * (module.blocks_per_level + 1)
        case AttentionUNet():
            n_layers = len(module.channels)
        case _:
            n_layers = 0
    if not 0 <= n_layers <= n_leaves:
        raise ValueError(f"a module of {n_layers} layers has no {n_leaves} parameters")
    match module:
        case DenoisingMLP():
            dimension = params["params"][f"Dense_{module.n_layers + 1}"]["kernel"].shape[-1]
            inputs: tuple[Any, ...] = (jnp.zeros((1, dimension)), jnp.zeros(1))
        case UNet():
            side = 2 ** (len(module.multipliers) - 1)
            channels = params["params"]["conv_in"]["kernel"].shape[2]
            inputs = (jnp.zeros((1, side, side, channels)), jnp.zeros(1))
        case AttentionUNet():
            channels = params["params"]["Dense_0"]["bias"].shape[-1]
            inputs = (jnp.zeros((1, 8, 8, channels)), jnp.zeros(1))
        case _:
            return  # `message_passing` knows the inputs of its own
    check_shapes(params, jax.eval_shape(module.init, key, *inputs))


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
        module: of one of the `ARCHITECTURES`, or an own one, which `load_network` is then given.
        params: as `module.init` returns them.
        about: what else belongs to it, as JSON.
        extra: dictionary of arrays.

    Raises:
        ValueError: something is already there, or this is no module.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be a Flax module, got {type(module).__name__}")
    save_folder(path, _NAME, *described_network(SavedNetwork(module, params, about, extra or {})))


def described_network(network: SavedNetwork) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """A network as plain values and named arrays: schema version, description, arrays."""
    module = network.module
    names = [name for name, kind in ARCHITECTURES.items() if type(module) is kind]
    description = {
        "architecture": names[0] if names else _OWN,
        "module": _fields(module) if names else {"class": type(module).__name__},
        "about": network.about,
    }
    extra = {"extra": network.extra} if network.extra else {}
    return SCHEMA_VERSION, description, {"params": network.params, **extra}


def _own_class(description: dict[str, Any]) -> str | None:
    """Name of the class, where it is none of ours."""
    fields = description.get("module")
    if description.get("architecture") != _OWN or not isinstance(fields, dict):
        return None
    return str(fields.get("class"))


def load_network(path: str | Path, module: nn.Module | None = None) -> SavedNetwork:
    """Reads what `save_network` wrote.

    Args:
        path: the folder, or a `.safetensors` of `checkpoints.export`.
        module: where it is an own one.

    Raises:
        ImportError: the path is a safetensors file, and the extra `exchange` is missing.
        ValueError: no network is there, it is damaged, a newer release wrote it, or it needs an own
            module that is not given.
    """
    description = read_description(path, _NAME, SCHEMA_VERSION)
    told_class = _own_class(description)
    if told_class != (None if module is None else type(module).__name__):
        given = "none is given" if module is None else f"a {type(module).__name__} is given"
        needed = f"an own {told_class}" if told_class else f"a {description.get('architecture')!r}"
        raise ValueError(f"the network in {path} is {needed}, and {given} as module")
    try:
        told = record(_Description, description, more=True)
        if module is None:
            module = _module(told.architecture, told.module)
        arrays = read_arrays(path, description)
        if told_class is None:
            _check_params(module, arrays["params"])
        return SavedNetwork(module, arrays["params"], told.about, arrays.get("extra", {}))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the network in {path} is damaged: {reason}") from error
