r"""Message-passing denoiser of sparse rank-one matrices (Montanari and Vu, arXiv 2503.08028).

Input are E = sym(y_t / t), the time t and a random unit vector v. Three power iterations

    v <- E v / max(|E v|, 1e-5)                                                                     (1)

are followed by L layers on the complete graph, whose nodes hold v_i and whose edges hold E_ij,

    a_i = mean_j MLP_{3 -> 32 -> 1}(v_i, v_j, E_ij)                                                 (2)
    v_i <- alpha v_i + (1 - alpha) MLP_{2 -> 16 -> 1}(v_i, a_i),   alpha = 0.85 sigmoid(logit)      (3)

and by a readout that knows the time, s = 1 being noise free,

    s = tanh(exp(log_scale) t / n),   v <- c v s + MLP_{2 -> 4 -> 1}(v, s)                          (4)
    u_i = v_i [ |v_i| among the k largest ],   m(y, t) = u u^T                                      (5)

with u / max(|u|, 1) for u outside training. All activations are LeakyReLU with slope 0.01. The gradient
of the hard choice in (5) is that of softmax(|v| / 0.2) (straight through). The deprecated variant of
the published weights has c = 0.

Parameters are stacked over the L layers. Equation (2) is `blocked_messages`, which stores no hidden
unit per pair of nodes.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusions.checks import Count, Layers
from diffusions.networks.blocked_messages import NEGATIVE_SLOPE, aligned, mean_messages
from diffusions.precision import einsum
from diffusions.typing import Array, Float, Int, Key

INITIAL_GAIN = 0.2
LARGEST_ALPHA = 0.85
MASK_TEMPERATURE = 0.2
POWER_ITERATIONS = 3
SMALLEST_NORM = 1e-5
# s is 1 in float32 long before; keeps infinite times, which are noise free, out of products.
_LARGEST_TIME = 1e4

_leaky = functools.partial(nn.leaky_relu, negative_slope=NEGATIVE_SLOPE)


def _kernel(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Xavier uniform of [..., outputs, inputs], times the gain."""
    bound = INITIAL_GAIN * (6.0 / (shape[-1] + shape[-2])) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _bias(inputs: int) -> Any:
    """Uniform within 1/sqrt(inputs), times the gain."""
    bound = INITIAL_GAIN * inputs**-0.5

    def draw(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


class TwoLayers(nn.Module):
    """Parameters of one MLP inputs -> hidden -> 1, or of a stack of them.

    Attributes:
        inputs: of the first layer.
        hidden: units.
        stack: leading axes.
    """

    inputs: int
    hidden: int
    stack: tuple[int, ...] = ()

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """The arrays: kernel [..., hidden, inputs], bias, output [..., hidden], output_bias [...]."""
        output = self.param("output", _kernel, (*self.stack, 1, self.hidden))
        return {
            "kernel": self.param("kernel", _kernel, (*self.stack, self.hidden, self.inputs)),
            "bias": self.param("bias", _bias(self.inputs), (*self.stack, self.hidden)),
            "output": output[..., 0, :],
            "output_bias": self.param("output_bias", _bias(self.hidden), self.stack),
        }


def _two_layers(mlp: dict[str, Array], *inputs: Array) -> Array:
    """The MLP at arrays of one shape."""
    hidden = mlp["bias"] + sum(
        x[..., None] * mlp["kernel"][:, i] for i, x in enumerate(jnp.broadcast_arrays(*inputs))
    )
    return einsum("...h,h->...", _leaky(hidden), mlp["output"]) + mlp["output_bias"]


class MessagePassingDenoiser(nn.Module):
    """Equations (1) to (5).

    Attributes:
        n_nonzero: k.
        n_layers: L.
        hidden: units of the message MLP.
        update_hidden: units of the update MLP.
        readout_hidden: units of the readout MLP.
        direct_readout: whether the readout has the term c v s; the deprecated variant has not.
    """

    n_nonzero: Count
    n_layers: Layers = 10
    hidden: Count = 32
    update_hidden: Count = 16
    readout_hidden: Count = 4
    direct_readout: bool = True

    @nn.compact
    def __call__(
        self,
        edges: Float[Array, "batch n n"],
        t: Float[Array, " batch"],
        start: Float[Array, "batch n"],
        *,
        depth: int | Int[Array, ""] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch n"]:
        """The vector u of the posterior mean's estimate u u^T.

        Args:
            edges: E, symmetric.
            t: times; infinity is noise free.
            start: node vectors before (1), fresh on every call (`start_vectors`).
            depth: how many layers act, the first ones; all when absent. It may be traced, so that
                one compiled program trains a network that grows.
            train: leaves u unscaled.
        """
        n = edges.shape[-1]
        layers = {
            "message": TwoLayers(3, self.hidden, (self.n_layers,), name="message")(),
            "update": TwoLayers(2, self.update_hidden, (self.n_layers,), name="update")(),
            "logit_alpha": self.param("logit_alpha", nn.initializers.zeros, (self.n_layers,)),
        }
        readout = TwoLayers(2, self.readout_hidden, name="readout")()
        log_scale = self.param("log_scale", nn.initializers.zeros, ())

        v = power_iterations(edges, start)
        edges = aligned(edges)

        def layer(v: Array, numbered: tuple[Array, dict[str, Any]]) -> tuple[Array, None]:
            number, parameters = numbered
            message = parameters["message"]
            received = mean_messages(
                v, edges, message["kernel"], message["bias"], message["output"]
            )
            update = _two_layers(parameters["update"], v, received + message["output_bias"])
            alpha = LARGEST_ALPHA * jax.nn.sigmoid(parameters["logit_alpha"])
            moved = alpha * v + (1 - alpha) * update
            return moved if depth is None else jnp.where(number < depth, moved, v), None

        v, _ = jax.lax.scan(layer, v, (jnp.arange(self.n_layers), layers))
        s = jnp.tanh(jnp.exp(log_scale) * jnp.minimum(t / n, _LARGEST_TIME))[:, None]
        decoded = _two_layers(readout, v, s)
        if self.direct_readout:
            decoded = self.param("direct", nn.initializers.ones, ()) * v * s + decoded
        u = decoded * top_k_mask(decoded, self.n_nonzero)
        return u if train else u / jnp.maximum(_norm(u), 1.0)


def start_vectors(keys: Array, n: int) -> Float[Array, "batch n"]:
    """Uniform unit vectors, one per key."""
    v = jax.vmap(lambda key: jax.random.normal(key, (n,)))(keys)
    return v / _norm(v)


def power_iterations(
    edges: Float[Array, "batch n n"],
    v: Float[Array, "batch n"],
    n_iterations: int = POWER_ITERATIONS,
) -> Float[Array, "batch n"]:
    """Equation (1)."""

    def iterate(_: Any, v: Array) -> Array:
        moved = einsum("bij,bj->bi", edges, v)
        return moved / _norm(moved, SMALLEST_NORM)

    return jax.lax.fori_loop(0, n_iterations, iterate, v)


def _norm(v: Array, smallest: float = 1e-12) -> Array:
    """max(|v|, smallest) with room for both axes; its gradient at zero is zero."""
    return jnp.sqrt(jnp.maximum(jnp.sum(v**2, axis=-1, keepdims=True), smallest**2))


def top_k_mask(v: Float[Array, "batch n"], k: int) -> Float[Array, "batch n"]:
    """1 at the k largest |v|, else 0; the gradient is that of softmax(|v| / 0.2).

    Raises:
        ValueError: k exceeds n.
    """
    n = v.shape[-1]
    if k > n:
        raise ValueError(f"cannot keep {k} of {n} entries")
    soft = jax.nn.softmax(jnp.abs(v) / MASK_TEMPERATURE, axis=-1)
    _, largest = jax.lax.top_k(jnp.abs(jax.lax.stop_gradient(v)), k)
    hard = jax.vmap(lambda places: jnp.zeros(n, v.dtype).at[places].set(1.0))(largest)
    # In this order: soft - soft is zero exactly, where (hard + soft) - soft would be rounded.
    return hard + (soft - jax.lax.stop_gradient(soft))
