"""The Gaussian that densities by denoising are measured against.

With mean m, covariance C of eigenvalues l_i, s = sigmoid(a) and q = sigmoid(-a) at the log SNR a:

    h = d/2 log(2 pi e) + 1/2 sum_i log l_i                                                         (1)
    mmse(a) = sum_i sigmoid(a + log l_i)                                                            (2)
    eps(z, a) = sqrt(q) (s C + q I)^{-1} (z - sqrt(s) m)                                            (3)

and, for a single x with the coordinates u_i of x - m along the eigenvectors, half the integral of the
error of its clean estimate over the SNR g up to e^a

    1/2 int_0^{e^a} E |x - x_G|^2 dg
        = 1/2 sum_i [log(1 + e^a l_i) + e^a (u_i^2 - l_i) / (1 + e^a l_i)]                          (4)

whose mean over the Gaussian's own law has the logarithms only.
"""

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.density.log_snr import CHANNEL
from diffusions.precision import matmul
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float

BLOCK = 2000
"""Examples whose contribution to a covariance is computed at a time."""


@flax.struct.dataclass
class GaussianReference:
    """A Gaussian, by its mean and covariance."""

    mean: Float[Array, "d"]
    eigenvalues: Float[Array, "d"]
    eigenvectors: Float[Array, "d d"] | None  # columns; None for the coordinate axes

    __repr__ = short_repr

    def entropy(self) -> Float[Array, ""]:
        """Equation (1), in nats."""
        d = self.mean.shape[0]
        return 0.5 * (d * np.log(2 * np.pi * np.e) + jnp.log(self.eigenvalues).sum())

    @checked
    def mmse(self, a: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Equation (2)."""
        return jax.nn.sigmoid(a[..., None] + jnp.log(self.eigenvalues)).sum(axis=-1)

    @checked
    def log_density(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
        """Log density."""
        along = self._along(self._flat(x) - self.mean)
        d = self.mean.shape[0]
        log_norm = d * np.log(2 * np.pi) + jnp.log(self.eigenvalues).sum()
        return -0.5 * ((along**2 / self.eigenvalues).sum(axis=-1) + log_norm)

    @checked
    def clean_error_below(
        self, x: Float[Array, "batch ..."], a: Float[Array, ""]
    ) -> Float[Array, "batch"]:
        """Equation (4)."""
        along = self._along(self._flat(x) - self.mean)
        told = jnp.exp(a) * self.eigenvalues
        more = jnp.exp(a) * (along**2 - self.eigenvalues) / (1.0 + told)
        return 0.5 * (jnp.log1p(told) + more).sum(axis=-1)

    @checked
    def epsilon(
        self, z: Float[Array, "batch ..."], a: Float[Array, "batch"]
    ) -> Float[Array, "batch ..."]:
        """Equation (3): the ideal denoiser of the Gaussian."""
        alpha, sigma = CHANNEL.alpha(a)[:, None], CHANNEL.sigma(a)[:, None]
        along = self._along(self._flat(z) - alpha * self.mean)
        along = along * (sigma / (alpha**2 * self.eigenvalues + sigma**2))
        if self.eigenvectors is not None:
            along = matmul(along, self.eigenvectors.T)
        return along.reshape(z.shape)

    def _flat(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch d"]:
        if x.size != x.shape[0] * self.mean.shape[0]:
            raise ValueError(
                f"examples of shape {x.shape[1:]} do not have the {self.mean.shape[0]} coordinates "
                "of the reference"
            )
        return x.reshape(x.shape[0], -1)

    def _along(self, x: Float[Array, "batch d"]) -> Float[Array, "batch d"]:
        if self.eigenvectors is None:
            return x
        return matmul(x, self.eigenvectors)


def standard_reference(d: int) -> GaussianReference:
    """The standard normal law in d dimensions."""
    return GaussianReference(jnp.zeros(d), jnp.ones(d), None)


@checked
def fitted_reference(
    x: Float[Array, "batch ..."] | Float[np.ndarray, "batch ..."],
    *,
    axes: Literal["principal", "coordinates"] = "principal",
) -> GaussianReference:
    """The Gaussian of the mean and covariance of data.

    Args:
        x: examples of any shape; d is the product of it.
        axes: full covariance, or its diagonal, which costs nothing in thousands of dimensions.

    Raises:
        ValueError: unknown axes, or fewer than two examples.
    """
    if axes not in ("principal", "coordinates"):
        raise ValueError(f"axes must be principal or coordinates, got {axes!r}")
    if x.shape[0] < 2:
        raise ValueError(f"a covariance needs at least two examples, got {x.shape[0]}")
    flat = np.asarray(x).reshape(x.shape[0], -1)
    mean = flat.mean(axis=0, dtype=np.float64)
    # In blocks: all images in double precision would be the most memory of a whole run.
    blocks = (flat[i : i + BLOCK] - mean for i in range(0, len(flat), BLOCK))
    vectors = None
    if axes == "principal":
        scatter = sum(block.T @ block for block in blocks)
        values, basis = np.linalg.eigh(scatter / (len(flat) - 1))
        vectors = jnp.asarray(basis, jnp.float32)
    else:
        squares = np.stack([(block**2).sum(axis=0) for block in blocks])
        values = squares.sum(axis=0) / (len(flat) - 1)
    # A direction without spread has no density; a little of it keeps the reference one.
    values = np.maximum(values, 1e-6 * max(float(values.mean()), 1e-30))
    return GaussianReference(
        jnp.asarray(mean, jnp.float32), jnp.asarray(values, jnp.float32), vectors
    )
