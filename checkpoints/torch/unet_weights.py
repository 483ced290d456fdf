"""What imports of U-Nets from PyTorch have in common: weights taken one by one, in our layout.

An import reads the architecture off names and shapes, takes every array once, and refuses what is left
over or missing, of another shape or not finite.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints.networks import save_network
from diffusions.networks.unet import UNet
from diffusions.short_repr import short_repr
from diffusions.typing import Params


class PretrainedUNet(NamedTuple):
    """The network epsilon_hat(z, log SNR) and its parameters."""

    module: UNet
    params: Params

    def __repr__(self) -> str:
        return short_repr(self)

    def save(self, out: str | Path, *, source: str = "") -> None:
        """Writes it for `checkpoints.networks.load_network`.

        Args:
            out: the new folder.
            source: where the weights come from, kept beside them.

        Raises:
            ValueError: `out` exists.
        """
        about = {"prediction": "epsilon", "condition": "log_snr", "source": source}
        save_network(out, self.module, self.params, about)


class UNetReader:
    """Takes each array once, in Flax's layout."""

    def __init__(self, weights: dict[str, np.ndarray], kind: str):
        self.left, self.kind = dict(weights), kind

    def peek(self, name: str) -> np.ndarray:
        """An array that stays.

        Raises:
            ValueError: there is none.
        """
        if name not in self.left:
            raise ValueError(f"these are no weights of {self.kind}: they lack {name}")
        return self.left[name]

    def take(self, name: str) -> np.ndarray:
        """An array, in single precision, that nobody else shall have."""
        array = np.asarray(self.peek(name), np.float32)
        del self.left[name]
        return array

    def count(self, prefix: str) -> int:
        """Parts `prefix`.0, `prefix`.1, ..."""
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        numbers = {int(m[1]) for name in self.left if (m := pattern.match(name))}
        if numbers != set(range(len(numbers))):
            raise ValueError(f"the weights hold {prefix} of numbers {sorted(numbers)}")
        return len(numbers)

    def norm(self, name: str) -> dict[str, np.ndarray]:
        """A normalisation."""
        return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

    def conv(self, name: str) -> dict[str, np.ndarray]:
        """A convolution."""
        kernel = self.take(f"{name}.weight")
        if kernel.ndim != 4:
            raise ValueError(f"{name}.weight has shape {list(kernel.shape)}, expected four axes")
        # (out, in, height, width) to (height, width, in, out).
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": self.take(f"{name}.bias")}

    def dense(self, *names: str) -> dict[str, np.ndarray]:
        """One dense layer, or several side by side; convolutions of single pixels are dense layers."""
        kernels, biases = [], []
        for name in names:
            kernel = self.take(f"{name}.weight")
            if kernel.ndim < 2 or any(side != 1 for side in kernel.shape[2:]):
                raise ValueError(f"{name}.weight has shape {list(kernel.shape)}, not a dense one")
            kernels.append(kernel.reshape(kernel.shape[:2]).T)
            biases.append(self.take(f"{name}.bias"))
        return {"kernel": np.concatenate(kernels, axis=1), "bias": np.concatenate(biases)}

    def block(
        self, *, norm_1: str, conv_1: str, time: str, norm_2: str, conv_2: str, shortcut: str
    ) -> dict[str, Any]:
        """A residual block by the names of its parts; the shortcut where channels change."""
        block = {
            "norm_1": self.norm(norm_1),
            "conv_1": self.conv(conv_1),
            "time": self.dense(time),
            "norm_2": self.norm(norm_2),
            "conv_2": self.conv(conv_2),
        }
        if f"{shortcut}.weight" in self.left:
            block["shortcut"] = self.dense(shortcut)
        return block

    def unet(self, module: UNet, params: dict[str, Any]) -> PretrainedUNet:
        """The network, if these are the parameters that it would make and nothing is left.

        Raises:
            ValueError: they are others.
        """
        if self.left:
            names = ", ".join(sorted(self.left)[:4])
            raise ValueError(f"the weights hold {names}, which nothing takes")
        return PretrainedUNet(module, {"params": _checked(module, params)})


def _checked(module: UNet, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, if they are those that the module would make."""
    side = 2 ** (len(module.multipliers) - 1)
    in_channels = params["conv_in"]["kernel"].shape[2]
    z = jax.ShapeDtypeStruct((1, side, side, in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), z, t)["params"]
    found = dict(_named(params))
    for name, leaf in _named(wanted):
        if name not in found:
            raise ValueError(f"the weights have nothing for {name}")
        if found[name].shape != leaf.shape:
            raise ValueError(f"{name} has shape {list(found[name].shape)} for {list(leaf.shape)}")
        if not np.isfinite(found.pop(name)).all():
            raise ValueError(f"{name} is not finite")
    if found:
        raise ValueError(f"the network has no {', '.join(sorted(found)[:4])}")
    return params


def _named(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
