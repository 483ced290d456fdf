"""Learning V through the JKO step: a bilevel problem (Bunne et al., AISTATS 2022, arXiv 2106.06345).

In normalised coordinates u = (x - c) / l, with r_k = s tau_k / l the typical displacement (`energies`),
the inner problem of step k is that of the JKO step, written for a map T of parameters theta,

    phi(y) = (1/r^2) E_i [tau V(y_i) / l^2 + |y_i - u_i|^2 / 2],                                     (1)
    theta* = argmin L(theta, V),  L = phi(T(u)) + penalty(theta) + g M(u, T(u)) / r^2,               (2)

with M the Monge gap E|T(u) - u|^2 - W(u, T(u)) (Uscidda and Cuturi, ICML 2023). The outer problem
compares the push-forward with the next snapshot by a Sinkhorn divergence S,

    min_V sum_k S(T_{theta*}(mu_k), mu_{k+1}),                                                       (3)

with one gradient step per k; without teacher forcing mu_k is replaced by the prediction of k - 1.

(2) is solved by Adam. Its solution is differentiated through these steps (unrolled), or by its
optimality, grad_theta L = 0 (implicit): with J the Jacobian of T and h = grad_theta S,

    dS/dV = -(d/dV) <grad phi(y), J v>,   (J' (hess phi) J + lambda I) v = h.                        (4)

The matrix of (4) is the Hessian of L without the curvature of T, which vanishes with the residual
grad phi where the map attains the optimum of every particle, that is, the JKO step itself, and which
elsewhere makes the matrix indefinite. It is solved by conjugate gradients. The plan of M is held
fixed: its quadratic terms cancel, and M drops out of (4). Unrolling differentiates everything, but
the derivative of Adam, which divides by the gradient's own size, grows along the way: after a hundred
steps it is rounding.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ott.geometry import pointcloud
from ott.solvers import linear
from ott.tools.sinkhorn_divergence import sinkdiv

from diffusions.memory import check_memory
from diffusions.training import TrainingState, cut_batch, initial_state
from diffusions.typing import Array, Float, Key, Params, PyTree
from jkonet_star.energies.models import NetworkEnergy, Units
from jkonet_star.settings import BilevelSettings, Scheme, TransportMapKind
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.bilevel_batches import BilevelData, bilevel_data, draw_batches
from jkonet_star.solvers.interface import Frame, check_kinds, frame
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.transport_maps import TransportMap
from jkonet_star.units import data_units

SINKHORN_THRESHOLD = 1e-2
IDENTITY_POINTS = 1000


class Step(NamedTuple):
    """What the inner problem is given beside the two networks."""

    points: Float[Array, "n d"]  # u
    weights: Float[Array, "n"]  # sum to 1
    tau: Float[Array, ""]
    units: Units

    @property
    def ratio(self) -> Float[Array, ""]:
        """The typical displacement r."""
        return self.units.speed * self.tau / self.units.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class JKOStep:
    """The inner problem (2) and its derivative.

    Attributes:
        potential: V(params, units, x, t).
        transport_map: T.
        settings: of the inner problem.
        monge_gap: M is a term of (2).
    """

    potential: Callable[[Params, Units, Array, Array], Array]
    transport_map: TransportMap
    settings: BilevelSettings
    monge_gap: bool = False

    def particle_objective(
        self, energy: Params, y: Float[Array, "n d"], step: Step
    ) -> Float[Array, ""]:
        """Equation (1)."""
        units = step.units

        def potential(point: Array) -> Array:
            x = units.center + units.length * point
            return self.potential(energy, units, x, units.time_start)

        # Of V only differences count: the value at the mean start keeps small numbers small.
        level = potential(jnp.sum(step.weights[:, None] * step.points, axis=0))
        values = step.tau * (jax.vmap(potential)(y) - level) / units.length**2
        distances = 0.5 * jnp.sum((y - step.points) ** 2, axis=-1)
        terms = values + self.settings.transport_weight * distances
        return jnp.sum(step.weights * terms) / step.ratio**2

    def objective(self, params: Params, energy: Params, step: Step) -> Float[Array, ""]:
        """L of equation (2)."""
        y = self.push(params, step)
        value = self.particle_objective(energy, y, step)
        if self.settings.weight_penalty:
            value += self.settings.weight_penalty * self.transport_map.penalty(params)
        if self.monge_gap and self.settings.monge_gap_weight:
            gap = monge_gap(
                step.points,
                y,
                epsilon=jnp.asarray(self.settings.monge_gap_epsilon),
                iterations=self.settings.monge_gap_iterations,
            )
            value += self.settings.monge_gap_weight * gap / step.ratio**2
        return value

    def push(self, params: Params, step: Step) -> Float[Array, "n d"]:
        """T(u)."""
        return self.transport_map.apply(params, step.points, step.ratio)

    def solve(self, start: Params, energy: Params, step: Step) -> Params:
        """theta* of equation (2), by Adam from `start`; differentiable in `energy`."""
        if self.settings.inner_gradient == "unrolled":
            return self._descend(start, energy, step)
        return _implicit(self, start, energy, step)

    def _descend(self, start: Params, energy: Params, step: Step) -> Params:
        settings = self.settings
        optimizer = optax.adam(
            settings.map_learning_rate, b1=settings.map_first_moment, b2=settings.map_second_moment
        )
        slope = jax.grad(self.objective)

        def improve(carry: tuple[Params, PyTree], gradient: Params) -> tuple[Params, PyTree]:
            params, state = carry
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        carry = (start, optimizer.init(start))
        if settings.inner_tolerance == 0:
            carry, _ = jax.lax.scan(
                lambda c, _: (improve(c, slope(c[0], energy, step)), None),
                carry,
                None,
                length=settings.inner_steps,
            )
            return carry[0]
        first = slope(start, energy, step)
        goal = settings.inner_tolerance * optax.global_norm(first)

        def unfinished(loop: tuple) -> Array:
            _, gradient, count = loop
            # A NaN compares false and ends the loop too.
            return (count < settings.inner_steps) & (optax.global_norm(gradient) > goal)

        def advance(loop: tuple) -> tuple:
            carry, gradient, count = loop
            carry = improve(carry, gradient)
            return carry, slope(carry[0], energy, step), count + 1

        carry, _, _ = jax.lax.while_loop(unfinished, advance, (carry, first, 0))
        return carry[0]

    def pull_back(self, params: Params, energy: Params, step: Step, cotangent: Params) -> Params:
        """Equation (4)."""
        push = functools.partial(self.push, step=step)
        y, forward = jax.linearize(push, params)
        backward = jax.linear_transpose(forward, params)
        _, curvature = jax.linearize(
            jax.grad(lambda p: self.particle_objective(energy, p, step)), y
        )

        def bend(v: Params) -> Params:
            return backward(curvature(forward(v)))[0]

        # Damping is relative to the curvature along the right-hand side.
        size = optax.tree.vdot(cotangent, cotangent)
        along = jnp.abs(optax.tree.vdot(cotangent, bend(cotangent)))
        shift = self.settings.damping * along / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)

        def matrix(v: Params) -> Params:
            return jax.tree.map(lambda a, b: a + shift * b, bend(v), v)

        v, _ = jax.scipy.sparse.linalg.cg(
            matrix, cotangent, maxiter=self.settings.conjugate_gradients
        )
        moved = forward(v)

        def slope_along(energy: Params) -> Array:
            gradient = jax.grad(lambda p: self.particle_objective(energy, p, step))(y)
            return -jnp.sum(gradient * moved)

        return jax.grad(slope_along)(energy)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _implicit(problem: JKOStep, start: Params, energy: Params, step: Step) -> Params:
    return problem._descend(start, energy, step)


def _implicit_forward(problem: JKOStep, start: Params, energy: Params, step: Step) -> tuple:
    params = problem._descend(start, energy, step)
    return params, (params, energy, step)


def _implicit_backward(problem: JKOStep, residuals: tuple, cotangent: Params) -> tuple:
    params, energy, step = residuals
    # The optimum depends neither on where the search starts nor is it differentiated by the data.
    return None, problem.pull_back(params, energy, step, cotangent), None


_implicit.defvjp(_implicit_forward, _implicit_backward)


def monge_gap(
    points: Float[Array, "n d"],
    moved: Float[Array, "n d"],
    *,
    epsilon: Float[Array, ""],
    iterations: int,
) -> Float[Array, ""]:
    """M of equation (2): what moving each point to its own image costs beyond the cheapest way.

    OTT-JAX has it in `ott.neural`, whose import needs Diffrax, and in no other place.

    Args:
        points: u, of equal weight.
        moved: T(u).
        epsilon: of the entropy H of the plan P: W = <P, C> - epsilon H(P).
        iterations: of Sinkhorn; all are carried out, whatever the error.

    Returns:
        M, in squared units of `points`.
    """
    solved = linear.solve(
        pointcloud.PointCloud(points, moved, epsilon=epsilon),  # type: ignore[arg-type]
        min_iterations=iterations,
        max_iterations=iterations,
        inner_iterations=iterations,
    )
    cheapest: Array = solved.ent_reg_cost  # type: ignore[union-attr]
    return jnp.mean(jnp.sum((points - moved) ** 2, axis=-1)) - cheapest


def outer_loss(
    y: Float[Array, "n d"],
    y_weights: Float[Array, "n"],
    target: Float[Array, "m d"],
    target_weights: Float[Array, "m"],
    settings: BilevelSettings,
) -> Float[Array, ""]:
    """S of equation (3), relative to the data's variance per coordinate.

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


