"""The published PyTorch weights of message-passing denoisers, imported.

The published state dict names layer l of L `msg_mlps.l.0` (first layer of the message MLP),
`msg_mlps.l.2` (second), `upd_mlps.l.*`, `logit_alpha.l`, and the readout `tiny_decoder.*`; the current
variant also has `readout_coefs`. Here the L layers are stacked.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from checkpoints.message_passing import Denoiser, parameters_of, save_denoiser
from diffusions.networks.message_passing import MessagePassingDenoiser


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
    return Denoiser(model, parameters_of(model, params), n)
