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

from typing import Any

import numpy as np

from checkpoints.torch.unet_weights import PretrainedUNet, UNetReader
from diffusions.networks.unet import UNet


def unet_from_state_dict(weights: dict[str, np.ndarray], *, groups: int = 32) -> PretrainedUNet:
    """Maps a state dict onto the U-Net.

    Args:
        weights: name -> array.
        groups: of the normalisations.

    Raises:
        ValueError: the state dict is of another network.
    """
    reader = UNetReader(weights, "DDPM's U-Net")
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
    return reader.unet(module, _mapped(reader, n_levels, blocks[0], attention))


def _mapped(
    reader: UNetReader, n_levels: int, n_blocks: int, attention: tuple[int, ...]
) -> dict[str, Any]:
    params = {
        "conv_in": reader.conv("conv_in"),
        "time_1": reader.dense("time_embedding.linear_1"),
        "time_2": reader.dense("time_embedding.linear_2"),
        "middle_block_0": _block(reader, "mid_block.resnets.0"),
        "middle_attention": _attention(reader, "mid_block.attentions.0"),
        "middle_block_1": _block(reader, "mid_block.resnets.1"),
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
                params[f"{way}_{level}_block_{i}"] = _block(reader, f"{theirs}.resnets.{i}")
                if level in attention:
                    ours = f"{way}_{level}_attention_{i}"
                    params[ours] = _attention(reader, f"{theirs}.attentions.{i}")
            if resizes:
                params[f"{way}_{level}_resize"] = reader.conv(f"{theirs}.{resizer}.0.conv")
    return params


def _block(reader: UNetReader, name: str) -> dict[str, Any]:
    return reader.block(
        norm_1=f"{name}.norm1",
        conv_1=f"{name}.conv1",
        time=f"{name}.time_emb_proj",
        norm_2=f"{name}.norm2",
        conv_2=f"{name}.conv2",
        shortcut=f"{name}.conv_shortcut",
    )


def _attention(reader: UNetReader, name: str) -> dict[str, Any]:
    newer = f"{name}.to_q.weight" in reader.left
    *inputs, output = (
        ("to_q", "to_k", "to_v", "to_out.0") if newer else ("query", "key", "value", "proj_attn")
    )
    return {
        "norm": reader.norm(f"{name}.group_norm"),
        "qkv": reader.dense(*(f"{name}.{part}" for part in inputs)),
        "out": reader.dense(f"{name}.{output}"),
    }
