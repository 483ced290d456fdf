"""Published weights of improved DDPM (Nichol and Dhariwal 2021), in their own names, as our U-Net.

    time_embed.0, .2, input_blocks.0.0, out.0, out.2
    input_blocks.i.0, .1                  a block, and an attention at some levels; or .0.op, smaller
    middle_block.0, .1, .2
    output_blocks.j.0, .1, ...            a block, an attention at some levels; last of a level .conv,
                                          larger

A block has in_layers.0, in_layers.2, emb_layers.1, out_layers.0, out_layers.3 and, where channels
change, skip_connection; an attention has norm, qkv and proj_out. Three things differ in layout: theirs
has cosines before sines; queries, keys and values stand side by side within each head; and where the
variance of a step is learned, it is the second half of the output's channels, for which a density by
the error of the noise has no use: it is left out.

The weights `cifar10_uncond_50M_500K.pt` (52,546,438 parameters) are of this kind: four heads, 4000
steps of a cosine. Neither shows in names and shapes.
"""

from typing import Any

import numpy as np

from checkpoints.torch.unet_weights import PretrainedUNet, UNetReader
from diffusions.networks.presets import NoiseSteps
from diffusions.networks.unet import UNet


def improved_unet_from_state_dict(
    weights: dict[str, np.ndarray],
    *,
    heads: int = 4,
    noise_steps: NoiseSteps = "cosine-4000",
    groups: int = 32,
) -> PretrainedUNet:
    """Maps a state dict onto the U-Net.

    Args:
        weights: name -> array.
        heads: of every attention.
        noise_steps: of the training.
        groups: of the normalisations.

    Raises:
        ValueError: the state dict is of another network.
    """
    reader = UNetReader(weights, "improved DDPM's U-Net")
    n_inputs, n_outputs = reader.count("input_blocks"), reader.count("output_blocks")
    first = reader.peek("input_blocks.0.0.weight")
    if first.ndim != 4:
        raise ValueError(
            f"input_blocks.0.0.weight has shape {list(first.shape)}, expected four axes"
        )
    width, in_channels = first.shape[:2]
    resizes = [f"input_blocks.{i}.0.op.weight" in reader.left for i in range(n_inputs)]
    # The first entry is no block: it takes the place of a resize before level 0.
    starts = [0, *(i for i, resize in enumerate(resizes) if resize), n_inputs]
    blocks = [end - begin - 1 for begin, end in zip(starts, starts[1:], strict=False)]
    if len(set(blocks)) > 1 or n_outputs != sum(blocks) + len(blocks):
        raise ValueError(
            f"the weights have {blocks} residual blocks per level on the way down and {n_outputs} on "
            "the way up, not the same number and one more"
        )
    channels = [
        len(reader.peek(f"input_blocks.{begin + 1}.0.out_layers.3.bias")) for begin in starts[:-1]
    ]
    if any(c % width for c in channels):
        raise ValueError(f"the levels have {channels} channels, no multiples of {width}")
    told = len(reader.peek("input_blocks.1.0.emb_layers.1.bias"))
    if told != 2 * channels[0]:
        raise ValueError(
            f"the blocks are told {told} numbers for {channels[0]} channels: they were made without "
            "scale and shift (use_scale_shift_norm)"
        )
    levels = range(len(blocks))
    attention = tuple(
        level for level in levels if f"input_blocks.{starts[level] + 1}.1.qkv.weight" in reader.left
    )
    for level in attention:
        if channels[level] % heads:
            raise ValueError(f"{heads} heads do not divide {channels[level]} channels")
    module = UNet(
        out_channels=in_channels,
        width=width,
        multipliers=tuple(c // width for c in channels),
        blocks_per_level=blocks[0],
        attention_levels=attention,
        groups=groups,
        log_snr_as_step=True,
        style="improved",
        heads=heads,
        noise_steps=noise_steps,
    )
    params = {
        "conv_in": reader.conv("input_blocks.0.0"),
        "time_1": _sines_first(reader.dense("time_embed.0")),
        "time_2": reader.dense("time_embed.2"),
        "middle_block_0": _block(reader, "middle_block.0"),
        "middle_attention": _attention(reader, "middle_block.1", heads),
        "middle_block_1": _block(reader, "middle_block.2"),
        "norm_out": reader.norm("out.0"),
        "conv_out": _noise(reader.conv("out.2"), in_channels),
    }
    output = iter(range(n_outputs))
    for level in reversed(levels):
        for i in range(blocks[level]):
            theirs = f"input_blocks.{starts[level] + 1 + i}"
            params |= _place(reader, theirs, f"down_{level}", i, level in attention, heads)
        for i in range(blocks[level] + 1):
            theirs = f"output_blocks.{next(output)}"
            params |= _place(reader, theirs, f"up_{level}", i, level in attention, heads)
        if level > 0:
            params[f"down_{level - 1}_resize"] = reader.conv(f"input_blocks.{starts[level]}.0.op")
            params[f"up_{level}_resize"] = reader.conv(f"{theirs}.{1 + (level in attention)}.conv")
    return reader.unet(module, params)


def _place(
    reader: UNetReader, theirs: str, way: str, i: int, attended: bool, heads: int
) -> dict[str, Any]:
    """A block and what attends to it."""
    found = {f"{way}_block_{i}": _block(reader, f"{theirs}.0")}
    if attended:
        found[f"{way}_attention_{i}"] = _attention(reader, f"{theirs}.1", heads)
    return found


def _block(reader: UNetReader, name: str) -> dict[str, Any]:
    return reader.block(
        norm_1=f"{name}.in_layers.0",
        conv_1=f"{name}.in_layers.2",
        time=f"{name}.emb_layers.1",
        norm_2=f"{name}.out_layers.0",
        conv_2=f"{name}.out_layers.3",
        shortcut=f"{name}.skip_connection",
    )


def _attention(reader: UNetReader, name: str, heads: int) -> dict[str, Any]:
    qkv = reader.dense(f"{name}.qkv")
    return {
        "norm": reader.norm(f"{name}.norm"),
        "qkv": {part: _heads_inside(array, heads) for part, array in qkv.items()},
        "out": reader.dense(f"{name}.proj_out"),
    }


def _heads_inside(array: np.ndarray, heads: int) -> np.ndarray:
    """The last axis (head, q k v, channel) as (q k v, head, channel)."""
    if array.shape[-1] % (3 * heads):
        raise ValueError(f"{heads} heads do not divide {array.shape[-1]} queries, keys and values")
    apart = array.reshape(*array.shape[:-1], heads, 3, -1)
    return apart.swapaxes(-3, -2).reshape(array.shape)


def _sines_first(dense: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The layer after the sinusoids, for sines before cosines."""
    cosines, sines = np.split(dense["kernel"], 2)
    return {"kernel": np.concatenate([sines, cosines]), "bias": dense["bias"]}


def _noise(conv: dict[str, np.ndarray], channels: int) -> dict[str, np.ndarray]:
    """The convolution of the predicted noise, without that of the variance."""
    found = len(conv["bias"])
    if found not in (channels, 2 * channels):
        raise ValueError(f"the output has {found} channels for images of {channels}")
    return {name: array[..., :channels] for name, array in conv.items()}
