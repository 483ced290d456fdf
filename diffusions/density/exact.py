"""Denoisers in closed form for data of known law, which networks and samplers are checked against.

For x ~ sum_k w_k N(m_k, C_k) and z = alpha x + sigma eps,

    p_t(z) = sum_k w_k N(z; alpha m_k, A_k),   A_k = alpha^2 C_k + sigma^2 I,                       (1)
    E[eps | z] = sum_k r_k(z) sigma A_k^{-1} (z - alpha m_k),   r_k the posterior of component k.   (2)

A Gaussian is the case of one component.
"""

import flax.struct
import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.precision import einsum, matmul
from diffusions.processes import Process
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key


@flax.struct.dataclass
class GaussianMixture:
    """A mixture, its covariances by their eigenvectors and eigenvalues."""

    weights: Float[Array, "k"]
    means: Float[Array, "k d"]
    eigenvalues: Float[Array, "k d"]
    eigenvectors: Float[Array, "k d d"]  # columns

    __repr__ = short_repr

    @checked
    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """Draws n points."""
        component_key, noise_key = jax.random.split(key)
        k = jax.random.choice(component_key, len(self.weights), (n,), p=self.weights)
        noise = jax.random.normal(noise_key, (n, self.means.shape[1]), self.means.dtype)
        scaled = noise * jnp.sqrt(self.eigenvalues[k])
        return self.means[k] + einsum("nij,nj->ni", self.eigenvectors[k], scaled)

    @checked(d=lambda mixture: mixture.means.shape[1])
    def log_density(self, x: Float[Array, "batch d"]) -> Float[Array, "batch"]:
        """Log of equation (1) at alpha = 1, sigma = 0."""
        one, zero = jnp.ones(x.shape[0], x.dtype), jnp.zeros(x.shape[0], x.dtype)
        return jax.nn.logsumexp(self._joint(x, one, zero)[0], axis=-1)

    def entropy(self) -> Float[Array, ""]:
        """Of a single Gaussian, in nats.

        Raises:
            ValueError: there are several components.
        """
        if len(self.weights) != 1:
            raise ValueError("the entropy of a mixture has no closed form")
        d = self.means.shape[1]
        return 0.5 * (d * jnp.log(2 * jnp.pi * jnp.e) + jnp.log(self.eigenvalues[0]).sum())

    def _joint(
        self, z: Float[Array, "batch d"], alpha: Float[Array, "batch"], sigma: Float[Array, "batch"]
    ) -> tuple[Float[Array, "batch k"], Float[Array, "batch k d"]]:
        """Log w_k N(z; alpha m_k, A_k), and A_k^{-1} (z - alpha m_k) along the eigenvectors."""
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        variances = alpha**2 * self.eigenvalues + sigma**2
        # One product for all components: many small ones would be slow.
        along = matmul(z, self._axes).reshape(variances.shape)
        along = along - alpha * einsum("kij,ki->kj", self.eigenvectors, self.means)
        distance = (along**2 / variances).sum(axis=-1)
        log_norm = jnp.log(2 * jnp.pi * variances).sum(axis=-1)
        return jnp.log(self.weights) - 0.5 * (distance + log_norm), along / variances

    @property
    def _axes(self) -> Float[Array, "d kd"]:
        """All eigenvectors, as columns beside each other."""
        return jnp.moveaxis(self.eigenvectors, 0, 1).reshape(self.means.shape[1], -1)

    def denoiser(self, process: Process):
        """Equation (2) as a `Denoiser` that predicts epsilon."""

        def epsilon(z: Float[Array, "batch d"], t: Float[Array, "batch"]) -> Array:
            sigma = process.sigma(t)
            joint, residual = self._joint(z, process.alpha(t), sigma)
            pulled = jax.nn.softmax(joint, axis=-1)[..., None] * residual
            return sigma[:, None] * matmul(pulled.reshape(z.shape[0], -1), self._axes.T)

        return epsilon


@checked
def gaussian_mixture(
    weights: Float[Array, "k"], means: Float[Array, "k d"], covariances: Float[Array, "k d d"]
) -> GaussianMixture:
    """A mixture of Gaussians; weights are normalised.

    Raises:
        ValueError: the shapes do not agree.
    """
    k, d = means.shape
    if weights.shape != (k,) or covariances.shape != (k, d, d):
        raise ValueError(
            f"{k} means of dimension {d} need weights [{k}] and covariances [{k}, {d}, {d}], "
            f"got {list(weights.shape)} and {list(covariances.shape)}"
        )
    eigenvalues, eigenvectors = jnp.linalg.eigh(covariances)
    return GaussianMixture(weights / weights.sum(), means, eigenvalues, eigenvectors)


@checked
def gaussian(mean: Float[Array, "d"], covariance: Float[Array, "d d"]) -> GaussianMixture:
    """A Gaussian, as a mixture of one."""
    return gaussian_mixture(jnp.ones(1, mean.dtype), mean[None], covariance[None])
