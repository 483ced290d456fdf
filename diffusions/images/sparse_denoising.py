"""Denoising whole images of which two disjoint sets of pixels are observed: told ones and asked ones.

Of an image x the told pixels C are the condition, and the loss is taken where x is observed, on
S = C u T with the asked pixels T:

    u = (x - m) / s,   z = alpha(t) u + sigma(t) eps                                                 (1)
    L = sum_i w_i (f(1_V z, 1_C x, 1_C [, m], t)_i - target_i)^2 / sum_i w_i,
    w = 1 on T, w_C on C, 0 elsewhere                                                                (2)

with the target p u + q eps (epsilon or velocity) of u. Either u is the image itself (m = 0, s = 1), or
the residual of its kriging interpolation m from the told pixels in units of s; the network then sees m
as well. A regression has no noise: z = 0, and the target is u. What the network sees of z:

    full      V is everything, so all of x is in the input and only the loss is sparse               (3)
    hidden    V = S: unobserved pixels are left out of the input                                     (4)
    mean      V is everything, but u_i = 0 at the unobserved pixels                                  (5)
    simulated V is everything, but u_i at the unobserved pixels is that of a draw of x given x_S
              under the Gaussian law of kriging                                                      (6)

With `preconditioned` a network need not reproduce its input: of its output F

    f = k z + r F,   k = (p alpha c + q sigma) / V,   r = (p sigma - q alpha) sqrt(c / V),
    V = alpha^2 c + sigma^2,                                                                         (7)

where k z is the best linear estimate of the target for a u of variance c, so that F has to be a
standardised number at every time, and the error in (2) is that of F. (Karras et al., Elucidating the
design space of diffusion-based generative models, 2022, for any process and prediction.)

Under (4) to (6) neither input nor loss depends on an unobserved pixel. A sampler generates all pixels
at once, which (4) never showed a network: its denoiser splits the pixels at random into groups of the
size of T, another split at every time, and sees every group beside the told pixels alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.images.kriging import PIXEL_VARIANCE, Kriging
from diffusions.objectives import Denoiser, weighted_mean_square
from diffusions.predictions import Prediction, clean_and_epsilon, express
from diffusions.processes import Process, beside, corrupt
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Bool, Float, Key

_RESIDUAL_VARIANCE = 0.5
"""C of (7), of a residual in units of its usual size; of images it is that of their pixels."""

Visible = Literal["full", "hidden", "mean", "simulated"]

Network = Callable[[Array, Array], Array]
"""(channels of (2) side by side, t of shape (batch,)) -> prediction, an image."""


class Condition(NamedTuple):
    """What is told of images."""

    sparse: Float[Array, "batch height width channels"]  # told pixels, zero elsewhere
    told: Float[Array, "batch height width channels"]  # 1_C
    base: Float[Array, "batch height width channels"] | None  # m, where there is one

    def __repr__(self) -> str:
        return short_repr(self)

    def channels(self, z: Array) -> Float[Array, "batch height width all_channels"]:
        """What a network sees, z being what it sees of that."""
        parts = [z, self.sparse, self.told]
        return jnp.concatenate(parts if self.base is None else [*parts, self.base], axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseDenoising:
    """What a network of sparse images sees and is asked, equations (1) to (6).

    Attributes:
        process: alpha and sigma of equation (1).
        prediction: of the network; `clean` for a regression.
        visible: what a network in training sees of z.
        residual: diffuse the residual of the interpolation.
        kriging: the interpolation, also of (6).
        scale: s of a residual, its usual size.
        told_weight: w_C.
        preconditioned: the network gives F of (7), not f.
    """

    process: Process
    prediction: Prediction
    visible: Visible = "hidden"
    residual: bool = False
    kriging: Kriging = Kriging()
    scale: float = 0.2
    told_weight: float = 0.05
    preconditioned: bool = False

    def __post_init__(self):
        if not self.scale > 0 or not self.told_weight >= 0:
            raise ValueError(
                f"scale must be positive and told_weight not negative, got {self.scale} and "
                f"{self.told_weight}"
            )

    @checked
    def condition(
        self,
        images: Float[Array, "batch height width channels"],
        told: Bool[Array, "batch height width channels"],
        n_told: int,
    ) -> Condition:
        """What is told of images; the other pixels are not read.

        Args:
            images: with the told pixels.
            told: C, `n_told` pixels of every channel.
            n_told: static.
        """
        base = self.kriging.mean(images, told, n_told) if self.residual else None
        return Condition(jnp.where(told, images, 0.0), told.astype(images.dtype), base)

    def latent(self, condition: Condition, images: Array) -> Array:
        """U of equation (1)."""
        return images if condition.base is None else (images - condition.base) / self.scale

    def image(self, condition: Condition, u: Array) -> Array:
        """X of equation (1)."""
        return u if condition.base is None else condition.base + self.scale * u

    @checked
    def loss(
        self,
        network: Network,
        key: Key,
        images: Float[Array, "batch height width channels"],
        told: Bool[Array, "batch height width channels"],
        asked: Bool[Array, "batch height width channels"],
        n_told: int,
        n_asked: int,
        t: Float[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Equation (2), of one noise per image.

        Args:
            network: with its parameters.
            key: of noise and simulation.
            images: in [-1, 1].
            told: C.
            asked: T, disjoint from C.
            n_told: of every channel; static.
            n_asked: likewise.
            t: one time per image.
        """
        fill_key, noise_key = jax.random.split(key)
        condition = self.condition(images, told, n_told)
        u, seen = self.latent(condition, images), told | asked
        if self.visible != "full":
            filled = jnp.zeros_like(u)
            if self.visible == "simulated":
                drawn = self.kriging.draw(fill_key, images, seen, n_told + n_asked)
                filled = self.latent(condition, drawn)
            u = jnp.where(seen, u, filled)
        z, eps = corrupt(self.process, noise_key, u, t)
        if self.visible == "hidden":
            z = jnp.where(seen, z, 0.0)
        target = express(self.process, t, u, eps, self.prediction)
        k, r = self._preconditioning(t, z)
        error = network(condition.channels(z), t) - (target - k * z) / r
        return weighted_mean_square(error, self._weights(told, asked))

    @checked
    def regression_loss(
        self,
        network: Network,
        images: Float[Array, "batch height width channels"],
        told: Bool[Array, "batch height width channels"],
        asked: Bool[Array, "batch height width channels"],
        n_told: int,
    ) -> Float[Array, "batch"]:
        """Equation (2) without noise; see `loss`."""
        condition = self.condition(images, told, n_told)
        error = self.regression(network, condition) - self.latent(condition, images)
        return weighted_mean_square(error, self._weights(told, asked))

    def regression(self, network: Network, condition: Condition) -> Array:
        """U as a network trained by `regression_loss` predicts it."""
        z = jnp.zeros_like(condition.sparse)
        return network(condition.channels(z), jnp.zeros(len(z), z.dtype))

    @checked
    def posterior_denoiser(
        self,
        denoiser: Denoiser,
        condition: Condition,
        images: Float[Array, "batch height width channels"],
        known: Bool[Array, "batch height width channels"],
        n_known: int,
    ) -> Denoiser:
        """A denoiser corrected by what is known, for samplers that draw given that; (4) of kriging.

        Args:
            denoiser: the prediction at all pixels; its times must be one for all images.
            condition: what it is told.
            images: with the known pixels, told ones or more.
            known: which are.
            n_known: of every channel; static.
        """
        process = self.process

        def corrected(z: Array, t: Array) -> Array:
            clean, _ = clean_and_epsilon(process, z, t[0], denoiser(z, t), self.prediction)
            scale = self.scale if self.residual else 1.0
            alpha, sigma = process.alpha(t[0]), process.sigma(t[0])
            ratio = (alpha / (scale * sigma)) ** 2
            x = self.image(condition, clean)
            u = self.latent(condition, self.kriging.corrected(x, images, known, n_known, ratio))
            return express(process, t[0], u, (z - alpha * u) / sigma, self.prediction)

        return corrected

    def _preconditioning(self, t: Array, z: Array) -> tuple[Array, Array]:
        """K and r of equation (7), shaped to multiply z."""
        if not self.preconditioned:
            return jnp.zeros(()), jnp.ones(())
        c = _RESIDUAL_VARIANCE if self.residual else PIXEL_VARIANCE
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        ones, zeros = jnp.ones_like(t), jnp.zeros_like(t)
        p = express(self.process, t, ones, zeros, self.prediction)
        q = express(self.process, t, zeros, ones, self.prediction)
        variance = alpha**2 * c + sigma**2
        k = (p * alpha * c + q * sigma) / variance
        r = (p * sigma - q * alpha) * jnp.sqrt(c / variance)
        return beside(k, z), beside(r, z)

    def _weights(self, told: Array, asked: Array) -> Array:
        return jnp.where(asked, 1.0, jnp.where(told, self.told_weight, 0.0))

    @checked
    def denoiser(
        self, network: Network, condition: Condition, *, key: Key, n_groups: int = 1
    ) -> Denoiser:
        """For a sampler: the prediction at all pixels from a z of all pixels.

        Args:
            network: takes batches of `n_groups` times the condition's, the images of a group together.
            condition: what is told.
            key: of the splits.
            n_groups: 1 shows all of z at once; for (4), the number of pixels that are not told over
                that of the asked ones; static.
        """

        def denoiser(z: Array, t: Array) -> Array:
            k, r = self._preconditioning(t, z)
            return k * z + r * output(z, t)

        def output(z: Array, t: Array) -> Array:
            if n_groups == 1:
                return network(condition.channels(z), t)
            own = jax.random.fold_in(key, jax.lax.bitcast_convert_type(t[0], jnp.int32))
            group = jax.random.randint(own, (*z.shape[:-1], 1), 0, n_groups)

            def seen(g: Array) -> Array:
                shown = (group == g) | (condition.told > 0)
                return condition.channels(jnp.where(shown, z, 0.0))

            channels = jax.vmap(seen)(jnp.arange(n_groups))
            found = network(channels.reshape(-1, *channels.shape[2:]), jnp.tile(t, n_groups))
            found = found.reshape(n_groups, *z.shape)
            return jnp.take_along_axis(found, group[None], axis=0)[0]

        return denoiser
