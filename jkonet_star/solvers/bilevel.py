"""Learning V through the JKO step: a bilevel problem (Bunne et al., AISTATS 2022, arXiv 2106.06345).

The inner problem is the JKO step, equation (2) of `jko_step`, whose solution theta* depends on V. The
outer problem compares the push-forward with the next snapshot by a Sinkhorn divergence S,

    min_V sum_k S(T_{theta*}(mu_k), mu_{k+1}),                                                       (1)

with one gradient step per k; without teacher forcing mu_k is replaced by the prediction of k - 1.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ott.geometry import pointcloud
from ott.solvers import linear
from ott.tools.sinkhorn_divergence import sinkdiv

from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.training import TrainingState, initial_state
from diffusions.typing import Array, Float, Key, Params
from jkonet_star.energies.models import NetworkEnergy
from jkonet_star.settings import BilevelSettings, Scheme, TransportMapKind
from jkonet_star.solvers.bilevel_batches import draw_batches
from jkonet_star.solvers.interface import check_kinds
from jkonet_star.solvers.jko_step import JKOStep, Step
from jkonet_star.solvers.transport_maps import TransportMap
from jkonet_star.solvers.whole_populations import PopulationData, PopulationNetwork

SINKHORN_THRESHOLD = 1e-2
IDENTITY_POINTS = 1000


def outer_loss(
    y: Float[Array, "n d"],
    y_weights: Float[Array, "n"],
    target: Float[Array, "m d"],
    target_weights: Float[Array, "m"],
    settings: BilevelSettings,
) -> Float[Array, ""]:
    """S of equation (1), relative to the data's variance per coordinate.

    Args:
        y: predicted particles, normalised.
        y_weights: sum to 1.
        target: observed particles, normalised.
        target_weights: sum to 1.
        settings: epsilon, iterations, and divergence or cost.
    """
    options: dict[str, Any] = {
        "threshold": SINKHORN_THRESHOLD,
        "max_iterations": settings.sinkhorn_iterations,
        "inner_iterations": min(5, settings.sinkhorn_iterations),
    }
    epsilon = settings.sinkhorn_epsilon
    if settings.outer_loss == "cost":
        geometry = pointcloud.PointCloud(y, target, epsilon=epsilon)
        cost = linear.solve(geometry, a=y_weights, b=target_weights, **options).reg_ot_cost
        return jnp.asarray(cost)
    value, _ = sinkdiv(
        y, target, epsilon=epsilon, a=y_weights, b=target_weights, solve_kwargs=options
    )
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bilevel(PopulationNetwork):
    """A network potential by (1).

    The state's `optimizer_state` holds the optimiser of V, the maps that inner problems start from,
    and whether the run has diverged. A run whose loss or gradient is not finite keeps the last V that
    was, and from then on reports a loss of NaN.

    Attributes:
        bilevel: of the inner and outer problem.
        transport_map: of the inner problem.
        monge_gap: is a term of the inner problem.
    """

    bilevel: BilevelSettings = BilevelSettings()
    transport_map: TransportMapKind = "input-convex"
    monge_gap: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_kinds(self, bilevel=(BilevelSettings,))
        widths = tuple(self.bilevel.map_hidden)
        object.__setattr__(self, "bilevel", dataclasses.replace(self.bilevel, map_hidden=widths))

    @property
    def default_scheme(self) -> Scheme:
        """JKO steps are implicit."""
        return "implicit"

    @property
    def absurd(self) -> float:
        """None is: the loss is a squared length."""
        return math.inf

    def _map(self, dimension: int) -> TransportMap:
        return TransportMap(
            kind=self.transport_map,
            dimension=dimension,
            hidden=self.bilevel.map_hidden,
            positive=self.bilevel.positive_weights,
        )

    def _jko_step(self, model: NetworkEnergy) -> JKOStep:
        """The inner problem."""
        return JKOStep(
            potential=model.potential,
            transport_map=self._map(model.dimension),
            settings=self.bilevel,
            monge_gap=self.monge_gap,
        )

    def _optimizer(self, data: PopulationData) -> optax.GradientTransformation:
        """One step per step in time and batch."""
        return self.transformation(self.batches(data)[1] * len(data.batches.tau))

    def check(self, dimension: int) -> None:
        """Raises ValueError for networks that do not fit into memory."""
        super().check(dimension)
        check_memory(self.bilevel.memory_needs)

    def init(self, key: Key, data: PopulationData) -> TrainingState:  # type: ignore[override]
        """A random energy, and maps close to the identity."""
        given, units, model = data.batches, data.units, self.model(data)
        transport_map = self._map(model.dimension)
        state = initial_state(model.init(named_key(key, "initial")), self._optimizer(data))
        mean_ratio = units.speed * jnp.mean(given.tau) / units.length
        every = given.points.reshape(-1, given.points.shape[-1])
        some = every[:: -(-len(every) // IDENTITY_POINTS)]
        params = transport_map.init(named_key(key, "maps"))
        params = transport_map.fit_identity(
            params, (some - units.center[None]) / units.length, mean_ratio
        )
        n_maps = len(given.tau) if self.bilevel.warm_start else 1
        maps = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], n_maps, axis=0), params)
        own = {
            "energy": state.optimizer_state,
            "maps": maps,
            "diverged": jnp.zeros((), bool),
        }
        return dataclasses.replace(state, optimizer_state=own)

    def diverged(self, state: TrainingState) -> Array:
        """Whether it stopped because something ceased to be finite."""
        return state.optimizer_state["diverged"]

    def advance(  # type: ignore[override]
        self, state: TrainingState, key: Key, data: PopulationData, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """One gradient step of (1) per step in time and batch."""
        given, units = data.batches, data.units
        key = named_key(key, "training")
        jko_step = self._jko_step(self.model(data))
        forced, warm = self.bilevel.teacher_forcing, self.bilevel.warm_start
        decay = self.network.ema_decay
        u = data.normalised
        n_steps = len(given.tau)
        rate = data.frame.growth_rate
        (batch_size, n_batches), optimizer = self.batches(data), self._optimizer(data)

        def loss(
            energy: Params, start: Params, step: Step, target: Array, target_weights: Array
        ) -> tuple[Array, tuple[Params, Array]]:
            params = jko_step.solve(start, energy, step)
            y = jko_step.push(params, step)
            value = outer_loss(y, step.weights, target, target_weights, self.bilevel)
            return value, (params, y)

        def through_time(
            carry: tuple, k: Array, rows: Array, weights: Array
        ) -> tuple[tuple, Array]:
            energy, optimizer_state, ema, maps, diverged, predicted, mass = carry
            x, mass = (u[k, rows[k]], weights[k]) if forced else (predicted, mass)
            if rate is not None:
                place = units.center[None] + units.length * x
                mass = rate.grown(place, mass, data.frame.times[k], given.tau[k])
                mass = mass / mass.sum()
            step = Step(x, mass, given.tau[k], units)
            start = jax.tree.map(lambda leaf: leaf[k if warm else 0], maps)
            (value, (params, y)), gradient = jax.value_and_grad(loss, has_aux=True)(
                energy, start, step, u[k + 1, rows[k + 1]], weights[k + 1]
            )
            updates, next_state = optimizer.update(gradient, optimizer_state, energy)
            next_energy = optax.apply_updates(energy, updates)
            next_ema = (
                optax.incremental_update(next_energy, ema, 1.0 - decay) if decay else next_energy
            )
            next_maps = (
                jax.tree.map(lambda all_, one: all_.at[k].set(one), maps, params) if warm else maps
            )
            sound = jnp.isfinite(value)
            for leaf in jax.tree.leaves((gradient, params, y)):
                sound &= jnp.isfinite(leaf).all()
            diverged = diverged | ~sound
            new, old = (
                (next_energy, next_state, next_ema, next_maps, y),
                (energy, optimizer_state, ema, maps, step.points),
            )
            kept = jax.tree.map(lambda a, b: jnp.where(diverged, b, a), new, old)
            return (*kept[:4], diverged, kept[4], mass), jnp.where(diverged, jnp.nan, value)

        def batch(carry: tuple, drawn: tuple[Array, Array]) -> tuple[tuple, Array]:
            rows, weights = drawn
            carry, losses = jax.lax.scan(
                lambda c, k: through_time(c, k, rows, weights),
                (*carry, u[0, rows[0]], weights[0]),
                jnp.arange(n_steps),
            )
            return carry[:5], jnp.mean(losses)

        def epoch(state: TrainingState, _: None) -> tuple[TrainingState, dict[str, Array]]:
            drawn = draw_batches(
                jax.random.fold_in(key, state.epoch),
                given,
                n_batches,
                batch_size,
                matched=self.bilevel.matched_batches,
            )
            own = state.optimizer_state
            carry = (state.params, own["energy"], state.ema, own["maps"], own["diverged"])
            carry, values = jax.lax.scan(batch, carry, drawn)
            energy, optimizer_state, ema, maps, diverged = carry
            own = {"energy": optimizer_state, "maps": maps, "diverged": diverged}
            new_state = TrainingState(
                params=energy, optimizer_state=own, ema=ema, epoch=state.epoch + 1
            )
            return new_state, {"loss": jnp.mean(values)}

        return jax.lax.scan(epoch, state, None, length=n_epochs)
