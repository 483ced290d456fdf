"""A multilayer perceptron that denoises points of a few dimensions.

Every coordinate of z and the log SNR a are embedded in sinusoids, which resolve fine structure that a
plain network would smooth over:

    h_0 = [e(z_1), .., e(z_d), e(a)],   h_1 = act(W_0 h_0 + b_0),
    h_{l+1} = h_l + act(W_l h_l + b_l),   eps_hat = W h_L + b.
"""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusions.checks import Bounds, Count, Positive
from diffusions.networks.embeddings import sinusoidal_embedding
from diffusions.precision import dense
from diffusions.typing import Array, Float

ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "silu": jax.nn.silu}


class DenoisingMLP(nn.Module):
    """The network.

    Attributes:
        width: of the hidden layers.
        n_layers: residual layers after the first.
        embedding: length of each sinusoidal embedding.
        coordinate_scale: radians per unit of a coordinate, at the finest sinusoid.
        log_snr_scale: likewise of the log SNR.
        activation: relu, gelu or silu.
    """

    width: Count = 128
    n_layers: Annotated[int, Bounds(0, 1000)] = 3
    embedding: Count = 128
    coordinate_scale: Positive = 100.0
    log_snr_scale: Positive = 50.0
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch d"], a: Float[Array, "batch"]
    ) -> Float[Array, "batch d"]:
        """eps_hat(z, a)."""
        act = ACTIVATIONS[self.activation]
        coordinates = sinusoidal_embedding(z, self.embedding, scale=self.coordinate_scale)
        level = sinusoidal_embedding(a, self.embedding, scale=self.log_snr_scale)
        flat = coordinates.reshape(z.shape[0], -1)
        hidden = act(dense(self.width)(jnp.concatenate([flat, level], axis=-1)))
        for _ in range(self.n_layers):
            hidden = hidden + act(dense(self.width)(hidden))
        return dense(z.shape[-1])(hidden)
