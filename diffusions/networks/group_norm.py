"""Group normalisation whose sums run over the pixels of each channel first.

    y = (x - mean) / sqrt(variance + epsilon) scale + bias                                           (1)

with the mean and variance of all pixels and channels of a group (Wu and He, 2018), variance = E x^2 -
mean^2. Groups have few channels, often two: sums and products over (pixels, groups, channels of a
group) leave a processor's vectors nearly empty. So (1) sums over pixels for each channel, joins the
groups in these few sums, and goes over the images with one mean and one factor per channel.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusions.typing import Array, Float


class GroupNorm(nn.Module):
    """Equation (1), with the parameters of `flax.linen.GroupNorm`.

    Attributes:
        num_groups: a divisor of the channels.
        epsilon: of equation (1).
        dtype: of the result; statistics are taken in at least single precision.
    """

    num_groups: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Args: images.

        Raises:
            ValueError: the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.num_groups:
            raise ValueError(f"{self.num_groups} groups do not divide {channels} channels")
        scale = self.param("scale", nn.initializers.ones_init(), (channels,))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self._of_groups(x.mean(axis=(1, 2)))
        square = self._of_groups((x**2).mean(axis=(1, 2)))
        # Rounding may leave the difference of a constant image below zero.
        variance = jnp.maximum(square - mean**2, 0.0)
        factor = jax.lax.rsqrt(variance + self.epsilon) * scale
        y = (x - mean[:, None, None]) * factor[:, None, None] + bias
        return y.astype(self.dtype)

    def _of_groups(self, means: Float[Array, "batch channels"]) -> Float[Array, "batch channels"]:
        """The mean of every channel's group."""
        grouped = means.reshape(means.shape[0], self.num_groups, -1).mean(axis=-1)
        return jnp.repeat(grouped, means.shape[-1] // self.num_groups, axis=-1)
