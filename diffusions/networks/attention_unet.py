"""A small U-Net with self-attention at its two lowest resolutions, for images of a few pixels.

The network of Halder, "A solvable generative model with a linear, one-step denoiser", 2025
(arXiv 2411.17807). With channels c_0 .. c_3 at full, half, quarter and eighth resolution,

    double(x) = norm(conv(gelu(norm(conv(x)))))                      3 x 3 convolutions without bias (1)
    residual(x) = gelu(x + double(x))                                                               (2)
    attend(x) = y + W_2 gelu(W_1 norm(y)),   y = x + attention(norm(x))                             (3)
    down(x, t) = double(residual(max_pool(x))) + e(t)                                               (4)
    up(x, skip, t) = double(residual([skip, bilinear(x)])) + e(t)                                   (5)

    x_0 = double(input);  x_1 = down(x_0);  x_2 = attend(down(x_1));  x_3 = attend(down(x_2))
    y = attend(up(x_3, x_2));  y = up(y, x_1);  y = up(y, x_0);  output = conv_1x1(y)               (6)

to c_1, c_2 and c_3 channels on the way down and c_1, c_0 and c_0 on the way up. e(t) are sinusoids of
the step t, one per channel; norm has one group: all channels and pixels of an image together. Many of
these networks are trained side by side, one per repetition of an experiment.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusions.networks.convolutions import shifted_product
from diffusions.networks.embeddings import sinusoidal_embedding
from diffusions.typing import Array, Float

PUBLISHED_CHANNELS = (64, 128, 256, 256)


class Convolution(nn.Module):
    """A 3 x 3 convolution without bias."""

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels_in"]
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Args: images of any size."""
        inputs = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.he_uniform(), (9 * inputs, self.channels))
        shaped = kernel.reshape(3, 3, inputs, self.channels)
        return shifted_product(x, shaped, (1, 1), ((1, 1), (1, 1)))


def _norm(x: Array) -> Array:
    return nn.GroupNorm(1)(x)


class DoubleConvolution(nn.Module):
    """Equation (1), or (2) if residual."""

    channels: int
    residual: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels_in"]
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Args: images of any size; with self.channels channels if residual."""
        h = nn.gelu(_norm(Convolution(self.channels)(x)))
        h = _norm(Convolution(self.channels)(h))
        return nn.gelu(x + h) if self.residual else h


class Attention(nn.Module):
    """Equation (4), over the pixels of an image."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Args: images of any size."""
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        normed = nn.LayerNorm()(tokens)
        tokens = tokens + nn.MultiHeadDotProductAttention(num_heads=self.heads)(normed)
        hidden = nn.gelu(nn.Dense(channels)(nn.LayerNorm()(tokens)))
        tokens = tokens + nn.Dense(channels)(hidden)
        return tokens.reshape(x.shape)


class ScaleChange(nn.Module):
    """What follows a change of scale in equations (4) and (5)."""

    channels: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels_in"], t: Float[Array, "batch"]
    ) -> Float[Array, "batch height width {self.channels}"]:
        """Args: images, and the steps of the process."""
        h = DoubleConvolution(x.shape[-1], residual=True)(x)
        h = DoubleConvolution(self.channels)(h)
        return h + sinusoidal_embedding(t, self.channels)[:, None, None]


class AttentionUNet(nn.Module):
    """Equation (6).

    Attributes:
        channels: c_0 .. c_3, even and at least 4.
        heads: of the attention; they divide c_1, c_2 and c_3.
    """

    channels: tuple[int, ...] = PUBLISHED_CHANNELS
    heads: int = 4

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width c"], t: Float[Array, "batch"]
    ) -> Float[Array, "batch height width c"]:
        """Args: images whose sides are multiples of 8, and the steps of the process.

        Raises:
            ValueError: a side is no multiple of 8.
        """
        if x.shape[1] % 8 or x.shape[2] % 8:
            raise ValueError(
                f"the sides of an image must be multiples of 8, got {x.shape[1]} x {x.shape[2]}"
            )
        c0, c1, c2, c3 = self.channels

        def down(h: Array, channels: int) -> Array:
            return ScaleChange(channels)(nn.max_pool(h, (2, 2), (2, 2)), t)

        def up(h: Array, skip: Array, channels: int) -> Array:
            enlarged = jax.image.resize(h, (*skip.shape[:3], h.shape[-1]), "bilinear")
            return ScaleChange(channels)(jnp.concatenate([skip, enlarged], axis=-1), t)

        x0 = DoubleConvolution(c0)(x)
        x1 = down(x0, c1)
        x2 = Attention(self.heads)(down(x1, c2))
        x3 = Attention(self.heads)(down(x2, c3))
        h = Attention(self.heads)(up(x3, x2, c1))
        h = up(h, x1, c0)
        h = up(h, x0, c0)
        return nn.Dense(x.shape[-1])(h)
