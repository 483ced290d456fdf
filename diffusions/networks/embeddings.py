"""Sinusoidal embeddings of scalars (Vaswani et al. 2017; Ho et al. 2020 for the time of a diffusion).

    omega_k = scale P^(-k / (h - 1)),   k = 0, ..., h - 1,   h = dim / 2,   P = max_period           (1)
    omega_k = scale P^(-k / h)           as Nichol and Dhariwal (2021) have it                      (1')
    e(s) = (sin omega_0 s, ..., sin omega_{h-1} s, cos omega_0 s, ..., cos omega_{h-1} s)            (2)

The wavelengths run from 2 pi / scale to 2 pi P / scale. A scalar of range R is resolved well when
scale R is about 1000: scale 1 for the steps 0 ... 999 of DDPM, 1000 for a time in [0, 1], 50 for a log
SNR.

A network that was trained on the steps i = 0, ..., n - 1 of DDPM, noised with abar_i, is given a log
SNR a as

    i(a), linear between the points (log abar_i / (1 - abar_i), i), constant outside                 (3)
"""

import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, Float, HostArray


def sinusoidal_embedding(
    values: Float[Array, "*batch"],
    dim: int,
    *,
    scale: float = 1.0,
    max_period: float = 1e4,
    endpoint: bool = True,
) -> Float[Array, "*batch {dim}"]:
    """The embedding e of equation (2) of every scalar.

    Args:
        values: of any shape; they are embedded one by one.
        dim: of the embedding; even, at least 4.
        scale: of equation (1), in radians per unit of the values.
        max_period: P of equation (1).
        endpoint: whether the last frequency is scale / P, as in (1), or not, as in (1').

    Raises:
        ValueError: `dim` is odd or below 4.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"an embedding needs an even dimension of at least 4, got {dim}")
    half = dim // 2
    # Whatever the values' precision: angles of hundreds of radians have no digits left in bfloat16.
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    exponents = jnp.arange(half, dtype=values.dtype) / (half - 1 if endpoint else half)
    angles = values[..., None] * (scale * max_period**-exponents)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def step_of_log_snr(log_snr: Float[Array, "*batch"], betas: HostArray) -> Float[Array, "*batch"]:
    """Equation (3).

    Args:
        log_snr: a, of any shape.
        betas: abar_i is the product of 1 - beta_j over j <= i.

    Returns:
        The steps i(a), counted from 0.
    """
    log_alpha_squared = np.cumsum(np.log1p(-betas))
    table = log_alpha_squared - np.log(-np.expm1(log_alpha_squared))
    steps = np.arange(len(betas))
    # Interpolation wants increasing places; the log SNR falls from step to step.
    return jnp.interp(
        log_snr, jnp.asarray(table[::-1], log_snr.dtype), jnp.asarray(steps[::-1], log_snr.dtype)
    )
