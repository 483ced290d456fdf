"""Parametrised energies: what a solver learns, as pure functions of parameters.

An energy model is a frozen, hashable description; its arrays are two pytrees, `params` (learned) and
`constants` (fixed by the data). Both models of this module offer

    potential(params, constants, x, t) -> V(x, t)        interaction(params, constants, z) -> U(z)
    pull(params, constants, x, population, weights) -> (grad U * mu)(x)
    beta(params, constants) -> beta >= 0

for one point x or one difference z = x - y, in the physical units of the data. What is learned lives at
unit scale: with the data's centre c, length l (root-mean-square deviation per coordinate), speed s
(root-mean-square displacement over tau), and dimension d,

    V(x, t) = s l N_V((x - c) / l, (t - t_0) / tau),   U(z) = s l N_U(z / l),              (1)
    beta = (s^2 tau / 2d) softplus(b),                                                             (2)

for networks, and for features phi_1, phi_2

    V(x) = s l theta_1 . phi_1((x - c) / l),   U(z) = s l theta_2 . phi_2(z / l),
    beta = s l theta_3.                                                                            (3)

A velocity without divergence beside them, c of `circulation`, equation (1), adds to -grad V:

    c(x) = s sum_m S_m grad N_m((x - c) / l)   or   s sum_m S_m grad theta_m . phi_3((x - c) / l).  (4)

So neither the unit of length or time nor where zero is changes what is learned. (2) measures beta in
units of the value at which noise alone would explain every displacement. Where beta was found
beforehand (`internal_energy`), it is a constant, not a parameter.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from diffusions.checks import Count, Widths
from diffusions.keys import named_key
from diffusions.precision import dense, einsum, matmul
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Float, Key, Params, PyTree
from jkonet_star.energies.circulation import Planes, skew_basis
from jkonet_star.energies.features import Features
from jkonet_star.energies.interactions import interaction_drift
from jkonet_star.settings import Activation


def _halves(x: Array) -> tuple[Array, Array]:
    """exp(-|x|) and the logistic function of |x|."""
    small = jnp.exp(-jnp.abs(x))
    return small, 1.0 / (1.0 + small)


@jax.custom_jvp
def logistic(x: Array) -> Array:
    """1 / (1 + e^-x), from the exponential of `softplus`."""
    small, larger = _halves(x)
    return jnp.where(x >= 0, larger, small * larger)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    value = logistic(primals[0])
    return value, value * (1.0 - value) * tangents[0]


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + e^x), with the logistic function as its derivative.

    `jax.nn.softplus` differentiates through logaddexp, whose derivative costs two more exponentials;
    here value, first and second derivative share one, which saves a sixth of an interaction's drift on
    a CPU. The logistic function is also the faster way to the value, max(x, 0) - log logistic(|x|):
    half of the time of log1p(exp(-|x|)).
    """
    return jnp.maximum(x, 0) - jnp.log(_halves(x)[1])


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(primals[0]), logistic(primals[0]) * tangents[0]


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "softplus": softplus,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "tanh": jnp.tanh,
}


class EnergyNetwork(nn.Module):
    """Multilayer perceptron from a point to a scalar energy, or to several functions.

    Attributes:
        hidden: widths of the hidden layers.
        activation: one of `ACTIVATIONS`; smooth, because the loss differentiates the gradient.
        functions: how many; 0 for one energy, without an axis of its own.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "softplus"
    functions: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "..."]:
        """The energy of each row of x."""
        for width in self.hidden:
            x = ACTIVATIONS[self.activation](dense(width)(x))
        return dense(self.functions)(x) if self.functions else dense(1)(x)[..., 0]


INITIAL_NOISE = -2.0
"""b of equation (2); softplus(-2) = 0.13: mostly drift, with a gradient that is still alive."""

Internal = Literal["none", "learned", "given"]
"""Where beta comes from."""


@flax.struct.dataclass
class Units:
    """The data's natural units, of equations (1) to (3)."""

    center: Float[Array, "d"]
    length: Float[Array, ""]
    speed: Float[Array, ""]
    time_start: Float[Array, ""]
    time_step: Float[Array, ""]  # mean tau
    noise: Float[Array, ""]  # the beta of equation (2) at softplus(b) = 1
    beta: Float[Array, ""]  # where it is given, else zero

    __repr__ = short_repr


