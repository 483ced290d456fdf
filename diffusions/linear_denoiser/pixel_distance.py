r"""Distance between two sets of images, pixel by pixel: L2 between kernel densities on the line.

Sets a of N and b of M numbers are smoothed by Gaussian kernels of bandwidths h_a and h_b. With
K_v the density of N(0, v),

    D(a, b) = int (p_a - p_b)^2 = S(a, a) + S(b, b) - 2 S(a, b)                                     (1)
    S(a, b) = 1/(N M) sum_ij K_{h_a^2 + h_b^2}(a_i - b_j)                                           (2)

averaged over pixels. The bandwidth h = c std / N of a set is of the order of the distance between
neighbours: in sorted order only a few of them overlap, so that S(a, a) costs a sort and a few sweeps,

    sum_ij K_v(a_i - a_j) = K_v(0) N + 2 sum_{k >= 1} sum_i K_v(a_(i+k) - a_(i)),                   (3)

up to the first k at which every term is zero in floating point; the sum is complete, not truncated.
Its derivative is summed in the same sweeps. With z = a / (2h) in sorted order,

    d sum_{i<j} exp(-(z_j - z_i)^2) = -2 sum_{i<j} (z_j - z_i) exp(-(z_j - z_i)^2) (dz_j - dz_i).    (4)
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.typing import Array, Float

# exp(-x) is zero in single precision (and below 1e-45 in double) from here on.
LARGEST_EXPONENT = 104.0


@checked
def self_overlap(values: Float[Array, "n pixels"], bandwidth: float) -> Float[Array, ""]:
    """S(a, a) of equation (3), averaged over pixels; differentiable in both modes.

    Args:
        values: one image per row.
        bandwidth: h.
    """
    n = values.shape[0]
    # One pixel per row: shifting along the last axis is contiguous.
    ordered = jnp.sort(values.T, axis=1) / (2.0 * bandwidth)
    total = _neighbour_sums(ordered)
    return jnp.mean(n + 2.0 * total) / (n**2 * math.sqrt(4.0 * math.pi) * bandwidth)


@jax.custom_jvp
def _neighbour_sums(ordered: Float[Array, "pixels n"]) -> Float[Array, "pixels"]:
    """The sums over k and i of equation (3), in units where the exponents are squared gaps."""

    def add(total: Array, k: Array, gaps: Array, terms: Array) -> Array:
        del k, gaps
        return total + terms.sum(axis=1)

    return _sweep(add, jnp.zeros(ordered.shape[0], ordered.dtype), ordered)


@_neighbour_sums.defjvp
def _neighbour_sums_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Equation (4): reverse mode has no way through a loop of unknown length, but through its sum."""
    (ordered,), (moved,) = primals, tangents

    def add(slope: Array, k: Array, gaps: Array, terms: Array) -> Array:
        repulsion = -2.0 * gaps * terms
        return slope + jnp.roll(repulsion, k, axis=1) - repulsion

    slope = _sweep(add, jnp.zeros_like(ordered), ordered)
    return _neighbour_sums(ordered), jnp.sum(slope * moved, axis=1)


def _sweep(
    add: Callable[[Array, Array, Array, Array], Array], start: Array, ordered: Array
) -> Array:
    """Folds add(state, k, gaps, exp(-gaps^2)) over k, up to the first at which all terms are zero."""
    n = ordered.shape[1]
    indices = jnp.arange(n)

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, state, _ = carry
        gaps = jnp.roll(ordered, -k, axis=1) - ordered
        exponents = jnp.where(indices < n - k, gaps**2, jnp.inf)
        return k + 1, add(state, k, gaps, jnp.exp(-exponents)), jnp.min(exponents)

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        k, _, nearest = carry
        return (k < n) & (nearest < LARGEST_EXPONENT)

    # The first sweep always happens, where there is a neighbour.
    first = (jnp.asarray(1), start, jnp.zeros((), ordered.dtype))
    return jax.lax.while_loop(unfinished, sweep, first)[1]


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
