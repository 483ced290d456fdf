"""An energy as functions of points: V, U, the drift that they give, and what goes with it."""

import flax.struct
import jax
import jax.numpy as jnp

from diffusions.arguments import checked
from diffusions.typing import Array, Float, HostArray, Params, PyTree
from jkonet_star.dynamics import Pull, energy_gradient, potential_gradient, scheme_time
from jkonet_star.energies.models import EnergyModel
from jkonet_star.growth_rate import GrowthRate
from jkonet_star.snapshots import relative


@flax.struct.dataclass
class EnergyFunctions:
    """J(mu) = int V dmu + int int U(x - y) dmu dmu + beta int rho log rho, term by term.

    What V, U, beta and g are, and in which units, `FittedEnergy` says.
    """

    model: EnergyModel = flax.struct.field(pytree_node=False)
    scheme: str = flax.struct.field(pytree_node=False)
    params: Params
    constants: PyTree
    times: Float[Array, "t"]  # of the training snapshots, relative to the start
    origin: Float[Array, "d"] | None = None  # of the training snapshots; None for zero
    start: Float[Array, ""] | None = None  # likewise, of their times
    growth_rate: GrowthRate | None = None  # of points and times as the snapshots store them
    substeps: int = flax.struct.field(pytree_node=False, default=1)  # of the scheme in every step

    @property
    def dimension(self) -> int:
        """Dimension d of the state space."""
        return self.model.dimension

    @property
    def beta(self) -> Float[Array, ""]:
        """Weight of the internal energy, in length^2 / (2 time)."""
        return self.model.beta(self.params, self.constants)

    @checked(d=lambda energy: energy.dimension)
    def potential(
        self, x: Float[Array, "*batch d"] | HostArray, t: Float[Array, ""] | float | None = None
    ) -> Float[Array, "*batch"]:
        """V(x, t); t is where the scheme evaluates the first step, where it is not given."""
        return self._potential(relative(x, self.origin), relative(t, self.start))

    @jax.jit
    def _potential(self, x: Array, t: Array | float | None) -> Array:
        self.check_single()
        t = self._time(t)
        return jnp.vectorize(self._potential_at, signature="(d),()->()")(x, t)

    @checked(d=lambda energy: energy.dimension)
    @jax.jit
    def interaction(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """U(z) of differences z = x - y."""
        self.check_single()
        return jnp.vectorize(self._interaction_at, signature="(d)->()")(z)

    @checked(d=lambda energy: energy.dimension)
    def drift(
        self,
        x: Float[Array, "n d"] | HostArray,
        population: Float[Array, "m d"] | HostArray | None = None,
        *,
        weights: Float[Array, "m"] | HostArray | None = None,
        t: Float[Array, ""] | float | None = None,
    ) -> Float[Array, "n d"]:
        """-grad V(x, t) - mean_j w_j grad U(x - y_j), and c(x) where there is a circulation.

        Args:
            x: where.
            population: the particles y_j; x itself where not given.
            weights: of the population; uniform where not given.
            t: of a time-varying potential; where the scheme evaluates the first step if not given.
        """
        check_present("x", x)
        if population is not None:
            check_present("population", population)
            population = relative(population, self.origin)
        return self._drift(relative(x, self.origin), population, weights, relative(t, self.start))

    @jax.jit
    def _drift(
        self,
        x: Array,
        population: Array | None,
        weights: Array | None,
        t: Array | float | None,
    ) -> Array:
        self.check_single()
        t = self._time(t)
        population = x if population is None else population
        if weights is None:
            weights = jnp.full(population.shape[0], 1.0 / population.shape[0])
        drift = -energy_gradient(self._potential_at, self._pull_term, x, t, population, weights)
        return drift + self._circulation(x) if self.has_circulation else drift

    @checked(d=lambda energy: energy.dimension)
    def circulation(self, x: Float[Array, "n d"] | HostArray) -> Float[Array, "n d"]:
        """C(x), the part of the drift that is no gradient; zero where none was learned."""
        self.check_single()
        return self._circulation(relative(x, self.origin))

    @jax.jit
    def _circulation(self, x: Array) -> Array:
        if not self.has_circulation:
            return jnp.zeros_like(x)
        return jax.vmap(lambda p: self.model.circulation(self.params, self.constants, p))(x)

    @property
    def has_circulation(self) -> bool:
        """Whether a velocity without divergence was learned beside V."""
        return getattr(self.model, "has_circulation", False)

    @checked(d=lambda energy: energy.dimension)
    def growth(
        self, x: Float[Array, "*batch d"] | HostArray, t: Float[Array, ""] | float | None = None
    ) -> Float[Array, "*batch"]:
        """The rate g(x, t), in 1 / time, at which particles multiply; negative where they die.

        Snapshots are samples and tell shares, not numbers. So g is relative, known up to a function of
        time, and centred: its mean over the population is zero in the middle of every step. It is
        absolute where the masses of the snapshots were given to the fit.

        Args:
            x: where.
            t: when; the middle of the first step, where it is not given.

        Raises:
            ValueError: the energy was learned without growth.
        """
        if self.growth_rate is None:
            raise ValueError("this energy was learned without growth: fit it with growth=True")
        return self._growth(relative(x, self.origin), relative(t, self.start))

    @jax.jit
    def _growth(self, x: Array, t: Array | float | None) -> Array:
        self.check_single()
        assert self.growth_rate is not None
        t = (self.times[0] + self.times[1]) / 2 if t is None else jnp.asarray(t, self.times.dtype)
        rows = jnp.reshape(jnp.asarray(x), (-1, self.dimension))
        return self.growth_rate(rows, t).reshape(jnp.shape(x)[:-1])

    @checked(d=lambda energy: energy.dimension)
    def gradients(
        self, points: Float[Array, "n d"], weights: Float[Array, "n"], t: Float[Array, ""]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Grad V(x_i, t) and sum_j w_j grad U(x_i - x_j) at the particles of a population."""
        x, t = relative(points, self.origin), relative(t, self.start)
        pull = self._pull(x, x, weights) if self.model.has_interaction else jnp.zeros_like(x)
        return potential_gradient(self._potential_at, x, t), pull

    def check_single(self) -> None:
        """Raises ValueError where this is a stack."""
        if self.times.ndim != 1:
            raise ValueError(
                f"this is a stack of {len(self.times)} energies: take one with member(i), or "
                "jax.vmap over it"
            )

    def _time(self, t: Array | float | None) -> Array:
        if t is None:
            return scheme_time(self.scheme, self.times[0], self.times[1] - self.times[0])
        return jnp.asarray(t, self.times.dtype)

    def _potential_at(self, x: Array, t: Array) -> Array:
        return self.model.potential(self.params, self.constants, x, t)

    def _interaction_at(self, z: Array) -> Array:
        return self.model.interaction(self.params, self.constants, z)

    def _pull(self, x: Array, population: Array, weights: Array) -> Array:
        return self.model.pull(self.params, self.constants, x, population, weights)

    @property
    def _pull_term(self) -> Pull | None:
        return self._pull if self.model.has_interaction else None


def check_present(name: str, points: Array | HostArray) -> None:
    """Raises ValueError where there are no particles."""
    if not points.shape[0]:
        raise ValueError(f"{name} must have at least one row, got shape {points.shape}")
