"""The U-Net of Ho, Jain and Abbeel (2020), conditioned on a scalar and, if asked, on a class.

With `style="improved"` it is that of Nichol and Dhariwal (2021).

With c_l = width multiplier_l channels at level l, whose images are 2^l times smaller, and B blocks per
level:

    e = W_2 silu(W_1 sinusoids(t) + b_1) + b_2 [+ class embedding]                                   (1)
    block(x) = S x + conv(dropout(silu(norm(conv(silu(norm(x))) + W silu(e) + b))))                  (2)
    block(x) = S x + conv(dropout(silu((1 + s) norm(conv(silu(norm(x)))) + b))),                    (2')
               (s, b) = W silu(e) + b_0                                                    "improved"
    attention(x) = x + W_o softmax(q k^T / sqrt(c)) v,   (q, k, v) = W_qkv norm(x)                   (3)

    in:      3 x 3 convolution to c_0 channels
    down:    at l = 0, 1, ...: B of (2), each followed by (3) at the levels with attention; then, except
             at the last level, a 3 x 3 convolution of stride 2
    middle:  (2), (3), (2)
    up:      at l = ..., 1, 0: B + 1 of (2), each on its input and one output of the way down, newest
             first, each followed by (3) at the levels with attention; then, except at l = 0, every
             pixel doubled and a 3 x 3 convolution
    out:     conv(silu(norm(x)))

(3) has H heads, each of c = c_l / H channels, side by side. Besides (2'), "improved" pads what it makes
smaller on all sides, where the older network pads below and on the right, has (1') of `embeddings` for
sinusoids and another epsilon in its norms.

S is the identity, or a 1 x 1 convolution where the number of channels changes. The way down leaves an
output after the first convolution, after every block and after every change of size: L (B + 1) for L
levels. The last convolutions of (2), of (3) and of the whole start at zero, so that a new network
predicts zero and its blocks are S.

Parameters do not depend on the size of the images: attention is placed by level, and one network can be
trained at several sizes. Level 1 is the 16 x 16 of a 32 x 32 image.
"""

import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusions.checks import Bounds, Count, Decay, Layers, Natural, Positive
from diffusions.networks.convolutions import convolution, convolution_of_doubled, doubled
from diffusions.networks.embeddings import sinusoidal_embedding, step_of_log_snr
from diffusions.networks.group_norm import GroupNorm
from diffusions.networks.presets import NoiseSteps, Style
from diffusions.processes import LinearBetaDDPM, cosine_betas
from diffusions.typing import Array, Float, HostArray, Int

NO_CLASS = -1
"""Label of an image whose class is not told, as classifier-free guidance needs it."""

_NORM_EPSILON: dict[Style, float] = {"ddpm": 1e-6, "improved": 1e-5}
_BETAS: dict[NoiseSteps, HostArray] = {
    "linear-1000": LinearBetaDDPM().betas(),
    "cosine-4000": cosine_betas(4000),
}
_TOLD_STEPS = 1000
"""However many steps a network was trained on, it is told them as if they were so many."""
_kernel_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def _conv(
    channels: int,
    name: str,
    *,
    zero: bool = False,
    stride: int = 1,
    padding: str | int = "SAME",
    of_doubled: bool = False,
    dtype: Any,
) -> nn.Conv:
    return nn.Conv(
        channels,
        (3, 3),
        strides=stride,
        padding=padding,
        kernel_init=nn.initializers.zeros_init() if zero else _kernel_init,
        dtype=dtype,
        name=name,
        conv_general_dilated=_convolution_of_doubled if of_doubled else _convolution,
    )