def _number(name: str, value: Any) -> Array:
    """The energy of one point; raises ValueError where a module gives something else."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"the module of the {name} must give one number per point, got shape {jnp.shape(value)}"
        )
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkEnergy:
    """Energies (1) and (2) by neural networks.

    Attributes:
        dimension: d.
        hidden: widths of the hidden layers.
        activation: one of `ACTIVATIONS`.
        has_potential: V is learned, else it is zero.
        has_interaction: U is learned, else it is zero.
        internal: beta is zero (none), a parameter (learned) or a constant (given).
        time_varying: V takes the time.
        circulation_planes: of c, one function each; none for no circulation.
        potential_module: of V, where it is none of ours: from (..., d), the time behind it where there
            is one, to (...).
        interaction_module: likewise of U.
    """

    dimension: Count
    hidden: Widths = (64, 64)
    activation: Activation = "softplus"
    has_potential: bool = True
    has_interaction: bool = False
    internal: Internal = "none"
    time_varying: bool = False
    circulation_planes: Planes = ()
    potential_module: nn.Module | None = None
    interaction_module: nn.Module | None = None

    @property
    def has_circulation(self) -> bool:
        """C is learned."""
        return bool(self.circulation_planes)

    @property
    def _stream(self) -> EnergyNetwork:
        return EnergyNetwork(
            hidden=self.hidden,
            activation=self.activation,
            functions=len(self.circulation_planes),
        )

    def network(self, own: nn.Module | None) -> nn.Module:
        """The module of V or of U."""
        return own or EnergyNetwork(hidden=self.hidden, activation=self.activation)

    def init(self, key: Key) -> Params:
        """Random parameters; V and U start from independent ones."""
        params: dict[str, Any] = {}
        if self.has_potential:
            example = jnp.zeros(self.dimension + self.time_varying)
            network = self.network(self.potential_module)
            params["potential"] = network.init(named_key(key, "potential"), example)
        if self.has_interaction:
            network = self.network(self.interaction_module)
            example = jnp.zeros(self.dimension)
            params["interaction"] = network.init(named_key(key, "interaction"), example)
        if self.has_circulation:
            example = jnp.zeros(self.dimension)
            params["circulation"] = self._stream.init(named_key(key, "circulation"), example)
        if self.internal == "learned":
            params["internal"] = jnp.full((), INITIAL_NOISE, jnp.float32)
        return params

    def potential(
        self, params: Params, constants: Units, x: Float[Array, "d"], t: Float[Array, ""]
    ) -> Float[Array, ""]:
        """V of equation (1)."""
        if not self.has_potential:
            return jnp.zeros(())
        inputs = (x - constants.center) / constants.length
        if self.time_varying:
            phase = (t - constants.time_start) / constants.time_step
            inputs = jnp.concatenate([inputs, jnp.reshape(phase, 1)])
        network = self.network(self.potential_module)
        energy = _number("potential", network.apply(params["potential"], inputs))
        return constants.speed * constants.length * energy

    def circulation(
        self, params: Params, constants: Units, x: Float[Array, "d"]
    ) -> Float[Array, "d"]:
        """C of equation (4)."""
        if not self.has_circulation:
            return jnp.zeros_like(x)
        inputs = (x - constants.center) / constants.length
        gradients = jax.jacrev(lambda z: self._stream.apply(params["circulation"], z))(inputs)
        basis = skew_basis(self.circulation_planes, self.dimension)
        return constants.speed * einsum("mij,mj->i", basis, gradients)

    def interaction(
        self, params: Params, constants: Units, z: Float[Array, "d"]
    ) -> Float[Array, ""]:
        """U of equation (1)."""
        if not self.has_interaction:
            return jnp.zeros(())
        network = self.network(self.interaction_module)
        energy = _number("interaction", network.apply(params["interaction"], z / constants.length))
        return constants.speed * constants.length * energy

    def pull(
        self,
        params: Params,
        constants: Units,
        x: Float[Array, "n d"],
        population: Float[Array, "m d"],
        weights: Float[Array, "m"],
    ) -> Float[Array, "n d"]:
        """sum_j w_j grad U(x - y_j) at each row of x."""
        gradient = jax.grad(lambda z: self.interaction(params, constants, z))
        return interaction_drift(gradient, x, population, weights)

    def beta(self, params: Params, constants: Units) -> Float[Array, ""]:
        """Equation (2), or the given value."""
        if self.internal == "learned":
            return constants.noise * softplus(params["internal"])
        return constants.beta


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearEnergy:
    """Equation (3).

    `params` holds the coefficients under `potential`, `interaction`, `circulation` (plane by plane) and
    `internal` (a given beta as it is); `constants` holds the radial centres of each feature set under
    the same names, at unit scale, and the data's `Units` under `units`. Without these the features are
    functions of x itself.

    Attributes:
        dimension: d.
        potential_features: phi_1; None for no potential.
        interaction_features: phi_2; None for no interaction.
        internal: beta is zero (none), solved for (learned) or known beforehand (given).
        circulation_features: phi_3; None for no circulation.
        circulation_planes: of c, each with all of phi_3.
    """

    dimension: Count
    potential_features: Features | None
    interaction_features: Features | None
    internal: Internal = "none"
    circulation_features: Features | None = None
    circulation_planes: Planes = ()

    @property
    def has_potential(self) -> bool:
        """V is learned."""
        return self.potential_features is not None

    @property
    def has_interaction(self) -> bool:
        """U is learned."""
        return self.interaction_features is not None

    @property
    def has_circulation(self) -> bool:
        """C is learned."""
        return self.circulation_features is not None

    @property
    def n_circulation(self) -> int:
        """Coefficients of c."""
        features = self.circulation_features
        return 0 if features is None else len(self.circulation_planes) * features.n_features

    def circulation_jacobian(self, centers: Array, x: Float[Array, "d"]) -> Float[Array, "f d"]:
        """S_m grad phi_3 of every plane and feature, at unit scale."""
        assert self.circulation_features is not None
        gradients = self.circulation_features.jacobian(centers, x)
        basis = skew_basis(self.circulation_planes, self.dimension)
        return einsum("mij,fj->mfi", basis, gradients).reshape(-1, self.dimension)

    def circulation(
        self, params: Params, constants: PyTree, x: Float[Array, "d"]
    ) -> Float[Array, "d"]:
        """C of equation (4)."""
        if self.circulation_features is None:
            return jnp.zeros_like(x)
        center, length, speed = _scales(constants)
        columns = self.circulation_jacobian(constants["circulation"], (x - center) / length)
        return speed * matmul(params["circulation"], columns)

    def potential(
        self, params: Params, constants: PyTree, x: Float[Array, "d"], t: Float[Array, ""]
    ) -> Float[Array, ""]:
        """V of equation (3)."""
        del t
        if self.potential_features is None:
            return jnp.zeros(())
        center, length, speed = _scales(constants)
        features = self.potential_features.values(constants["potential"], (x - center) / length)
        return speed * length * matmul(params["potential"], features)

    def interaction(
        self, params: Params, constants: PyTree, z: Float[Array, "d"]
    ) -> Float[Array, ""]:
        """U of equation (3)."""
        if self.interaction_features is None:
            return jnp.zeros(())
        _, length, speed = _scales(constants)
        features = self.interaction_features.values(constants["interaction"], z / length)
        return speed * length * matmul(params["interaction"], features)

    def pull(
        self,
        params: Params,
        constants: PyTree,
        x: Float[Array, "n d"],
        population: Float[Array, "m d"],
        weights: Float[Array, "m"],
    ) -> Float[Array, "n d"]:
        """sum_j w_j grad U(x - y_j) at each row of x."""
        if self.interaction_features is None:
            return jnp.zeros_like(x)
        center, length, speed = _scales(constants)
        center = jnp.reshape(center, (1, -1))
        jacobian = self.interaction_features.mean_jacobian(
            constants["interaction"], (x - center) / length, (population - center) / length, weights
        )
        return speed * einsum("nfd,f->nd", jacobian, params["interaction"])

    def beta(self, params: Params, constants: PyTree) -> Float[Array, ""]:
        """Equation (3), or the given value."""
        match self.internal:
            case "none":
                return jnp.zeros(())
            case "given":
                return params["internal"]
            case "learned":
                _, length, speed = _scales(constants)
                return speed * length * params["internal"]


def _scales(constants: PyTree) -> tuple[Array | float, Array | float, Array | float]:
    """Centre, length and speed of equation (3)."""
    units = constants.get("units")
    return (0.0, 1.0, 1.0) if units is None else (units.center, units.length, units.speed)


EnergyModel = NetworkEnergy | LinearEnergy
