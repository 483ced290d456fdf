"""Published weights of DDPM's U-Net, in the names of the diffusers library, as our U-Net.

    conv_in, time_embedding.linear_1, .linear_2, conv_norm_out, conv_out
    down_blocks.l.resnets.i, .attentions.i, .downsamplers.0.conv          level l
    mid_block.resnets.0, .attentions.0, .resnets.1
    up_blocks.j.resnets.i, .attentions.i, .upsamplers.0.conv              level L - 1 - j

A resnet has norm1, conv1, time_emb_proj, norm2, conv2 and, where channels change, conv_shortcut. An
attention has group_norm and query, key, value, proj_attn or, in newer files, to_q, to_k, to_v,
to_out.0. The architecture is read off names and shapes; only the number of groups does not show.

The weights of `google/ddpm-cifar10-32` (35,746,307 parameters) are of this kind. They were trained on
the steps 0 ... 999 of the linear-beta process and predict the noise; the module made here is called
with a log SNR, which it turns into the step.
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


def import_ddpm_unet(
    weights: dict[str, np.ndarray], out: str | Path, *, source: str = "", groups: int = 32
) -> PretrainedUNet:
    """Maps a state dict onto the U-Net and saves it, for `checkpoints.networks.load_network`.

    Args:
        weights: name -> array.
        out: the new folder.
        source: where the weights come from, kept beside them.
        groups: of the normalisations.

    Raises:
        ValueError: the state dict is of another network, or `out` exists.
    """
    pretrained = unet_from_state_dict(weights, groups=groups)
    about = {"prediction": "epsilon", "condition": "log SNR", "source": source}
    save_network(out, pretrained.module, pretrained.params, about)
    return pretrained


def unet_from_state_dict(weights: dict[str, np.ndarray], *, groups: int = 32) -> PretrainedUNet:
    """Maps a state dict onto the U-Net.

    Args:
        weights: name -> array.
        groups: of the normalisations.

    Raises:
        ValueError: the state dict is of another network.
    """
    reader = _Reader(weights)
    width = len(reader.peek("conv_in.bias"))
    n_levels = reader.count("down_blocks")
    blocks = [reader.count(f"down_blocks.{level}.resnets") for level in range(n_levels)]
    if n_levels == 0 or len(set(blocks)) > 1:
        raise ValueError(
            f"the weights have {blocks} residual blocks per level, not the same number"
        )
    levels = range(n_levels)
    channels = [len(reader.peek(f"down_blocks.{i}.resnets.0.conv1.bias")) for i in levels]
    if any(c % width for c in channels):
        raise ValueError(f"the levels have {channels} channels, no multiples of {width}")
    attention = tuple(i for i in levels if reader.count(f"down_blocks.{i}.attentions"))
    module = UNet(
        out_channels=len(reader.peek("conv_out.bias")),
        width=width,
        multipliers=tuple(c // width for c in channels),
        blocks_per_level=blocks[0],
        attention_levels=attention,
        groups=groups,
        log_snr_as_step=True,
    )
    params = _mapped(reader, n_levels, blocks[0], attention)
    if reader.left:
        names = ", ".join(sorted(reader.left)[:4])
        raise ValueError(f"the weights hold {names}, which nothing takes")
    in_channels = params["conv_in"]["kernel"].shape[2]
    return PretrainedUNet(module, {"params": _checked(module, params, in_channels)})


class _Reader:
    """Takes each array once, in Flax's layout."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.left = dict(weights)

    def peek(self, name: str) -> np.ndarray:
        if name not in self.left:
            raise ValueError(f"these are no weights of DDPM's U-Net: they lack {name}")
        return self.left[name]

    def take(self, name: str) -> np.ndarray:
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
        return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

    def conv(self, name: str) -> dict[str, np.ndarray]:
        kernel = self.take(f"{name}.weight")
        if kernel.ndim != 4:
            raise ValueError(f"{name}.weight has shape {list(kernel.shape)}, expected four axes")
        # (out, in, height, width) to (height, width, in, out).
        return {"kernel": kernel.transpose(2, 3, 1, 0), "bias": self.take(f"{name}.bias")}

    def dense(self, *names: str) -> dict[str, np.ndarray]:
        """One dense layer, or several side by side; 1 x 1 convolutions are dense layers."""
        kernels, biases = [], []
        for name in names:
            kernel = self.take(f"{name}.weight")
            if kernel.ndim not in (2, 4) or kernel.shape[2:] not in ((), (1, 1)):
                raise ValueError(f"{name}.weight has shape {list(kernel.shape)}, not a dense one")
            kernels.append(kernel.reshape(kernel.shape[:2]).T)
            biases.append(self.take(f"{name}.bias"))
        return {"kernel": np.concatenate(kernels, axis=1), "bias": np.concatenate(biases)}

    def block(self, name: str) -> dict[str, Any]:
        block = {
            "norm_1": self.norm(f"{name}.norm1"),
            "conv_1": self.conv(f"{name}.conv1"),
            "time": self.dense(f"{name}.time_emb_proj"),
            "norm_2": self.norm(f"{name}.norm2"),
            "conv_2": self.conv(f"{name}.conv2"),
        }
        if f"{name}.conv_shortcut.weight" in self.left:
            block["shortcut"] = self.dense(f"{name}.conv_shortcut")
        return block

    def attention(self, name: str) -> dict[str, Any]:
        newer = f"{name}.to_q.weight" in self.left
        *inputs, output = (
            ("to_q", "to_k", "to_v", "to_out.0")
            if newer
            else ("query", "key", "value", "proj_attn")
        )
        return {
            "norm": self.norm(f"{name}.group_norm"),
            "qkv": self.dense(*(f"{name}.{part}" for part in inputs)),
            "out": self.dense(f"{name}.{output}"),
        }


def _mapped(
    reader: _Reader, n_levels: int, n_blocks: int, attention: tuple[int, ...]
) -> dict[str, Any]:
    params = {
        "conv_in": reader.conv("conv_in"),
        "time_1": reader.dense("time_embedding.linear_1"),
        "time_2": reader.dense("time_embedding.linear_2"),
        "middle_block_0": reader.block("mid_block.resnets.0"),
        "middle_attention": reader.attention("mid_block.attentions.0"),
        "middle_block_1": reader.block("mid_block.resnets.1"),
        "norm_out": reader.norm("conv_norm_out"),
        "conv_out": reader.conv("conv_out"),
    }
    for level in range(n_levels):
        ways = (
            ("down", f"down_blocks.{level}", n_blocks, level < n_levels - 1, "downsamplers"),
            ("up", f"up_blocks.{n_levels - 1 - level}", n_blocks + 1, level > 0, "upsamplers"),
        )
        for way, theirs, count, resizes, resizer in ways:
            for i in range(count):
                params[f"{way}_{level}_block_{i}"] = reader.block(f"{theirs}.resnets.{i}")
                if level in attention:
                    ours = f"{way}_{level}_attention_{i}"
                    params[ours] = reader.attention(f"{theirs}.attentions.{i}")
            if resizes:
                params[f"{way}_{level}_resize"] = reader.conv(f"{theirs}.{resizer}.0.conv")
    return params


def _checked(module: UNet, params: dict[str, Any], in_channels: int) -> dict[str, Any]:
    """The parameters, if they are those that the module would make."""
    side = 2 ** (len(module.multipliers) - 1)
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
