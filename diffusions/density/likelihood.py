"""Exact densities from denoising errors, integrated over the log signal-to-noise ratio.

Kong, Brekelmans and Ver Steeg, Information-theoretic diffusion (ICLR 2023), on the channel
z = sqrt(sigmoid(a)) x + sqrt(sigmoid(-a)) eps with a the log SNR and eps_hat(z, a) ~ E[eps | z]:

    -log p(x) = h_G + 1/2 int mse(x, a) - mmse_G(a) da,   mse(x, a) = E_eps |eps - eps_hat|^2,      (1)
    h_G = d/2 log(2 pi e) + 1/2 sum_i log l_i,   mmse_G(a) = sum_i sigmoid(a + log l_i),            (2)

for a Gaussian G of covariance eigenvalues l_i; any G will do, the standard normal too. (1) is exact for
the ideal denoiser of the data's law, and for any other its mean over that law is above the entropy.

For G itself, whose ideal denoiser eps_G is linear, (1) holds with -log p_G(x) on the left. The
difference of the two is the same integral with less noise in it,

    -log p(x) = -log p_G(x) + 1/2 int E_eps [|eps - eps_hat|^2 - |eps - eps_G|^2] da,               (3)

because at either end of the integral both denoisers err alike, noise by noise; for Gaussian data it has
no variance at all. It is what every estimate here uses unless asked for (1).

On examples that G was not fitted to, the mean of -log p_G(x) is not h_G: with test images in place of
training images of CIFAR-10 it is 210 nats more. So (3) always takes it at the examples themselves. It
holds for every law with a closed denoiser in the place of G, `diffusions.density.reference`; (1) needs
a Gaussian.

A mean over n examples has two errors. As the mean of these very examples it is uncertain by the draws
of log SNR and noise alone; so the draws are made in independent blocks, whose spread tells. As
an estimate of the mean over the law, it is uncertain by the examples, too: by their spread over
sqrt(n).

The integral is estimated at log SNRs of `diffusions.density.log_snr`, stratified over whatever is
averaged.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from diffusions.arguments import checked
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.log_snr import CHANNEL, LogSNRLaw
from diffusions.density.reference import Reference
from diffusions.objectives import Denoiser, stratified_uniform
from diffusions.processes import beside
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key

BLOCKS = 16
"""Independent parts of the draws, at most, whose spread gives the error of an evaluation."""
MOST_SOBOL = 256
"""Coordinates up to which a Sobol sequence is better than random numbers."""


class Likelihood(NamedTuple):
    """An estimate in nats, and its standard deviation by the randomness of noise and log SNRs."""

    value: Array
    standard_error: Array


class MeanLikelihood(NamedTuple):
    """A mean over examples in nats, and its two standard errors."""

    value: Array
    standard_error: Array  # of the mean over the law that the examples are a sample of
    evaluation_error: Array  # of the mean over these very examples; NaN for a single draw

    def __repr__(self) -> str:
        return short_repr(self)


class EachLikelihood(NamedTuple):
    """Of every example its estimate in nats, (batch,); and of their mean the error by the draws."""

    values: Array
    evaluation_error: Array  # NaN for a single draw

    def __repr__(self) -> str:
        return short_repr(self)

    def mean(self, added: Array | float = 0.0) -> MeanLikelihood:
        """Over the examples, of the values and what is added to each, such as another's log density."""
        return mean_of(self.values + added)._replace(evaluation_error=self.evaluation_error)


