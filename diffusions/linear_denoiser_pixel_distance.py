r"""Distance between two sets of images, pixel by pixel: L2 between kernel densities on the line.

Sets a of N and b of M numbers are smoothed by Gaussian kernels of bandwidths h_a and h_b. With
K_v the density of N(0, v),

    D(a, b) = int (p_a - p_b)^2 = S(a, a) + S(b, b) - 2 S(a, b)                                     (1)
    S(a, b) = 1/(N M) sum_ij K_{h_a^2 + h_b^2}(a_i - b_j)                                           (2)

averaged over pixels. The bandwidth h = c std / N of a set is of the order of the distance between
neighbours: in sorted order only a few of them overlap, so that S(a, a) costs a sort and a few sweeps,

    sum_ij K_v(a_i - a_j) = K_v(0) N + 2 sum_{k >= 1} sum_i K_v(a_(i+k) - a_(i)),                   (3)

up to the first k at which every term is zero in floating point; the sum is complete, not truncated.
"""

import math

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.typing import Array, Float

# exp(-x) is zero in single precision (and below 1e-45 in double) from here on.
LARGEST_EXPONENT = 104.0


@checked
def self_overlap(values: Float[Array, "n pixels"], bandwidth: float) -> Float[Array, ""]:
    """S(a, a) of equation (3), averaged over pixels.

    Args:
        values: one image per row.
        bandwidth: h.
    """
    n = values.shape[0]
    # One pixel per row: shifting along the last axis is contiguous.
    ordered = jnp.sort(values.T, axis=1) / (2.0 * bandwidth)
    indices = jnp.arange(n)

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, total, _ = carry
        gaps = jnp.roll(ordered, -k, axis=1) - ordered
        exponents = jnp.where(indices < n - k, gaps**2, jnp.inf)
        return k + 1, total + jnp.exp(-exponents).sum(axis=1), jnp.min(exponents)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        k, _, nearest = carry
        return (k < n) & (nearest < LARGEST_EXPONENT)

    # The first sweep always happens, where there is a neighbour.
    start = (jnp.asarray(1), jnp.zeros(ordered.shape[0], values.dtype), jnp.zeros((), values.dtype))
    _, total, _ = jax.lax.while_loop(unfinished, sweep, start)
    return jnp.mean(n + 2.0 * total) / (n**2 * math.sqrt(4.0 * math.pi) * bandwidth)


@checked
def cross_overlap(
    a: Float[Array, "n pixels"], b: Float[Array, "m pixels"], bandwidths: tuple[float, float]
) -> Float[Array, ""]:
    """S(a, b) of equation (2), averaged over pixels; memory is n + m, one row of a at a time.

    Args:
        a: one image per row; the smaller set.
        b: the same.
        bandwidths: h_a and h_b.
    """
    variance = bandwidths[0] ** 2 + bandwidths[1] ** 2

    def row(total: Array, image: Array) -> tuple[Array, None]:
        return total + jnp.exp(-((b - image) ** 2) / (2.0 * variance)).sum(axis=0), None

    total, _ = jax.lax.scan(row, jnp.zeros(a.shape[1], a.dtype), a)
    return jnp.mean(total) / (a.shape[0] * b.shape[0] * math.sqrt(2.0 * math.pi * variance))


@checked
def pixel_distance(
    a: Float[Array, "n pixels"], b: Float[Array, "m pixels"], *, std: float, scale: float = 1.0
) -> Float[Array, ""]:
    """D(a, b) of equation (1), averaged over pixels.

    Args:
        a: one image per row; the smaller set.
        b: the same.
        std: of a pixel, which scales the bandwidths.
        scale: c.
    """
    h_a, h_b = scale * std / a.shape[0], scale * std / b.shape[0]
    within = self_overlap(a, h_a) + self_overlap(b, h_b)
    return within - 2.0 * cross_overlap(a, b, (h_a, h_b))
