r"""The growth rate g(x, t) of a population, in 1 / time: what `growth` finds and an energy carries.

    tau g = theta . phi(x, t) + gauge,                                                             (1)

with the features phi of a Gaussian process with kernel

    k((x, t), (x', t')) = s^2 (1 + exp(-|x - x'|^2 / 2 l^2)) k_t(t - t'),                          (2)
    k_t(s) = (1 - r) + r exp(-s^2 / 2 L^2),

on inducing points (Nystroem; Rasmussen and Williams, "Gaussian Processes", 2006, section 8.1), all
lengths in the data's own units: the answer does not depend on the units of space and time.

Snapshots are samples, and tell shares but not numbers: g is known up to a function of time. It is
reported centred, sum_i mu_k(i) g(x_i, t) = 0 in the middle t of every step, or, where the masses
M_k of the population are given, such that sum_i mu_k(i) exp(tau g(x_i, t)) = M_{k+1} / M_k.        (3)

A step multiplies a particle's weight by exp(tau g(x, t)), x its place at the start of the step and t
the middle of it. Centred rates leave the sum of the weights as it was.                              (4)
"""

import flax.struct
import jax
import jax.numpy as jnp

from diffusions.precision import matmul
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float


@flax.struct.dataclass
class SmoothField:
    """Features of equation (2)."""

    center: Float[Array, "d"]
    width: Float[Array, ""]  # l
    points: Float[Array, "m d"]
    whitening: Float[Array, "m p"]
    times: Float[Array, "s"]  # inducing
    time_length: Float[Array, ""]  # L
    time_whitening: Float[Array, "s q"]
    change: Float[Array, ""]  # r
    amplitude: Float[Array, ""]  # s

    def features(self, x: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n f"]:
        """Row by row phi, with phi . phi' = (2), as far as the inducing points tell."""
        z = (x - self.center) / self.width
        squares = jnp.sum((z[:, None] - self.points) ** 2, axis=-1)
        space = matmul(jnp.exp(-squares / 2), self.whitening)
        space = jnp.concatenate([jnp.ones((len(x), 1)), space], axis=1)
        kernel = time_kernel(t, self.times, self.time_length, self.change)
        time = matmul(kernel, self.time_whitening)
        products = (space[:, :, None] * time).reshape(len(x), -1)
        return self.amplitude * products


def time_kernel(
    t: Array, other: Array, length: Array | float, change: Array | float
) -> Float[Array, "*batch s"]:
    """k_t of equation (2)."""
    ratio = (t - other) / length
    return (1.0 - change) + change * jnp.exp(-(ratio**2) / 2)


@flax.struct.dataclass
class GrowthRate:
    """G of equation (1), of points and times as the snapshots store them."""

    process: SmoothField
    theta: Float[Array, "f"]
    middles: Float[Array, "steps"]  # of the steps, times
    mean_features: Float[Array, "steps f"]  # over the population that each step begins with
    offsets: Float[Array, "steps"]  # of equation (3) beside the centred rate; zero if relative
    absolute: bool = flax.struct.field(pytree_node=False)  # or centred, equation (3)

    __repr__ = short_repr

    def centred_features(self, x: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n f"]:
        """Features whose product with theta is the centred rate."""
        return self.process.features(x, t) - self._at(self.mean_features, t)

    def __call__(self, x: Float[Array, "n d"], t: Float[Array, ""]) -> Float[Array, "n"]:
        """G; between the middles of steps the gauge (3) is interpolated."""
        centred = matmul(self.centred_features(x, t), self.theta)
        return centred + self._at(self.offsets, t)

    def grown(
        self,
        x: Float[Array, "n d"],
        weights: Float[Array, "n"],
        t: Float[Array, ""],
        tau: Float[Array, ""],
    ) -> Float[Array, "n"]:
        """The weights after a step, equation (4).

        Args:
            x: the particles at its start.
            weights: their weights then.
            t: its start.
            tau: its length.
        """
        log_factor = tau * self(x, t + tau / 2)
        if self.absolute:
            return weights * jnp.exp(log_factor)
        grown = weights * jnp.exp(log_factor - jax.lax.stop_gradient(log_factor.max()))
        return grown * (weights.sum() / grown.sum())

    def _at(self, values: Float[Array, "k *rest"], t: Array) -> Float[Array, "*rest"]:
        """Values of the steps, interpolated linearly between their middles and constant beyond."""
        middles = self.middles
        if len(middles) == 1:
            return values[0]
        right = jnp.clip(jnp.searchsorted(middles, t), 1, len(middles) - 1)
        share = (t - middles[right - 1]) / (middles[right] - middles[right - 1])
        share = jnp.clip(share, 0.0, 1.0)
        return (1 - share) * values[right - 1] + share * values[right]


def with_theta(
    rate: GrowthRate,
    theta: Float[Array, "f"],
    points: Float[Array, "k n d"],
    weights: Float[Array, "k n"],
    tau: Float[Array, "k"],
    log_ratios: Float[Array, "k"] | None,
) -> GrowthRate:
    """The rate of other coefficients, in the gauge (3).

    Args:
        rate: whose features they are of.
        theta: the coefficients.
        points: of the populations that the steps begin with.
        weights: of sum 1.
        tau: lengths of the steps.
        log_ratios: log M_{k+1} / M_k, where the masses are known.
    """
    rate = rate.replace(  # type: ignore[attr-defined]
        theta=theta, offsets=jnp.zeros_like(rate.offsets), absolute=log_ratios is not None
    )
    if log_ratios is None:
        return rate
    centred = tau[:, None] * jax.vmap(rate)(points, rate.middles)
    alone = jax.scipy.special.logsumexp(centred, axis=1, b=weights)
    return rate.replace(offsets=(log_ratios - alone) / tau)  # type: ignore[attr-defined]
