"""Isotropic Gaussians and their mixtures, as vectors or as square images of one channel.

    k ~ weights,   x = mean_k 1 + std_k xi,   xi ~ N(0, I_d)                                        (1)

One component makes a whole point: its coordinates are independent given k only.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class IsotropicMixture:
    """A mixture of isotropic Gaussians on the diagonal, equation (1).

    Attributes:
        means: of each component's coordinates.
        stds: standard deviations, as many.
        weights: of the components, in any proportion, kept as probabilities; absent, equal.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self):
        weights = self.weights or (1.0,) * len(self.means)
        if not self.means or not len(self.means) == len(self.stds) == len(weights):
            raise ValueError(
                "a mixture needs as many means as standard deviations and weights, got "
                f"{len(self.means)}, {len(self.stds)} and {len(weights)}"
            )
        if not all(math.isfinite(mean) for mean in self.means):
            raise ValueError(f"means must be finite, got {self.means}")
        if not all(math.isfinite(std) and std > 0 for std in self.stds):
            raise ValueError(f"standard deviations must be positive, got {self.stds}")
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights) > 0:
            raise ValueError(f"weights must not be negative, nor all zero, got {weights}")
        object.__setattr__(self, "weights", tuple(w / sum(weights) for w in weights))

    @property
    def kernel_std(self) -> float:
        """Mean standard deviation of a component: the scale of a kernel that resolves them."""
        return float(np.dot(self.weights, self.stds))

    @property
    def mean(self) -> float:
        """Of a coordinate."""
        return float(np.dot(self.weights, self.means))

    @property
    def std(self) -> float:
        """Standard deviation of a coordinate."""
        squares = np.asarray(self.stds) ** 2 + (np.asarray(self.means) - self.mean) ** 2
        return math.sqrt(float(np.dot(self.weights, squares)))

    def density(self, values: np.ndarray) -> np.ndarray:
        """Density of one coordinate.

        Args:
            values: of any shape.
        """
        means, stds = np.asarray(self.means), np.asarray(self.stds)
        exponents = -0.5 * ((np.asarray(values)[..., None] - means) / stds) ** 2
        return np.exp(exponents) / (stds * math.sqrt(2.0 * math.pi)) @ np.asarray(self.weights)

    @checked
    def draw(self, key: Key, n: int, dimension: int) -> Float[Array, "n d"]:
        """Independent points.

        Args:
            key: of the draw.
            n: number of points.
            dimension: d.
        """
        component_key, noise_key = jax.random.split(key)
        means = jnp.asarray(self.means, jnp.float32)
        stds = jnp.asarray(self.stds, jnp.float32)
        log_weights = jnp.log(jnp.asarray(self.weights, jnp.float32))
        k = jax.random.categorical(component_key, log_weights, shape=(n,))
        noise = jax.random.normal(noise_key, (n, dimension), jnp.float32)
        return means[k, None] + stds[k, None] * noise

    @checked
    def draw_images(self, key: Key, n: int, n_pixels: int) -> Float[Array, "n h w c"]:
        """Independent images of n_pixels x n_pixels, with one channel."""
        return self.draw(key, n, n_pixels**2).reshape(n, n_pixels, n_pixels, 1)
