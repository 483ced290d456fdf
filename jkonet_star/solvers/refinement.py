"""Refinement: an energy whose predictions have the law of the next snapshot.

The first-order loss (`first_order`, equation (2)) is a regression: it learns the mean of where a
particle may go, and a population that is moved by means shrinks. Starting at its solution, over the
same parameters theta,

    L(theta) = mean_k D(law of S_theta(X), X ~ mu_k; mu_{k+1}) / (l sqrt d)^a + lambda L_JKO(theta), (1)
    D(P, Q) = 2 E|X - Y|^a - E|X - X'|^a - E|Y - Y'|^a,   0 < a < 2,                               (2)

with S_theta a step of the energy in its own scheme, noise sqrt(2 beta tau) xi included and
reparametrised, l the data's length (`units`) and L_JKO the first-order loss. D is the generalised
energy distance (Szekely and Rizzo, J. Stat. Plan. Inference 2013): zero for equal laws only, without
a bandwidth, and with an estimate from a few hundred particles that has no bias,

    D = 2 sum_ij |x_i - y_j|^a / nm - sum_{i !~ j} |x_i - x_j|^a / #{i !~ j} - the same of y,      (3)

where i ~ j are draws of one particle of the data. Laws are judged with a = 1; a smaller a weighs near
pairs more, and so sees finer structure. Over several steps (`rollout`) the prediction from
mu_k is compared with mu_{k+1}, mu_{k+2}, ... in turn. A population at hand stands for the whole one in
the interaction.

Where particles multiply and die, the law of a step has the weights w(x) = exp(tau g(x)) of sum 1, in
all terms of (2) and (3), and the coefficients of g (`growth_rate`) are refined along with theta.

The coefficients of linear energies differ in scale by orders of magnitude. Their gradient steps are
made in directions eta, theta = theta_0 + P eta, that each move the particles' drift by one unit,

    P = E diag(e)^{-1/2},   E diag(e) E^T = mean over particles of J J^T,                          (4)

J the (features, d) Jacobian of the features; what moves none is left out.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusions.devices import Members
from diffusions.keys import named_key
from diffusions.precision import matmul
from diffusions.training import TrainingState, initial_state, train_epochs
from diffusions.typing import Array, Bool, Float, Int, Key, Keys, Params, PyTree
from jkonet_star.energies.features import Features
from jkonet_star.energies.models import EnergyModel, LinearEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth_rate import with_theta
from jkonet_star.settings import RefinementSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.divergence import sound_epochs
from jkonet_star.solvers.first_order import FirstOrderConditions, compactly_ordered, jko_loss
from jkonet_star.solvers.interface import Frame, Solver, frame
from jkonet_star.solvers.problem import Problem
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.side_by_side import SideBySide, as_problems, stacked
from jkonet_star.units import data_units

NEAR = 1e-3
"""Distances, relative to l, below which (2) is smooth: single precision tells no closer ones apart."""

GROWTH = "growth"
"""Among the parameters: theta of `growth_rate`."""
GRADIENT_CLIP = 10.0
INTERACTION_SAMPLES = 16
NOISE_RATE = 20.0
"""How much faster than the network's parameters the one of beta moves."""
DIRECTION_SAMPLES = 2000
LEAST_MOTION = 1e-6
"""Eigenvalues of (4), relative to the largest, of directions that are left out."""


