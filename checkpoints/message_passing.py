"""Message-passing denoisers on disk.

A denoiser is its network's fields and parameters, and the dimension n that it was trained for.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.networks import load_network, save_network
from diffusions.checks import Count, conform
from diffusions.networks.message_passing import MessagePassingDenoiser
from diffusions.shapes import check_shapes, named
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
        return Denoiser(module, parameters_of(module, params["params"]), n)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the network in {path} is damaged: {error}") from error


def parameters_of(model: MessagePassingDenoiser, params: Any) -> Params:
    """The parameters on the device.

    Raises:
        ValueError: they are not those of the model, or not finite.
    """
    k = model.n_nonzero
    inputs = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, k, k), (1,), (1, k)))
    wanted = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    check_shapes(params, wanted["params"])
    for name, array in named(params).items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    return {"params": jax.tree.map(jnp.asarray, params)}
