"""An OTT-JAX geometry that never holds more than a block of the cost matrix.

A Sinkhorn update needs, for a potential h on one side, the soft minimum over the other side,

    s_j = eps log sum_i exp((h_i - |x_i - y_j|^2) / eps).                                        (1)

OTT-JAX's own online mode computes the same, but its `batched_vmap` calls into private parts of JAX
that current releases no longer have.
"""

import jax
import jax.numpy as jnp
from ott.geometry import pointcloud

from diffusions.precision import matmul
from diffusions.typing import Array, Float


def squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """|x_i - y_j|^2, at full precision where the device would round matrix products (TF32)."""
    cross = matmul(x, y.T)
    return (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None, :] - 2 * cross


@jax.tree_util.register_pytree_node_class
class BlockedPointCloud(pointcloud.PointCloud):
    """Squared distances between two point clouds, `batch_size` rows at a time.

    Only what Sinkhorn's iteration on potentials calls is blocked.
    """

    def apply_lse_kernel(self, f, g, eps, vec=None, axis=0):
        """Equation (1) per row of y (axis 0) or of x (axis 1), and its sign.

        Raises:
            ValueError: `vec` is given; iterations on potentials never do.
        """
        if vec is not None:
            raise ValueError("a weighted soft minimum is not available in blocks")
        inner, outer, potential = (self.x, self.y, f) if axis == 0 else (self.y, self.x, g)
        n_blocks = -(-len(outer) // (self._batch_size or len(outer)))
        size = -(-len(outer) // n_blocks)
        padding = jnp.broadcast_to(outer[:1], (n_blocks * size - len(outer), outer.shape[1]))
        blocks = jnp.concatenate([outer, padding]).reshape(n_blocks, size, -1)

        def soft_minimum(block):
            exponent = (potential[None, :] - squared_distances(block, inner)) / eps
            return eps * jax.nn.logsumexp(exponent, axis=1)

        soft = jax.lax.map(soft_minimum, blocks).reshape(-1)[: len(outer)]
        return soft, jnp.ones((1,), soft.dtype)