def _convolution(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """XLA's, on a CPU with derivatives that are fast inside loops."""

    def others(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def on_cpu(x: Array, kernel: Array) -> Array:
        pads = padding
        if isinstance(padding, str):
            pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        # Older releases of JAX give integers of NumPy.
        above, beside = ((int(a), int(b)) for a, b in pads)
        return convolution(x, kernel, tuple(strides), (above, beside))

    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=others)


def _convolution_of_doubled(
    x: Array, kernel: Array, strides: Any, padding: Any, **options: Any
) -> Array:
    """That of images whose pixels are doubled first, on a CPU without doubling them."""

    def others(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(doubled(x), kernel, strides, padding, **options)

    return jax.lax.platform_dependent(x, kernel, cpu=convolution_of_doubled, default=others)


def _norm(x: Array, groups: int, name: str, dtype: Any, style: Style) -> Array:
    # Statistics are taken in float32 whatever `dtype` is.
    n_groups = math.gcd(groups, x.shape[-1])
    return GroupNorm(n_groups, epsilon=_NORM_EPSILON[style], dtype=dtype, name=name)(x)


class ResidualBlock(nn.Module):
    """Equation (2), or (2') in the improved style."""

    channels: int
    groups: int = 32
    dropout: float = 0.0
    dtype: Any = jnp.float32
    style: Style = "ddpm"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels_in"],
        embedding: Float[Array, "batch features"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Args: images, the embedding e of equation (1), whether dropout is off."""
        scales = self.style == "improved"
        h = nn.silu(_norm(x, self.groups, "norm_1", self.dtype, self.style))
        h = _conv(self.channels, "conv_1", dtype=self.dtype)(h)
        told = nn.Dense(
            self.channels * (1 + scales), kernel_init=_kernel_init, dtype=self.dtype, name="time"
        )(nn.silu(embedding))[:, None, None, :]
        if scales:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = (1 + scale) * _norm(h, self.groups, "norm_2", self.dtype, self.style) + shift
        else:
            h = _norm(h + told, self.groups, "norm_2", self.dtype, self.style)
        h = nn.silu(h)
        h = nn.Dropout(self.dropout, deterministic=deterministic)(h)
        h = _conv(self.channels, "conv_2", zero=True, dtype=self.dtype)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(
                self.channels, kernel_init=_kernel_init, dtype=self.dtype, name="shortcut"
            )(x)
        return x + h


class SelfAttention(nn.Module):
    """Equation (3) over all pixels."""

    groups: int = 32
    dtype: Any = jnp.float32
    heads: int = 1
    style: Style = "ddpm"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Args: images."""
        batch, height, width, channels = x.shape
        if channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {channels} channels")
        h = _norm(x, self.groups, "norm", self.dtype, self.style)
        # One product instead of three. fan_in is the variance that three separate ones would have.
        qkv = nn.Dense(
            3 * channels,
            kernel_init=nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
            dtype=self.dtype,
            name="qkv",
        )(h)
        # A head is another image.
        query, key, value = (
            part.reshape(batch, height * width, self.heads, -1)
            .swapaxes(1, 2)
            .reshape(batch * self.heads, height * width, -1)
            for part in jnp.split(qkv, 3, axis=-1)
        )
        # The softmax in at least single precision: bfloat16 has no digits for many small weights.
        at_least_single = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum("bqc,bkc->bqk", query, key, preferred_element_type=at_least_single)
        largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
        weights = jnp.exp((logits - largest) * (channels // self.heads) ** -0.5).astype(self.dtype)
        # Divided by their sum after the product, which has fewer entries.
        h = jnp.einsum("bqk,bkc->bqc", weights, value, preferred_element_type=at_least_single)
        h = (h / weights.sum(axis=-1, keepdims=True, dtype=at_least_single)).astype(self.dtype)
        h = h.reshape(batch, self.heads, height * width, -1).swapaxes(1, 2).reshape(x.shape)
        out = nn.Dense(
            channels, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name="out"
        )
        return x + out(h)


class UNet(nn.Module):
    """The network of the module header; see `diffusions.networks.presets` for configurations.

    Attributes:
        out_channels: of the prediction.
        width: channels at level 0; a multiple of 4.
        multipliers: of the width, one per level.
        blocks_per_level: B.
        attention_levels: levels with attention besides the middle.
        dropout: rate within the blocks.
        groups: of the normalisation; their greatest common divisor with the channels where they do not
            divide them.
        n_classes: 0 without classes.
        time_scale: of the sinusoids, in radians per unit of t: 1 for the steps of DDPM, 1000 for a time
            in [0, 1], 50 for a log SNR.
        log_snr_as_step: t is a log SNR, but the network was trained on steps: it is given the step that
            has this log SNR.
        dtype: of the arithmetic; parameters and the prediction stay float32. GPUs like bfloat16.
        style: `ddpm`, or `improved` for that of Nichol and Dhariwal.
        heads: H of the attention; a divisor of the channels where there is any.
        noise_steps: of the training, for `log_snr_as_step`: the 1000 of DDPM, with linear betas, or
            the 4000 of improved DDPM, of a cosine, which it is told in quarters.
    """

    out_channels: Count = 3
    width: Count = 128
    multipliers: Annotated[tuple[Count, ...], Bounds(1, 16)] = (1, 2, 2, 2)
    blocks_per_level: Layers = 2
    attention_levels: tuple[Natural, ...] = (1,)
    dropout: Decay = 0.0
    groups: Count = 32
    n_classes: Natural = 0
    time_scale: Positive = 1.0
    log_snr_as_step: bool = False
    dtype: Any = jnp.float32
    style: Style = "ddpm"
    heads: Count = 1
    noise_steps: NoiseSteps = "linear-1000"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "batch height width channels"],
        t: Float[Array, "batch"] | Float[Array, ""],
        labels: Int[Array, "batch"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch height width {self.out_channels}"]:
        """Predicts from noised images.

        Args:
            z: noised images, and whatever else the network sees as further channels.
            t: the scalar condition, one for all images or one each.
            labels: classes; `NO_CLASS`, or None for all, where they are not told.
            deterministic: switches dropout off; otherwise `rngs={"dropout": key}` is needed.

        Raises:
            ValueError: a side of the images is no multiple of 2^(levels - 1), or labels are given to a
                network without classes.
        """
        n_levels = len(self.multipliers)
        if any(side % 2 ** (n_levels - 1) for side in z.shape[1:3]):
            raise ValueError(
                f"a U-Net of {n_levels} levels needs images whose sides are multiples of "
                f"{2 ** (n_levels - 1)}, got {z.shape[1]} x {z.shape[2]}"
            )
        embedding = self._embedding(jnp.broadcast_to(t, z.shape[:1]), labels)

        def block(x: Array, level: int, name: str) -> Array:
            channels = self.width * self.multipliers[level]
            make = ResidualBlock(
                channels, self.groups, self.dropout, self.dtype, self.style, name=name
            )
            return make(x, embedding, deterministic=deterministic)

        def attention(x: Array, name: str) -> Array:
            return SelfAttention(self.groups, self.dtype, self.heads, self.style, name=name)(x)

        def halved(x: Array, level: int) -> Array:
            # "SAME" with stride 2 pads below and on the right only.
            padding = 1 if self.style == "improved" else "SAME"
            name = f"down_{level}_resize"
            return _conv(x.shape[-1], name, stride=2, padding=padding, dtype=self.dtype)(x)

        x = _conv(self.width, "conv_in", dtype=self.dtype)(z.astype(self.dtype))
        outputs = [x]
        for level in range(n_levels):
            for i in range(self.blocks_per_level):
                x = block(x, level, f"down_{level}_block_{i}")
                if level in self.attention_levels:
                    x = attention(x, f"down_{level}_attention_{i}")
                outputs.append(x)
            if level < n_levels - 1:
                x = halved(x, level)
                outputs.append(x)

        x = block(x, n_levels - 1, "middle_block_0")
        x = attention(x, "middle_attention")
        x = block(x, n_levels - 1, "middle_block_1")

        for level in reversed(range(n_levels)):
            for i in range(self.blocks_per_level + 1):
                x = jnp.concatenate([x, outputs.pop()], axis=-1)
                x = block(x, level, f"up_{level}_block_{i}")
                if level in self.attention_levels:
                    x = attention(x, f"up_{level}_attention_{i}")
            if level > 0:
                x = _conv(x.shape[-1], f"up_{level}_resize", of_doubled=True, dtype=self.dtype)(x)

        x = nn.silu(_norm(x, self.groups, "norm_out", self.dtype, self.style))
        x = _conv(self.out_channels, "conv_out", zero=True, dtype=self.dtype)(x)
        return x.astype(jnp.promote_types(self.dtype, jnp.float32))

    def _embedding(self, t: Array, labels: Array | None) -> Array:
        """Equation (1)."""
        dim = 4 * self.width
        if self.log_snr_as_step:
            betas = _BETAS[self.noise_steps]
            t = step_of_log_snr(t, betas) * (_TOLD_STEPS / len(betas))
        e = sinusoidal_embedding(
            t, self.width, scale=self.time_scale, endpoint=self.style != "improved"
        )
        e = nn.Dense(dim, kernel_init=_kernel_init, dtype=self.dtype, name="time_1")(e)
        e = nn.Dense(dim, kernel_init=_kernel_init, dtype=self.dtype, name="time_2")(nn.silu(e))
        if self.n_classes == 0:
            if labels is not None:
                raise ValueError("labels are given, but the network has n_classes=0")
            return e
        if labels is None:
            labels = jnp.full(t.shape, NO_CLASS)
        # The last row is that of NO_CLASS.
        rows = nn.Embed(self.n_classes + 1, dim, dtype=self.dtype, name="classes")
        return e + rows(jnp.where(labels < 0, self.n_classes, labels))