@checked
def square_norm(x: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """Squared norm of each example."""
    return (x.reshape(x.shape[0], -1) ** 2).sum(axis=-1)


@checked
def nll_terms(
    denoiser: Denoiser,
    eps: Float[Array, "batch ..."],
    x: Float[Array, "batch ..."],
    a: Float[Array, "batch"],
    weight: Float[Array, "batch"],
    reference: Reference,
    *,
    control_variate: bool = True,
) -> Float[Array, "batch"]:
    """One-sample estimates of -log p(x), by equation (3) or (1); differentiable in the denoiser.

    Args:
        denoiser: predicts eps at log SNR a.
        eps: standard normal noises.
        x: the examples.
        a: log SNRs.
        weight: of the log SNRs, one over their density.
        reference: G, or another law.
        control_variate: equation (3) rather than (1).

    Raises:
        ValueError: equation (1) with a reference that is no Gaussian.
    """
    z = beside(CHANNEL.alpha(a), x) * x + beside(CHANNEL.sigma(a), x) * eps
    mse = square_norm(eps - denoiser(z, a))
    if control_variate:
        difference = mse - square_norm(eps - reference.epsilon(z, a))
        return -reference.log_density(x) + 0.5 * weight * difference
    if not isinstance(reference, GaussianReference):
        raise ValueError(
            "without the control variate the reference must be a GaussianReference, whose entropy is "
            f"known, got a {type(reference).__name__}"
        )
    return reference.entropy() + 0.5 * weight * (mse - reference.mmse(a))


@checked
def nll_loss(
    denoiser: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    reference: Reference,
    *,
    weighted: bool = True,
) -> Float[Array, "batch"]:
    """`nll_terms` at log SNRs stratified over the batch: the training loss, in nats.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of log SNRs and noises.
        x: the batch.
        law: of the log SNRs.
        reference: G, or another law.
        weighted: False weighs all log SNRs alike, whatever their density, by the width of their range.
            The ideal denoiser is the same and gradients are less noisy, but it is no likelihood.
    """
    law_key, noise_key = jax.random.split(key)
    a, weight = law.sample(law_key, x.shape[0])
    if not weighted:
        weight = jnp.full_like(weight, law.ends[1] - law.ends[0])
    eps = jax.random.normal(noise_key, x.shape, x.dtype)
    return nll_terms(denoiser, eps, x, a, weight, reference)


@checked
def nll(
    denoiser: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    reference: Reference,
    *,
    n_samples: int = 1,
    stratified: bool = True,
    control_variate: bool = True,
    chunk: int | None = None,
) -> MeanLikelihood:
    """Negative log likelihood of data, averaged over them, in nats.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of log SNRs and noises.
        x: the data.
        law: of the log SNRs.
        reference: G, or another law.
        n_samples: draws per example, rounded up to a multiple of the blocks; memory does not grow with
            them.
        stratified: spread the log SNRs evenly over the batch, and over the draws of every example.
        control_variate: equation (3) rather than (1).
        chunk: examples computed at a time, which bounds memory; absent, all.

    Returns:
        The mean over these examples, with its standard errors.
    """

    def terms(eps: Array, x: Array, a: Array, weight: Array) -> Array:
        return nll_terms(denoiser, eps, x, a, weight, reference, control_variate=control_variate)

    return values_of_blocks(
        terms, key, x, law, n_samples=n_samples, stratified=stratified, chunk=chunk
    ).mean()


@checked
def values_of_blocks(
    terms: Callable[[Array, Array, Array, Array], Array],
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    *,
    n_samples: int,
    stratified: bool = True,
    chunk: int | None = None,
) -> EachLikelihood:
    """Of every example the mean over draws, by `averaged_terms` in independent blocks.

    Args:
        terms: as there.
        key: as there.
        x: as there.
        law: as there.
        n_samples: draws per example in all.
        stratified: as there, within each block.
        chunk: as there.
    """
    blocks = min(BLOCKS, n_samples)

    def block(key: Array) -> Array:
        return averaged_terms(
            terms,
            key,
            x,
            law,
            n_samples=-(-n_samples // blocks),
            stratified=stratified,
            chunk=chunk,
        )

    values = jax.lax.map(block, jax.random.split(key, blocks))
    error = jnp.asarray(jnp.nan)
    if blocks > 1:
        error = values.mean(axis=1).std(ddof=1) / np.sqrt(blocks)
    return EachLikelihood(values.mean(axis=0), error)


@checked
def averaged_terms(
    terms: Callable[[Array, Array, Array, Array], Array],
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    *,
    n_samples: int,
    stratified: bool = True,
    chunk: int | None = None,
) -> Float[Array, "batch"]:
    """Per example, the mean over draws of noise and log SNR.

    Args:
        terms: (eps, examples, log SNRs, their weights) -> one number per example.
        key: of log SNRs and noises.
        x: the data.
        law: of the log SNRs.
        n_samples: draws per example.
        stratified: each draw of an example in a part of its own of the law, and all draws evenly.
        chunk: examples computed at a time; absent, all.
    """
    place_key, draw_key = jax.random.split(key)
    place = stratified_uniform(place_key, x.shape[0])

    def one(draw: tuple[Array, Key]) -> Array:
        number, key = draw
        law_key, noise_key = jax.random.split(key)
        if stratified:
            a, weight = law.at((number + place) / n_samples)
        else:
            a, weight = law.sample(law_key, x.shape[0], stratified=False)
        eps = jax.random.normal(noise_key, x.shape, x.dtype)
        if chunk is None or chunk >= x.shape[0]:
            return terms(eps, x, a, weight)
        alone = jax.tree.map(lambda leaf: leaf[:, None], (eps, x, a, weight))
        return jax.lax.map(lambda one: terms(*one)[0], alone, batch_size=chunk)

    draws = (jnp.arange(n_samples), jax.random.split(draw_key, n_samples))
    return jax.lax.map(one, draws).mean(axis=0)


@checked
def mean_of(values: Float[Array, "batch"]) -> MeanLikelihood:
    """The mean of exact values over examples; a single one does not tell its standard error (NaN)."""
    deviation = values.std(ddof=1) if values.shape[0] > 1 else jnp.asarray(jnp.nan)
    return MeanLikelihood(values.mean(), deviation / np.sqrt(values.shape[0]), jnp.zeros(()))


@checked
def log_density(
    denoiser: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    law: LogSNRLaw,
    reference: Reference,
    *,
    n_log_snr: int = 200,
    control_variate: bool = True,
    chunk: int = 64,
) -> Likelihood:
    """Log p(x) of each point, in one compiled call for any number of points.

    All points share log SNRs and noises: what differs between them differs smoothly, and what of a
    network depends on the log SNR alone is computed once. Up to `MOST_SOBOL` coordinates log SNR and
    noise are stratified together, by a randomly shifted Sobol sequence.

    Args:
        denoiser: predicts eps at log SNR a.
        key: of log SNRs and noises.
        x: the points.
        law: of the log SNRs.
        reference: G, or another law.
        n_log_snr: draws per point; powers of two fill the strata evenly.
        control_variate: equation (3) rather than (1).
        chunk: points computed at a time, which bounds memory.

    Returns:
        Log densities, and standard errors from the differences at neighbouring log SNRs; what is gained
        by stratifying the noise comes on top.
    """
    p, eps = _stratified_noise(key, n_log_snr, x.shape[1:])
    a, weight = law.at(p)

    def one(point: Array) -> tuple[Array, Array]:
        copies = jnp.broadcast_to(point, eps.shape)
        terms = nll_terms(
            denoiser, eps, copies, a, weight, reference, control_variate=control_variate
        )
        successive = jnp.diff(terms) ** 2
        return -terms.mean(), jnp.sqrt(0.5 * successive.mean() / n_log_snr)

    return Likelihood(*jax.lax.map(one, x, batch_size=min(chunk, x.shape[0])))


def _stratified_noise(
    key: Key, n: int, shape: tuple[int, ...]
) -> tuple[Float[Array, "n"], Float[Array, "n ..."]]:
    """Uniform numbers, nearly in order, and standard normal noises of a shape for them."""
    d = int(np.prod(shape))
    if d + 1 > MOST_SOBOL:
        jitter_key, noise_key = jax.random.split(key)
        p = (jnp.arange(n) + jax.random.uniform(jitter_key, (n,))) / n
        return p, jax.random.normal(noise_key, (n, *shape))
    with warnings.catch_warnings():
        # Any number of points is unbiased with a random shift; powers of two are only best.
        warnings.simplefilter("ignore", UserWarning)
        table = qmc.Sobol(d + 1, scramble=False).random(n)
    table = table[np.argsort(table[:, 0])]
    shifted = (jnp.asarray(table, jnp.float32) + jax.random.uniform(key, (d + 1,))) % 1.0
    inside = jnp.clip(shifted[:, 1:], 1e-7, 1.0 - 1e-7)
    return shifted[:, 0], jax.scipy.special.ndtri(inside).reshape(n, *shape)


@checked
def score(
    denoiser: Denoiser, z: Float[Array, "batch ..."], a: Float[Array, "batch"]
) -> Float[Array, "batch ..."]:
    """Score of the noisy data, grad log p_a(z) = -eps_hat / sqrt(sigmoid(-a))."""
    return -denoiser(z, a) / beside(CHANNEL.sigma(a), z)


def bits_per_dimension(nats: float, dimension: int) -> float:
    """Nats per example as bits per dimension, in the units of the data."""
    return nats / (dimension * float(np.log(2.0)))
