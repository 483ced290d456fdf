"""Message-passing denoisers on disk, and the import of the published PyTorch weights.

A denoiser is its network's fields and parameters, and the dimension n that it was trained for.

The published state dict names layer l of L `msg_mlps.l.0` (first layer of the message MLP),
`msg_mlps.l.2` (second), `upd_mlps.l.*`, `logit_alpha.l`, and the readout `tiny_decoder.*`; the current
variant also has `readout_coefs`. Here the L layers are stacked.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.networks import load_network, save_network
from checkpoints.shapes import check_shapes, named
from diffusions.checks import Count, conform
from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.short_repr import short_repr
from diffusions.typing import Params

SHIPPED = Path(__file__).parent / "pretrained" / "sparse_n64_k6"
"""The denoiser that is distributed: n = 64, k = 6."""


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network, its parameters, and the dimension n that it was trained for."""

    model: MessagePassingDenoiser
    params: Params
    n: int

    __repr__ = short_repr


def save_denoiser(path: str | Path, denoiser: Denoiser) -> None:
    """Writes a denoiser to a new folder, which is complete or absent.

    Raises:
        ValueError: something is already there.
    """
    save_network(path, denoiser.model, denoiser.params, {"n": denoiser.n})


def load_denoiser(path: str | Path) -> Denoiser:
    """Reads what `save_denoiser` wrote.

    Raises:
        ValueError: no denoiser is there, it is damaged, or a newer release wrote it.
    """
    module, params, about, _ = load_network(path)
    if not isinstance(module, MessagePassingDenoiser):
        raise ValueError(f"{path} holds a {type(module).__name__}, no message-passing denoiser")
    try:
        n = conform(about.get("n"), Count, "n")
        if module.n_nonzero > n:
            raise ValueError(f"k = {module.n_nonzero} exceeds n = {n}")
        return Denoiser(module, _checked(module, params["params"]), n)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the network in {path} is damaged: {error}") from error


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
    k = model.n_nonzero
    inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, k, k), (1,), (1, k)))
    wanted = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    check_shapes(params, wanted["params"])
    for name, array in named(params).items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return {"params": jax.tree.map(jnp.asarray, params)}
