"""Maps from one population to the next, for the inner problem of `bilevel`.

In normalised coordinates u = (x - c) / l (see `energies`), with r the typical displacement over l,

    T(u) = grad psi(u),  psi(u) = |L u|^2 / 2 + b.u + w.z_K(u),                                      (1)
    z_1 = s(A_1 u + b_1),  z_{k+1} = s(W_k z_k + A_{k+1} u + b_{k+1}),  s = softplus                 (2)
    T(u) = u + r N(u),  N a multilayer perceptron.                                                   (3)

psi of (1) and (2) is convex in u where no entry of W_k and w is negative (Amos, Xu and Kolter, ICML
2017): its gradient is then the optimal map to whatever it pushes u to (Brenier). Either the weights are
positive by construction, W = softplus(K) / width, or they are free, W = K / width, and pay

    sum over layers of mean(min(K, 0)^2).                                                            (4)

(1) starts far from the identity: `fit_identity` brings it there once. (3) starts next to it.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffusions.precision import dense, matmul
from diffusions.typing import Array, Float, Key, Params
from jkonet_star.energies.models import softplus
from jkonet_star.settings import TransportMapKind

IDENTITY_STEPS = 1000
IDENTITY_RATE = 1e-2
_SLOPES = 2.0  # of the first layer: bends of about half the population's deviation


def _uniform(bound: float) -> nn.initializers.Initializer:
    def init(key: Key, shape: tuple, dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class NonnegativeDense(nn.Module):
    """z -> z W of equation (2).

    Attributes:
        width: number of outputs.
        positive: W is positive by construction.
    """

    width: int
    positive: bool

    @nn.compact
    def __call__(self, z: Float[Array, "*batch f"]) -> Float[Array, "*batch k"]:
        """The product."""
        normal = nn.initializers.normal(1.0)

        def init(key: Key, shape: tuple) -> Array:
            kernel = normal(key, shape, jnp.float32)
            return kernel if self.positive else softplus(kernel)

        kernel = self.param("kernel", init, (z.shape[-1], self.width))
        return matmul(z, (softplus(kernel) if self.positive else kernel) / z.shape[-1])


class InputConvexNetwork(nn.Module):
    """psi of equations (1) and (2).

    Attributes:
        hidden: widths of the hidden layers.
        positive: no weight between hidden layers can be negative.
    """

    hidden: tuple[int, ...] = (64, 64)
    positive: bool = True

    @nn.compact
    def __call__(self, u: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Psi at each row."""
        z: Array | None = None
        for layer, width in enumerate(self.hidden):
            slope = _SLOPES if layer == 0 else 1.0
            skip = dense(
                width,
                kernel_init=nn.initializers.normal(slope),
                bias_init=_uniform(slope),
                name=f"skip_{layer}",
            )(u)
            if z is not None:
                skip += NonnegativeDense(width, self.positive, name=f"convex_{layer}")(z)
            z = softplus(skip)
        assert z is not None
        half = lambda key, shape: 0.5 * jnp.eye(*shape)  # noqa: E731
        quadratic = matmul(u, self.param("quadratic", half, (u.shape[-1], u.shape[-1])))
        linear = self.param("linear", nn.initializers.zeros, (u.shape[-1],))
        convex = NonnegativeDense(1, self.positive, name=f"convex_{len(self.hidden)}")(z)
        return convex[..., 0] + 0.5 * jnp.sum(quadratic**2, axis=-1) + matmul(u, linear)


class MapNetwork(nn.Module):
    """N of equation (3).

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, ...] = (64, 64)

    @nn.compact
    def __call__(self, u: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """N at each row."""
        h = u
        for width in self.hidden:
            h = nn.silu(dense(width)(h))
        return dense(u.shape[-1], kernel_init=nn.initializers.normal(0.01))(h)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransportMap:
    """One of the maps, as pure functions of its parameters.

    Attributes:
        kind: `input-convex` is (1), `mlp` is (3).
        dimension: d.
        hidden: widths of the hidden layers.
        positive: of the input-convex network.
    """

    kind: TransportMapKind
    dimension: int
    hidden: tuple[int, ...] = (64, 64)
    positive: bool = True

    @property
    def network(self) -> InputConvexNetwork | MapNetwork:
        """The module of psi or of N."""
        if self.kind == "input-convex":
            return InputConvexNetwork(hidden=self.hidden, positive=self.positive)
        return MapNetwork(hidden=self.hidden)

    def init(self, key: Key) -> Params:
        """Random parameters."""
        return self.network.init(key, jnp.zeros(self.dimension))

    def apply(
        self, params: Params, u: Float[Array, "n d"], ratio: Float[Array, ""]
    ) -> Float[Array, "n d"]:
        """T(u); `ratio` is r."""
        if self.kind == "input-convex":
            # Rows do not mix: the gradient of the sum is every row's gradient, in one batched product.
            return jax.grad(lambda v: jnp.sum(self._values(params, v)))(u)
        return u + ratio * self._values(params, u)

    def _values(self, params: Params, u: Array) -> Array:
        values: Array = self.network.apply(params, u)  # type: ignore[assignment]
        return values

    def penalty(self, params: Params) -> Float[Array, ""]:
        """Equation (4); zero where nothing has to be positive, or is so by construction."""
        if self.kind != "input-convex" or self.positive:
            return jnp.zeros(())
        layers = params["params"]
        kernels = [layers[name]["kernel"] for name in layers if name.startswith("convex_")]
        return sum((jnp.mean(jnp.minimum(k, 0.0) ** 2) for k in kernels), jnp.zeros(()))

    def fit_identity(
        self, params: Params, u: Float[Array, "n d"], ratio: Float[Array, ""]
    ) -> Params:
        """Parameters whose map is close to the identity on the points u, against r."""
        if self.kind != "input-convex":
            return params
        optimizer = optax.adam(optax.cosine_decay_schedule(IDENTITY_RATE, IDENTITY_STEPS))

        def loss(params: Params) -> Array:
            return jnp.mean(jnp.sum((self.apply(params, u, ratio) - u) ** 2, axis=-1)) / ratio**2

        def improve(carry: tuple, _: None) -> tuple[tuple, None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        start = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(improve, start, None, length=IDENTITY_STEPS)
        return params