@flax.struct.dataclass
class RefinementData:
    """What the programs are given."""

    frame: Frame
    constants: PyTree
    conditions: FirstOrderConditions
    snapshots: Snapshots
    length: Float[Array, ""]  # l
    speed: Float[Array, ""]
    noise_rate: Float[Array, ""]
    directions: dict[str, Float[Array, "f r"]]  # P of each linear part
    log_ratios: Float[Array, "steps"] | None  # of the masses of the snapshots, where they are known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement(Solver):
    """Equation (1), from an energy on; an epoch is one gradient step.

    Attributes:
        terms: that were learned.
        model: of the energy.
        settings: of the refinement.
    """

    terms: Terms
    model: EnergyModel
    settings: RefinementSettings

    def check(self, dimension: int) -> None:
        """Nothing depends on the dimension alone; see `RefinementSettings.memory_needs_of`."""

    def prepare(self, problem: Problem) -> tuple[PyTree, dict[str, Any]]:
        """Raises TypeError: it also needs an energy, see `Refining`."""
        raise TypeError("a refinement begins at an energy")

    def init(self, key: Key, data: PyTree) -> PyTree:
        """Raises TypeError: see `begin`."""
        raise TypeError("a refinement begins at an energy")

    @property
    def epochs(self) -> int:
        """Gradient steps."""
        return self.settings.refine

    def optimizer(self, data: RefinementData) -> optax.GradientTransformation:
        """Adam behind a clipped gradient, in the directions (4) where the model is linear."""
        rate = optax.cosine_decay_schedule(self.settings.refine_learning_rate, max(1, self.epochs))
        adam = optax.chain(optax.clip_by_global_norm(GRADIENT_CLIP), optax.adam(rate))
        if not isinstance(self.model, LinearEnergy):
            return optax.chain(adam, _faster_noise(data.noise_rate))
        return _in_directions(adam, data.directions)

    def begin(self, params: Params, data: RefinementData) -> TrainingState:
        """The state before the first step; pure."""
        return initial_state(params, self.optimizer(data))

    def advance(
        self, state: TrainingState, key: Key, data: RefinementData, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """Gradient steps of equation (1)."""
        own = named_key(key, "refinement")
        optimizer = self.optimizer(data)

        def loss(params: Params, batch: Array, key: Key) -> tuple[Array, dict[str, Array]]:
            del batch
            law_key, pair_key = jax.random.split(key)
            distance = self.law_distance(params, data, law_key)
            total = distance
            if self.settings.first_order_weight:
                total += self.settings.first_order_weight * self._first_order(
                    params, data, pair_key
                )
            return total, {"energy_distance": distance}

        def one(state: TrainingState) -> tuple[TrainingState, dict[str, Array]]:
            return train_epochs(
                state,
                own,
                batches=lambda key: jnp.zeros((1, 0)),
                loss=loss,
                optimizer=optimizer,
                n_epochs=1,
            )

        return sound_epochs(one, state, n_epochs)

    def law_distance(self, params: Params, data: RefinementData, key: Key) -> Float[Array, ""]:
        """The first term of equation (1), from particles that the key draws."""
        snapshots, n_steps = data.snapshots, data.snapshots.n_steps
        n = min(self.settings.refine_batch_size, snapshots.points.shape[1])
        # As the snapshots store them.
        energy = self._energy(params, data).replace(  # type: ignore[attr-defined]
            origin=None, start=None
        )
        grows = energy.growth_rate is not None
        rows_key, noise_key = jax.random.split(key)
        rows = jax.vmap(lambda k, w: draw(k, w, n))(
            jax.random.split(rows_key, len(snapshots.points)), snapshots.weights
        )
        drawn = jax.vmap(lambda points, r: points[r])(snapshots.points, rows)
        uniform = jnp.full(n, 1.0 / n, drawn.dtype)
        noisy = self.model.internal != "none"
        exponent = self.settings.refine_exponent

        def rolled(k: Array, key: Key) -> tuple[Array, Array]:
            """Sum of the distances from one snapshot on, and how many there are."""

            def onward(carry: tuple, ahead: Array) -> tuple[tuple, Any]:
                x, weights, key = carry
                key, own = jax.random.split(key)
                at = jnp.minimum(k + ahead, n_steps - 1)
                step, weights = energy.advanced(
                    x, weights, snapshots.times[at], snapshots.dt[at], key=own if noisy else None
                )
                if grows:
                    weights = weights / weights.sum()
                there = k + ahead < n_steps
                distance = energy_distance(
                    step.points / data.length,
                    drawn[at + 1] / data.length,
                    rows[k][:, None] == rows[k],
                    rows[at + 1][:, None] == rows[at + 1],
                    weights if grows else None,
                    exponent=exponent,
                )
                return (step.points, weights, key), (jnp.where(there, distance, 0.0), there)

            _, (distances, there) = jax.lax.scan(
                onward, (drawn[k], uniform, key), jnp.arange(min(self.settings.rollout, n_steps))
            )
            return distances.sum(), there.sum()

        distances, there = jax.vmap(rolled)(
            jnp.arange(n_steps), jax.random.split(noise_key, n_steps)
        )
        return distances.sum() / there.sum() / snapshots.dimension ** (exponent / 2)

    def _first_order(self, params: Params, data: RefinementData, key: Key) -> Array:
        conditions = data.conditions
        n_pairs = conditions.point.shape[0]
        size = min(n_pairs, self.settings.refine_batch_size * data.snapshots.n_steps)
        rows_key, own = jax.random.split(key)
        return jko_loss(
            self.model,
            params,
            data.constants,
            conditions,
            jax.random.randint(rows_key, (size,), 0, n_pairs),
            speed=data.speed,
            key=own,
            interaction_samples=INTERACTION_SAMPLES if self.model.has_interaction else 0,
        )

    def _energy(self, params: Params, data: RefinementData) -> FittedEnergy:
        """Of parameters among which are those of growth; its rate is not in its gauge."""
        own = {name: leaf for name, leaf in params.items() if name != GROWTH}
        energy = data.frame.energy(self.model, own, data.constants)
        if energy.growth_rate is None:
            return energy
        rate = energy.growth_rate.replace(theta=params[GROWTH])  # type: ignore[attr-defined]
        return energy.replace(growth_rate=rate)  # type: ignore[attr-defined]

    def energy(self, state: TrainingState, data: RefinementData) -> FittedEnergy:
        """That of the last sound step."""
        energy, snapshots = self._energy(state.ema, data), data.snapshots
        if energy.growth_rate is None:
            return energy
        rate = with_theta(
            energy.growth_rate,
            state.ema[GROWTH],
            snapshots.points[:-1],
            snapshots.weights[:-1],
            snapshots.dt,
            data.log_ratios,
        )
        return energy.replace(growth_rate=rate)  # type: ignore[attr-defined]

    def diverged(self, state: TrainingState) -> Bool[Array, ""]:
        """Whether the parameters have ceased to be finite."""
        return super().diverged(state.params)


@functools.partial(jax.jit, static_argnames=("refinement", "several", "members"))
def _begin(
    refinement: Refinement,
    params: Params,
    data: RefinementData,
    *,
    several: bool,
    members: Members,
) -> TrainingState:
    return members.vmap(refinement.begin, (0, 0 if several else None))(params, data)


class Refining(SideBySide):
    """The refinement of a stack of energies, one state per energy.

    Args:
        settings: of it.
        problem: that they were learned from; or that of each.
        energies: where it begins.
        learn_noise: a beta that is a parameter is one; otherwise it stays as it is.
    """

    def __init__(
        self,
        settings: RefinementSettings,
        problem: Problem | Sequence[Problem],
        energies: FittedEnergy,
        *,
        learn_noise: bool = True,
    ):
        problems = as_problems(problem)
        self._several = not isinstance(problem, Problem)
        self.solver = Refinement(terms=problems[0].terms, model=energies.model, settings=settings)
        self.facts = [{} for _ in problems]
        data = functools.partial(refinement_data, learn_noise=learn_noise)
        self.data = (
            stacked([data(own, _alone(energies, i)) for i, own in enumerate(problems)])
            if self._several
            else data(problems[0], energies)
        )
        self._params = dict(energies.params)
        if energies.growth_rate is not None:
            self._params[GROWTH] = energies.growth_rate.theta

    def initial(self, keys: Keys) -> TrainingState:
        """States before the first step; the keys draw nothing yet."""
        self._share(len(keys))
        return _begin(self.solver, self.members.placed(self._params), self._data, **self._how)


def _alone(energies: FittedEnergy, member: int) -> FittedEnergy:
    """A stack of one of them."""
    return jax.tree.map(lambda leaf: leaf[member : member + 1], energies)


def refinement_data(
    problem: Problem, energies: FittedEnergy, *, learn_noise: bool = True
) -> RefinementData:
    """What the refinement of a stack of energies of a problem is given.

    Args:
        problem: that they were learned from.
        energies: every leaf with a leading seed axis; all with the same constants.
        learn_noise: as in `Refining`.
    """
    constants = jax.tree.map(lambda leaf: leaf[0], energies.constants)
    units = data_units(problem.snapshots, problem.conditions)
    model, conditions = energies.model, problem.conditions
    if model.has_interaction:
        conditions = compactly_ordered(conditions)
    return RefinementData(
        frame=frame(problem),
        constants=constants,
        conditions=conditions,
        snapshots=problem.snapshots,
        length=units.length,
        speed=units.speed,
        noise_rate=jnp.float32(NOISE_RATE if learn_noise else 0.0),
        directions=(
            _directions(model, constants, problem.snapshots)
            if isinstance(model, LinearEnergy)
            else {}
        ),
        log_ratios=None if problem.growth is None else problem.growth.log_ratios,
    )


@functools.partial(jax.jit, static_argnames=("exponent",))
def energy_distance(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    same_x: Bool[Array, "n n"],
    same_y: Bool[Array, "m m"],
    weights: Float[Array, "n"] | None = None,
    *,
    exponent: float = 1.0,
) -> Float[Array, ""]:
    """Equation (3).

    Args:
        x: a sample of P.
        y: a sample of Q.
        same_x: which pairs are draws of one particle, the diagonal among them.
        same_y: likewise.
        weights: of x, of sum 1; uniform where absent.
        exponent: a.
    """
    # One origin for all: what is far from zero has no distances in single precision.
    middle = jax.lax.stop_gradient(y.mean(axis=0))
    x, y = x - middle, y - middle

    def apart(x: Array, y: Array) -> Array:
        return _distances(x, y, exponent)

    def within(z: Array, same: Array) -> Array:
        other = jnp.logical_not(same)
        return jnp.sum(jnp.where(other, apart(z, z), 0.0)) / jnp.maximum(other.sum(), 1)

    if weights is None:
        return 2 * apart(x, y).mean() - within(x, same_x) - within(y, same_y)
    pairs = jnp.where(same_x, 0.0, weights[:, None] * weights)
    least = jnp.finfo(pairs.dtype).tiny
    inside = jnp.sum(pairs * apart(x, x)) / jnp.maximum(pairs.sum(), least)
    return 2 * matmul(weights, apart(x, y).mean(axis=1)) - inside - within(y, same_y)


def _distances(x: Array, y: Array, exponent: float) -> Float[Array, "n m"]:
    """|x_i - y_j|^a of all pairs by one product; backwards it is two more."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * matmul(x, y.T)
    distance = jnp.sqrt(jnp.maximum(squared, 0.0) + NEAR**2)
    # A root is cheaper than a power by much.
    powers = {1.0: lambda r: r, 0.5: jnp.sqrt}
    return powers.get(exponent, lambda r: r**exponent)(distance)


def draw(key: Key, weights: Float[Array, "n"], count: int) -> Int[Array, "count"]:
    """Rows, in proportion to their weights."""
    cumulative = jnp.cumsum(weights)
    uniform = jax.random.uniform(key, (count,), weights.dtype) * cumulative[-1]
    rows = jnp.searchsorted(cumulative, uniform, side="right")
    # Padding lies behind the last particle, with the same sum as it.
    return jnp.minimum(rows, jnp.searchsorted(cumulative, cumulative[-1], side="left"))


def _directions(model: LinearEnergy, constants: PyTree, snapshots: Snapshots) -> dict[str, Array]:
    """P of equation (4), of the potential and of the interaction."""
    rng = np.random.default_rng(0)
    present = np.asarray(snapshots.points)[np.asarray(snapshots.weights) > 0]
    some = present[rng.permutation(len(present))[:DIRECTION_SAMPLES]]
    units = constants["units"]
    found = {}
    here, apart = (some - units.center) / units.length, (some - some[::-1]) / units.length
    for name, features, of_features, points in (
        ("potential", model.potential_features, Features.jacobian, here),
        ("interaction", model.interaction_features, Features.jacobian, apart),
        (
            "circulation",
            model.circulation_features and model,
            LinearEnergy.circulation_jacobian,
            here,
        ),
    ):
        if features is None:
            continue
        jacobian = jax.jit(
            jax.vmap(lambda x, f=features, j=of_features, c=constants[name]: j(f, c, x))
        )
        wide = np.asarray(jacobian(jnp.asarray(points)), np.float64)
        values, vectors = np.linalg.eigh(np.einsum("nfd,ngd->fg", wide, wide) / len(wide))
        kept = values > LEAST_MOTION * values[-1]
        found[name] = jnp.asarray(vectors[:, kept] / np.sqrt(values[kept]), jnp.float32)
    return found


def _faster_noise(rate: Float[Array, ""]) -> optax.GradientTransformation:
    """A single number, on the scale of a logarithm, may go where it has to in the same few steps."""

    def update(steps: Params, params: Params | None = None) -> Params:
        del params
        if not (isinstance(steps, dict) and "internal" in steps):
            return steps
        return {**steps, "internal": rate * steps["internal"]}

    return optax.stateless(update)


def _in_directions(
    optimizer: optax.GradientTransformation, directions: dict[str, Array]
) -> optax.GradientTransformation:
    """An optimiser of eta, equation (4), as one of theta; what has no directions stays, but growth."""

    def along(tree: Params) -> Params:
        growth = {name: leaf for name, leaf in tree.items() if name == GROWTH}
        return {**growth, **{name: matmul(directions[name].T, tree[name]) for name in directions}}

    def init(params: Params) -> Any:
        return optimizer.init(along(params))

    def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        del params
        steps, state = optimizer.update(along(gradient), state)
        moved = {**steps, **{name: matmul(directions[name], steps[name]) for name in directions}}
        still = {name: jnp.zeros_like(leaf) for name, leaf in gradient.items()}
        return {**still, **moved}, state

    return optax.GradientTransformation(init, update)
