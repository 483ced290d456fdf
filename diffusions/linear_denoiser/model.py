r"""A generative model that can be solved: Gaussian data, one noising step, a linear denoiser back.

Halder, "A solvable generative model with a linear, one-step denoiser" (arXiv 2411.17807). Data in
R^d are noised once, from time 0 to T,

    x ~ N(m 1, s^2 I),   z = e^{-T} x + e^{-T} sqrt(eta) xi,   eta = lambda (1 - e^{-2T}),          (1)

a linear map x ~ b0 + B z is fitted to n pairs (`diffusions.networks.linear`), and generation starts
from the Gaussian that z is taken to have,

    z ~ N(e^{-T} xbar, sigma^2 I),   sigma^2 = e^{-2T} (s_hat^2 + eta),                             (2)

with s_hat^2 the variance of the training points, averaged over coordinates. The result is Gaussian:

    x_gen ~ N(mu, S),   mu = b0 + e^{-T} B xbar,   S = sigma^2 B B^T,   rank S = min(n - 1, d).     (3)

Its distances to the truth follow from one singular value decomposition, sigma B = U diag(w) V^T, with
g = U^T (mu - m 1) and the logarithm of each determinant as a sum, which neither over- nor underflows:

    KL(gen, truth) = 1/2 [ |w|^2 / s^2 - d - sum_i log(w_i^2 / s^2) + |mu - m|^2 / s^2 ]            (4)
    log(1 - H^2) = sum_i [ 1/2 log(2 w_i s / (w_i^2 + s^2)) - 1/4 g_i^2 / (w_i^2 + s^2) ]           (5)

KL is infinite and H^2 is 1 while S is singular. As n grows they do not vanish: every w_i^2 tends to

    s^2 r,   r = 1 / (1 + eta / s^2),   KL = d/2 (r - 1 - log r),                                   (6)

and only lambda -> 0 removes that.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.precision import matmul
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStepModel:
    """The law of the data, and the one step of a linear denoiser, equation (1).

    Attributes:
        dimension: d.
        mean: m, of every coordinate.
        std: s, of every coordinate.
        time: T.
        noise_scale: lambda.
    """

    dimension: int
    mean: float = 10.0
    std: float = 1.0
    time: float = 2.0
    noise_scale: float = 1.0

    @property
    def shrinkage(self) -> float:
        """e^{-T}."""
        return math.exp(-self.time)

    @property
    def noise_variance(self) -> float:
        """The eta of equation (1): the variance of the noise, in the units of x."""
        return -self.noise_scale * math.expm1(-2.0 * self.time)

    @property
    def limiting_ratio(self) -> float:
        """The r of equation (6): generated over true variance as n grows."""
        return 1.0 / (1.0 + self.noise_variance / self.std**2)

    @property
    def limiting_kl(self) -> float:
        """KL of equation (6)."""
        r = self.limiting_ratio
        return 0.5 * self.dimension * (r - 1.0 - math.log(r))

    @property
    def limiting_hellinger_squared(self) -> float:
        """H^2 by equation (5), with all w_i^2 = s^2 r."""
        r = self.limiting_ratio
        affinity = 0.5 * self.dimension * math.log(2.0 * math.sqrt(r) / (1.0 + r))
        return max(0.0, -math.expm1(affinity))

    @checked(d=lambda model: model.dimension)
    def corrupt(self, key: Key, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Draws z of equation (1)."""
        noise = math.sqrt(self.noise_variance) * jax.random.normal(key, x.shape, x.dtype)
        return self.shrinkage * (x + noise)


@flax.struct.dataclass
class GaussianLaw:
    """N(mean, directions diag(std^2) directions^T), of a rank r that may be below d."""

    mean: Float[Array, "d"]
    directions: Float[Array, "d r"]  # orthonormal columns
    std: Float[Array, "r"]

    __repr__ = short_repr

    @property
    def variance(self) -> Float[Array, ""]:
        """Mean variance of a coordinate, tr S / d."""
        return jnp.sum(self.std**2) / self.mean.shape[0]


@checked(d=lambda model: model.dimension)
def generated_law(model: OneStepModel, params: Params, x: Float[Array, "n d"]) -> GaussianLaw:
    """What a linear denoiser that was trained on x generates, equations (2) and (3).

    Args:
        model: which step was inverted.
        params: of the fitted `LinearDenoiser`.
        x: the training points.
    """
    n, d = x.shape
    kernel, bias = params["params"]["kernel"], params["params"]["bias"]
    x_mean = x.mean(axis=0)
    variance = jnp.mean((x - x_mean) ** 2)
    sigma = model.shrinkage * jnp.sqrt(variance + model.noise_variance)
    with jax.default_matmul_precision("highest"):
        mean = bias + (model.shrinkage * x_mean) @ kernel
        directions, std, _ = jnp.linalg.svd(sigma * kernel.T)
    rank = min(n - 1, d)
    return GaussianLaw(mean=mean, directions=directions[:, :rank], std=std[:rank])


@checked
def kl_divergence(model: OneStepModel, law: GaussianLaw) -> Float[Array, ""]:
    """KL(law, truth), equation (4)."""
    if law.std.shape[0] < model.dimension:
        return jnp.full((), jnp.inf, law.std.dtype)
    w2 = (law.std / model.std) ** 2
    shift = jnp.sum(((law.mean - model.mean) / model.std) ** 2)
    return 0.5 * (jnp.sum(w2 - 1.0 - jnp.log(w2)) + shift)


@checked
def log_affinity(model: OneStepModel, law: GaussianLaw) -> Float[Array, ""]:
    """Log of the Bhattacharyya coefficient, log(1 - H^2) of equation (5)."""
    if law.std.shape[0] < model.dimension:
        return jnp.full((), -jnp.inf, law.std.dtype)
    w = law.std / model.std
    g = matmul((law.mean - model.mean) / model.std, law.directions)
    return jnp.sum(0.5 * (jnp.log(2.0 * w) - jnp.log1p(w**2)) - 0.25 * g**2 / (1.0 + w**2))


@checked
def hellinger_squared(model: OneStepModel, law: GaussianLaw) -> Float[Array, ""]:
    """H^2 between the law and the truth, equation (5)."""
    return -jnp.expm1(log_affinity(model, law))
