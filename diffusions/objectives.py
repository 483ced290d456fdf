"""Losses of denoisers.

    L = E weight(t) sum_i m_i (f(z_t, t)_i - target_i)^2 / sum_i m_i                                (1)

over data x, times t and noise eps, with z_t and the target (clean, epsilon, velocity or score) of
`diffusions.processes` and `diffusions.predictions`, and weights m of the entries, one where none are
given. Denoising score matching (Vincent, 2011) is (1) with any target but the velocity; flow matching
(Lipman et al., 2022) is (1) with the velocity of the rectified flow. All have the same minimiser up to
conversion: the conditional mean given z_t.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.predictions import Prediction, express
from diffusions.processes import Process, RectifiedFlow, corrupt
from diffusions.typing import Array, Float, Key

Denoiser = Callable[[Array, Array], Array]
"""(z of shape (batch, ...), t of shape (batch,)) -> prediction of the shape of z."""


@checked
def weighted_mean_square(
    error: Float[Array, "batch ..."], weights: Float[Array, "batch ..."] | None
) -> Float[Array, "batch"]:
    """sum_i m_i error_i^2 / sum_i m_i per example; zero for an example without weight."""
    axes = tuple(range(1, error.ndim))
    if weights is None:
        return jnp.mean(error**2, axis=axes)
    weights = jnp.broadcast_to(weights, error.shape)
    total = weights.sum(axis=axes)
    # Where nothing is weighed the sum is zero already; the division must not make it NaN.
    return (weights * error**2).sum(axis=axes) / jnp.where(total > 0, total, 1.0)


@checked
def stratified_uniform(key: Key, n: int) -> Float[Array, "n"]:
    """Uniform numbers, one in each of n equal parts of [0, 1), in random order.

    Each is uniform, and their mean of any function has a variance lower than that of independent
    draws, by a factor of n^2 where the function is smooth.
    """
    jitter_key, order_key = jax.random.split(key)
    jitter = jax.random.uniform(jitter_key, (n,))
    return jax.random.permutation(order_key, (jnp.arange(n) + jitter) / n)


@checked
def denoising_loss(
    denoiser: Denoiser,
    key: Key,
    process: Process,
    x: Float[Array, "batch ..."],
    t: Float[Array, "batch"],
    *,
    prediction: Prediction = "epsilon",
    weights: Float[Array, "batch ..."] | None = None,
) -> Float[Array, "batch"]:
    """The denoising loss (1) per example, for one draw of the noise.

    Args:
        denoiser: the network with its parameters.
        key: of the noise.
        process: alpha and sigma.
        x: clean examples.
        t: one time per example.
        prediction: what the network predicts.
        weights: m of the entries, broadcast against x.
    """
    z, eps = corrupt(process, key, x, t)
    target = express(process, t, x, eps, prediction)
    return weighted_mean_square(denoiser(z, t) - target, weights)


@checked
def flow_matching_loss(
    velocity: Denoiser,
    key: Key,
    x: Float[Array, "batch ..."],
    *,
    weights: Float[Array, "batch ..."] | None = None,
) -> Float[Array, "batch"]:
    """Loss (1) for the rectified flow, times stratified over the batch in [0, 1)."""
    time_key, noise_key = jax.random.split(key)
    t = stratified_uniform(time_key, x.shape[0])
    return denoising_loss(
        velocity, noise_key, RectifiedFlow(), x, t, prediction="velocity", weights=weights
    )