@flax.struct.dataclass
class BilevelGiven:
    """What the training is given."""

    n_particles: int = flax.struct.field(pytree_node=False)  # of the largest snapshot
    frame: Frame
    units: Units
    batches: BilevelData


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bilevel(Network):
    """A network potential by (3).

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
        """The inner problem (2)."""
        return JKOStep(
            potential=model.potential,
            transport_map=self._map(model.dimension),
            settings=self.bilevel,
            monge_gap=self.monge_gap,
        )

    def _batches(self, data: BilevelGiven) -> tuple[int, int, optax.GradientTransformation]:
        """Size and number of batches, and the optimiser."""
        size = min(self.network.batch_size, data.n_particles)
        number = -(-data.n_particles // size)
        return size, number, self.transformation(number * len(data.batches.tau))

    def check(self, dimension: int) -> None:
        """Raises ValueError for networks that do not fit into memory."""
        super().check(dimension)
        check_memory(self.bilevel.memory_needs)

    def remark(self, problem: Problem) -> str | None:
        """That a batch is cut."""
        return cut_batch(
            self.network.batch_size, _n_particles(problem.snapshots), "particles of the data"
        )

    def prepare(self, problem: Problem) -> tuple[BilevelGiven, dict[str, Any]]:  # type: ignore[override]
        """Snapshots, couplings, and units to learn in."""
        data = BilevelGiven(
            n_particles=_n_particles(problem.snapshots),
            frame=frame(problem),
            units=data_units(problem.snapshots, problem.conditions, 0.0),
            batches=bilevel_data(problem.snapshots, problem.couplings),
        )
        return data, {"epochs": self.epochs, "batch_size": self._batches(data)[0]}

    def init(self, key: Key, data: BilevelGiven) -> TrainingState:  # type: ignore[override]
        """A random energy, and maps close to the identity."""
        given, units, model = data.batches, data.units, self.model(data)
        transport_map = self._map(model.dimension)
        state = initial_state(model.init(jax.random.fold_in(key, 0)), self._batches(data)[2])
        mean_ratio = units.speed * jnp.mean(given.tau) / units.length
        every = given.points.reshape(-1, given.points.shape[-1])
        some = every[:: -(-len(every) // IDENTITY_POINTS)]
        params = transport_map.init(jax.random.fold_in(key, 2))
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
        self, state: TrainingState, key: Key, data: BilevelGiven, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """One gradient step of (3) per step in time and batch."""
        given, units = data.batches, data.units
        key = jax.random.fold_in(key, 1)
        jko_step = self._jko_step(self.model(data))
        forced, warm = self.bilevel.teacher_forcing, self.bilevel.warm_start
        decay = self.network.ema_decay
        u = (given.points - units.center[None, None]) / units.length
        n_steps = len(given.tau)
        batch_size, n_batches, optimizer = self._batches(data)

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
            energy, optimizer_state, ema, maps, diverged, predicted = carry
            observed = u[k, rows[k]]
            source = k if forced else 0
            step = Step(observed if forced else predicted, weights[source], given.tau[k], units)
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
            return (*kept[:4], diverged, kept[4]), jnp.where(diverged, jnp.nan, value)

        def batch(carry: tuple, drawn: tuple[Array, Array]) -> tuple[tuple, Array]:
            rows, weights = drawn
            carry, losses = jax.lax.scan(
                lambda c, k: through_time(c, k, rows, weights),
                (*carry, u[0, rows[0]]),
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


def _n_particles(snapshots: Snapshots) -> int:
    """Of the largest snapshot."""
    return int(np.count_nonzero(np.asarray(snapshots.weights), axis=1).max())
