"""Message-passing denoisers on disk, and the import of the published PyTorch weights.

    denoiser.json   schema version, the network's fields, the problem (n, k), checksum of the arrays
    weights.npz     the parameters, one entry per array, named by its path: message.kernel, ...

The published state dict names layer l of L `msg_mlps.l.0` (first layer of the message MLP), `msg_mlps.l.2`
(second), `upd_mlps.l.*`, `logit_alpha.l`, and the readout `tiny_decoder.*`; the current variant also has
`readout_coefs`. Here the L layers are stacked.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.typing import Params

SCHEMA_VERSION = 1
_DESCRIPTION = "denoiser.json"
_ARRAYS = "weights.npz"
_FIELDS = (
    "n_nonzero",
    "n_layers",
    "hidden",
    "update_hidden",
    "readout_hidden",
    "direct_readout",
)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network, its parameters, and the dimension n that it was trained for."""

    model: MessagePassingDenoiser
    params: Params
    n: int


def save_denoiser(path: str | Path, denoiser: Denoiser) -> None:
    """Writes a denoiser to a new folder, which is complete or absent.

    Raises:
        ValueError: something is already there.
    """
    path = Path(path).absolute()
    if path.exists():
        raise ValueError(f"{path} already exists; a saved denoiser is never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    arrays = {
        jax.tree_util.keystr(name, simple=True, separator="."): np.asarray(leaf)
        for name, leaf in jax.tree_util.tree_leaves_with_path(denoiser.params["params"])
    }
    np.savez(unfinished / _ARRAYS, **arrays)  # type: ignore[arg-type]
    description = {
        "schema_version": SCHEMA_VERSION,
        "n": denoiser.n,
        "model": {name: getattr(denoiser.model, name) for name in _FIELDS},
        "sha256": _checksum(unfinished / _ARRAYS),
    }
    (unfinished / _DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    unfinished.rename(path)


def load_denoiser(path: str | Path) -> Denoiser:
    """Reads what `save_denoiser` wrote.

    Raises:
        ValueError: no denoiser is there, it is damaged, or a newer release wrote it.
    """
    path = Path(path)
    file = path / _DESCRIPTION
    if not file.is_file():
        raise ValueError(f"{path} holds no denoiser ({_DESCRIPTION} is missing)")
    try:
        description = json.loads(file.read_text())
        version = description["schema_version"]
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ValueError(
                f"it has schema version {version}; this release reads up to {SCHEMA_VERSION}: "
                "upgrade jkonet-diffusions"
            )
        if _checksum(path / _ARRAYS) != description["sha256"]:
            raise ValueError("its arrays are not those that were saved")
        model = MessagePassingDenoiser(**description["model"])
        with np.load(path / _ARRAYS, allow_pickle=False) as arrays:
            params = _nested({name: arrays[name] for name in arrays.files})
        return Denoiser(model, _checked(model, params), int(description["n"]))
    except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"cannot read the denoiser in {path}: {reason}") from error


def import_message_passing(
    weights: dict[str, np.ndarray], out: Path, *, n: int = 350, k: int = 20
) -> Denoiser:
    """Maps a published state dict onto the network and saves it.

    Args:
        weights: name -> array.
        out: the new folder.
        n: dimension that the weights were trained for; they do not say.
        k: non-zero entries, likewise.

    Returns:
        The denoiser.

    Raises:
        ValueError: the state dict is of another network, or `out` exists.
    """
    denoiser = from_state_dict(weights, n=n, k=k)
    save_denoiser(out, denoiser)
    return denoiser


def from_state_dict(weights: dict[str, np.ndarray], *, n: int, k: int) -> Denoiser:
    """`import_message_passing` without saving."""
    numbers = {int(m[1]) for name in weights if (m := re.match(r"msg_mlps\.(\d+)\.", name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError(
            "these are no weights of a message-passing denoiser: they lack msg_mlps.0, msg_mlps.1, ..."
        )
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1, ..., n = {n}, got {k}")
    left = dict(weights)

    def take(name: str) -> np.ndarray:
        if name not in left:
            raise ValueError(f"the weights lack {name}")
        return np.asarray(left.pop(name), np.float32)

    def mlp(name: str) -> dict[str, np.ndarray]:
        return {
            "kernel": take(f"{name}.0.weight"),
            "bias": take(f"{name}.0.bias"),
            "output": take(f"{name}.2.weight"),
            "output_bias": take(f"{name}.2.bias").reshape(()),
        }

    layers = [
        {
            "message": mlp(f"msg_mlps.{layer}"),
            "update": mlp(f"upd_mlps.{layer}"),
            "logit_alpha": take(f"logit_alpha.{layer}").reshape(()),
        }
        for layer in range(len(numbers))
    ]
    try:
        params: dict[str, Any] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    except ValueError as error:
        raise ValueError(f"the layers differ in shape: {error}") from error
    params |= {"readout": mlp("tiny_decoder"), "log_scale": take("log_scale").reshape(())}
    direct = "readout_coefs" in left
    if direct:
        params["direct"] = take("readout_coefs").reshape(())
    if left:
        raise ValueError(f"the weights hold {', '.join(sorted(left)[:5])}, which nothing takes")
    model = MessagePassingDenoiser(
        n_nonzero=k,
        n_layers=len(layers),
        hidden=params["message"]["bias"].shape[-1],
        update_hidden=params["update"]["bias"].shape[-1],
        readout_hidden=params["readout"]["bias"].shape[-1],
        direct_readout=direct,
    )
    return Denoiser(model, _checked(model, params), n)


def _checked(model: MessagePassingDenoiser, params: Any) -> Params:
    """The parameters on the device, if they are those of the model."""
    one = jnp.zeros((1, model.n_nonzero, model.n_nonzero))
    wanted = jax.eval_shape(model.init, jax.random.key(0), one, one[:, 0, 0], one[:, 0])["params"]
    if jax.tree.structure(wanted) != jax.tree.structure(params):
        raise ValueError("the parameters are not those of the network that is described")
    for (name, leaf), found in zip(
        jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(params), strict=True
    ):
        if leaf.shape != found.shape or not np.isfinite(found).all():
            label = jax.tree_util.keystr(name, simple=True, separator=".")
            raise ValueError(
                f"{label} has shape {list(found.shape)} for {list(leaf.shape)}, or is not finite"
            )
    return {"params": jax.tree.map(jnp.asarray, params)}


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = leaf
    return nested


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
