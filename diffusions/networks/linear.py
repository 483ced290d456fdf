"""The linear denoiser, and the parameters that minimise its squared error, in closed form.

    f(z) = b0 + B z                                                                                 (1)
    min over (b0, B) of sum_i |x_i - b0 - B z_i|^2,                                                 (2)

of all minimisers the one with the least |B|. Any minimiser has b0 = mean(x) - B mean(z), so that only
the centred pairs determine B, and they have rank n - 1 at most. An orthogonal reflection turns them
into n - 1 rows without the redundancy:

    Z = H z, X = H x,   H in R^{(n-1) x n},  H 1 = 0,  H H^T = I                                    (3)
    n - 1 >= d:   Z = Q R,     B^T = R^{-1} Q^T X                                                   (4)
    n - 1 <  d:   Z^T = Q R,   B^T = Q R^{-T} X   (the least norm)                                  (5)

No normal equations, whose condition number would be squared, and no threshold for the rank, which is
known: min(n - 1, d).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from diffusions.precision import matmul
from diffusions.typing import Array, Float, Params


class LinearDenoiser(nn.Module):
    """Equation (1). The kernel is B^T: points are rows."""

    dimension: int

    @nn.compact
    def __call__(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch {self.dimension}"]:
        """Args: points as rows."""
        shape = (z.shape[-1], self.dimension)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.dimension,))
        return matmul(z, kernel) + bias


def least_squares(z: Float[Array, "n d"], x: Float[Array, "n d"]) -> Params:
    """Parameters of `LinearDenoiser` by equations (3) to (5).

    Args:
        z: noisy points.
        x: the points that they came from.

    Raises:
        ValueError: fewer than two pairs.
    """
    n, d = x.shape
    if n < 2:
        raise ValueError(f"a linear denoiser needs at least 2 training pairs, got {n}")
    with jax.default_matmul_precision("highest"):
        z_mean, x_mean = z.mean(axis=0), x.mean(axis=0)
        z_rows, x_rows = _contrasts(z - z_mean), _contrasts(x - x_mean)
        if n - 1 >= d:
            q, r = jnp.linalg.qr(z_rows)
            kernel = solve_triangular(r, q.T @ x_rows)
        else:
            q, r = jnp.linalg.qr(z_rows.T)
            kernel = q @ solve_triangular(r, x_rows, trans="T")
        return {"params": {"kernel": kernel, "bias": x_mean - z_mean @ kernel}}


def _contrasts(centred: Float[Array, "n d"]) -> Float[Array, "m d"]:
    """H of equation (3) times rows that sum to zero.

    The Householder reflection that sends 1 / sqrt(n) to -e_0, without its row 0.
    """
    n = centred.shape[0]
    normal = jnp.full((n,), n**-0.5, centred.dtype).at[0].add(1.0)
    # The rows sum to zero: their product with the normal is row 0; |normal|^2 / 2 = 1 + n^{-1/2}.
    return (centred - jnp.outer(normal, centred[0]) / (1.0 + n**-0.5))[1:]
