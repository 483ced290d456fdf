"""A learned energy, and what it predicts."""

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.checks import MOST_INT
from diffusions.memory import check_memory
from diffusions.short_repr import count, known, short_repr
from diffusions.typing import Array, Bool, Float, HostArray, Key, Params, PyTree
from jkonet_star.dynamics import STEPS, Pull, Step, energy_gradient, scheme_time
from jkonet_star.energies.models import EnergyModel
from jkonet_star.fit_report import FitReport
from jkonet_star.growth_rate import GrowthRate
from jkonet_star.intervals import Interval, bootstrap_interval, delta_interval
from jkonet_star.snapshots import Snapshots, relative

if TYPE_CHECKING:
    from jkonet_star.solvers.coefficient_errors import LinearErrors


class Trajectory(NamedTuple):
    """A predicted population."""

    points: Float[Array, "t n d"]  # the given one first
    converged: Bool[Array, "steps n"]  # whether each particle's step was solved

    def __repr__(self) -> str:
        return short_repr(self)


class WeightedTrajectory(NamedTuple):
    """A predicted population of particles that multiply and die."""

    points: Float[Array, "t n d"]  # the given one first
    weights: Float[Array, "t n"]  # of the particles; the given ones, where nothing grows
    converged: Bool[Array, "steps n"]  # whether each particle's step was solved

    def __repr__(self) -> str:
        return short_repr(self)


@flax.struct.dataclass
class FittedEnergy:
    """The energy J(mu) = int V dmu + int int U(x - y) dmu dmu + beta int rho log rho of a population.

    V, U and beta are in the physical units of the snapshots: dX = -(grad V + grad U * mu) dt +
    sqrt(2 beta) dW. A constant in V or in U is arbitrary; so is the split between V and a quadratic
    part of U where the population's mean does not move: compare drifts there.

    Learned with growth, particles also multiply and die at the rate g(x, t): a step multiplies their
    weights by exp(tau g).

    Learned far from zero (`snapshots`, equation (1)), it keeps the snapshots' origin: points and times
    are still those of the data, and are best given in double precision, as NumPy arrays and Python
    numbers; `predict` then answers in double precision, too.

    It is a pytree: `jax.vmap` over a stack of them evaluates many seeds at once, and `member` takes
    one out of it. Its `report` is no part of the tree, so that energies that differ in it share their
    compiled programs; what a transformation or `replace` returns has none.
    """

    model: EnergyModel = flax.struct.field(pytree_node=False)
    scheme: str = flax.struct.field(pytree_node=False)
    params: Params
    constants: PyTree
    times: Float[Array, "t"]  # of the training snapshots, relative to the start
    origin: Float[Array, "d"] | None = None  # of the training snapshots; None for zero
    start: Float[Array, ""] | None = None  # likewise, of their times
    growth_rate: GrowthRate | None = None  # of points and times as the snapshots store them

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self)
        if not known(*leaves) or self.times.ndim > 2:
            return short_repr(self)
        stack = 1 if self.times.ndim == 1 else len(self.times)
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params)) // stack
        times, digits = np.atleast_2d(self.time_values())[0], 7 if self.start is None else 12
        lines = [
            f"{' + '.join(self._terms())} in dimension {self.dimension}, {self.scheme} scheme",
            f"{type(self.model).__name__} of {count(size, 'parameter')}"
            + ("" if self.times.ndim == 1 else f", a stack of {stack}"),
            f"{len(times)} snapshots at times {times[0]:.{digits}g} to {times[-1]:.{digits}g}",
        ]
        if self.report is not None:
            lines += self.report.lines()
        return "FittedEnergy(" + ",\n  ".join(lines) + ")"

    def _terms(self) -> list[str]:
        """What the energy consists of; V, where the model does not say that it has none."""
        model = self.model
        varying = "V(x, t)" if getattr(model, "time_varying", False) else "V"
        beta = "beta"
        if self.times.ndim == 1:
            beta = f"{float(self.beta):.4g}"
        terms = {
            varying: getattr(model, "has_potential", True),
            "U": model.has_interaction,
            "circulation": self.has_circulation,
            f"{beta} log rho": model.internal != "none",
            "growth": self.growth_rate is not None,
        }
        return [term for term, there in terms.items() if there] or ["nothing"]

    @property
    def dimension(self) -> int:
        """Dimension d of the state space."""
        return self.model.dimension

    def member(self, i: int) -> "FittedEnergy":
        """One energy of a stack, as the folder of a run holds it: one per seed.

        Raises:
            ValueError: this is no stack, or it has no such member.
        """
        if self.times.ndim == 1:
            raise ValueError("this is a single energy, not a stack")
        if not -len(self.times) <= i < len(self.times):
            raise ValueError(f"no member {i} in a stack of {len(self.times)}")
        one = jax.tree.map(lambda leaf: leaf[i], self)
        if self.report is not None:
            one = one.with_report(self.report.member(i))
        return one.with_replicates(self.replicates).with_errors(self.errors)

    @property
    def report(self) -> FitReport | None:
        """How it was made; None where that is not known."""
        return vars(self).get("_report")

    @property
    def diverged(self) -> int | tuple[int | None, ...] | None:
        """The epoch in which the training did, one per member of a stack; None where it did not."""
        if self.report is None:
            return None
        return self.report.diverged[0] if self.times.ndim == 1 else self.report.diverged

    def with_report(self, report: FitReport | None) -> "FittedEnergy":
        """The same energy and how it was made.

        Raises:
            ValueError: the report has another number of members.
        """
        energy = self.replace()  # type: ignore[attr-defined]
        if report is not None:
            n = len(report.members)
            if self.times.ndim > 2 or n != (1 if self.times.ndim == 1 else len(self.times)):
                raise ValueError(
                    f"a report of {n} energies does not fit times of shape {self.times.shape}"
                )
        return _beside(energy, {**_told(self), "_report": report})

    @property
    def replicates(self) -> "FittedEnergy | None":
        """The stack of energies learned from resampled particles (`bootstrap`); None without any.

        This energy is the one of all particles.
        """
        return vars(self).get("_replicates")

    def with_replicates(self, replicates: "FittedEnergy | None") -> "FittedEnergy":
        """The same energy and those of resampled particles, which are no part of the tree either.

        Raises:
            ValueError: these are no stack, or this is a stack of several.
        """
        if replicates is not None:
            if replicates.times.ndim != 2:
                raise ValueError("replicates must be a stack of energies")
            if np.size(self.times) != self.times.shape[-1]:
                raise ValueError("a stack of several energies has no replicates: take a member")
        return _beside(self.replace(), {**_told(self), "_replicates": replicates})  # type: ignore[attr-defined]

    @property
    def errors(self) -> "LinearErrors | None":
        """Of the coefficients of a closed form, just learned (`solvers.coefficient_errors`)."""
        return vars(self).get("_errors")

    def with_errors(self, errors: "LinearErrors | None") -> "FittedEnergy":
        """The same energy and the errors of its coefficients, which are no part of the tree either."""
        return _beside(self.replace(), {**_told(self), "_errors": errors})  # type: ignore[attr-defined]

    def interval(
        self,
        function: Callable[["FittedEnergy"], PyTree],
        level: float = 0.9,
        *,
        method: str | None = None,
    ) -> Interval:
        """Bounds of any function of the energy, such as `lambda e: e.drift(x)` or `lambda e: e.beta`.

        V is known up to a constant: ask for differences, `lambda e: e.potential(x) - e.potential(y)`.

        Args:
            function: of one energy, to any pytree of arrays; traced where it can be.
            level: share of samples of the population in which each number's bounds hold it.
            method: `corrected`, `basic` or `percentile` of replicates, `sandwich` of a closed form
                just learned (see `jkonet_star.intervals`); `corrected` where there are replicates,
                else `sandwich`.

        Returns:
            (lower, upper), each of the function's structure.

        Raises:
            ValueError: there are neither replicates (`fit(..., bootstrap=100)`) nor coefficients with
                errors, too few replicates for the level, a level that is no share, or this is a stack.
        """
        self.check_single()
        if method == "sandwich" or (method is None and self.replicates is None and self.errors):
            if self.errors is None:
                raise ValueError("method 'sandwich' is of a closed form that was just learned")
            return delta_interval(function, self, self.errors.directions, level=level)
        if self.replicates is None:
            raise ValueError(
                "this energy has no replicates to tell an interval from: learn it with "
                "fit(..., bootstrap=100), or --bootstrap=100"
            )
        return bootstrap_interval(
            function, self, self.replicates, level=level, method=method or "corrected"
        )

    @property
    def beta(self) -> Float[Array, ""]:
        """Weight of the internal energy, in length^2 / (2 time)."""
        return self.model.beta(self.params, self.constants)

    def time_values(self) -> np.ndarray:
        """The times of the training snapshots on the host, in double precision, the start added."""
        times = np.asarray(self.times, np.float64)
        return times if self.start is None else times + np.asarray(self.start, np.float64)

    def seen_from(self, snapshots: Snapshots) -> "FittedEnergy":
        """The same energy, of points and times as these snapshots store them, less their origin."""
        seen = self.replace(  # type: ignore[attr-defined]
            origin=_difference(self.origin, snapshots.origin),
            start=_difference(self.start, snapshots.start),
        )
        return seen.with_report(self.report)

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
        _check_present("x", x)
        if population is not None:
            _check_present("population", population)
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
    def grown(
        self,
        points: Float[Array, "n d"],
        weights: Float[Array, "n"],
        t: Float[Array, ""],
        tau: Float[Array, ""],
    ) -> Float[Array, "n"]:
        """The weights of particles after a step, w exp(tau g); the same where nothing grows.

        Relative rates keep the sum of the weights.

        Args:
            points: the population at time t.
            weights: of the particles then.
            t: start of the step.
            tau: its length.
        """
        if self.growth_rate is None:
            return weights
        x, t = relative(points, self.origin), relative(t, self.start)
        return self.growth_rate.grown(x, weights, t, tau)

    @checked(d=lambda energy: energy.dimension)
    def gradients(
        self, points: Float[Array, "n d"], weights: Float[Array, "n"], t: Float[Array, ""]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Grad V(x_i, t) and sum_j w_j grad U(x_i - x_j) at the particles of a population."""
        x, t = relative(points, self.origin), relative(t, self.start)
        pull = self._pull(x, x, weights) if self.model.has_interaction else jnp.zeros_like(x)
        return jax.vmap(jax.grad(self._potential_at), (0, None))(x, t), pull

    @checked(d=lambda energy: energy.dimension)
    def predict(
        self,
        points: Float[Array, "n d"] | HostArray,
        steps: int = 1,
        *,
        key: Key | None = None,
        weights: Float[Array, "n"] | HostArray | None = None,
        start: int = 0,
        dt: float | Array | None = None,
    ) -> Float[Array, "t n d"] | HostArray:
        """The population after 0, 1, ..., `steps` steps, in the scheme of the fit.

        Where particles multiply and die, `predict_weighted` has their weights, too.

        Differentiable, in either mode, by the energy's parameters, `points`, `weights` and `dt`;
        `jkonet_star.dynamics` says what that costs where steps are implicit.

        Args:
            points: the population now.
            steps: how many; static.
            key: draws the noise sqrt(2 beta tau) xi; without it the particles move by drift alone.
            weights: of the particles; uniform where not given.
            start: the training snapshot that `points` corresponds to.
            dt: length of every step; the training snapshots' own where not given (its last step's
                beyond the last snapshot).

        Raises:
            ValueError: shapes, a dimension or numbers that do not fit.

        Warns (UserWarning):
            A key, where the energy has no noise.
        """
        if isinstance(start, int) and start < 0:
            raise ValueError(f"start must be the index of a snapshot from 0, got {start}")
        if isinstance(dt, int | float) and not 0 < dt < float("inf"):
            raise ValueError(f"dt must be positive and finite, got {dt}")
        if key is not None and self.model.internal == "none":
            warnings.warn(
                "this energy has no internal part, so no noise: the key is without effect",
                stacklevel=3,
            )
        return self.trajectory(points, steps, key=key, weights=weights, start=start, dt=dt).points

    @checked(d=lambda energy: energy.dimension)
    def trajectory(
        self,
        points: Float[Array, "n d"] | HostArray,
        steps: int = 1,
        *,
        key: Key | None = None,
        weights: Float[Array, "n"] | HostArray | None = None,
        start: int | Array = 0,
        dt: float | Array | None = None,
    ) -> Trajectory:
        """`predict`, with the convergence flag of every implicit step."""
        found = self.predict_weighted(points, steps, key=key, weights=weights, start=start, dt=dt)
        return Trajectory(points=found.points, converged=found.converged)

    @checked(d=lambda energy: energy.dimension)
    def predict_weighted(
        self,
        points: Float[Array, "n d"] | HostArray,
        steps: int = 1,
        *,
        key: Key | None = None,
        weights: Float[Array, "n"] | HostArray | None = None,
        start: int | Array = 0,
        dt: float | Array | None = None,
    ) -> WeightedTrajectory:
        """`trajectory`, with the weights of the particles.

        A step multiplies a particle's weight by exp(tau g). Relative rates (`growth`) keep the sum of
        the weights, absolute ones say how large the population becomes. Without growth the weights
        stay as they are.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps <= MOST_INT:
            raise ValueError(f"steps must be a number of steps from 0 to {MOST_INT}, got {steps!r}")
        _check_present("points", points)
        check_memory({f"a path of {steps} steps": 4.0 * (steps + 1) * np.size(points)})
        found = self._trajectory(
            relative(points, self.origin),
            steps,
            key=key,
            weights=weights,
            start=start,
            dt=dt,
        )
        return found._replace(points=_absolute(found.points, self.origin, points))

    @functools.partial(jax.jit, static_argnames=("steps",))
    def _trajectory(
        self,
        points: Array,
        steps: int,
        *,
        key: Key | None,
        weights: Array | None,
        start: int | Array,
        dt: float | Array | None,
    ) -> WeightedTrajectory:
        self.check_single()
        if weights is None:
            weights = jnp.full(points.shape[0], 1.0 / points.shape[0], points.dtype)
        last = self.times.shape[0] - 1

        def advance(carry: tuple, k: Array) -> tuple[tuple, tuple]:
            x, mass = carry
            index = jnp.minimum(start + k, last - 1)
            tau = self.times[index + 1] - self.times[index] if dt is None else jnp.asarray(dt)
            t = self.times[index] + (start + k - index) * tau
            noise_key = None if key is None else jax.random.fold_in(key, k)
            step, mass = self._advanced(x, mass, t, tau, noise_key)
            return (step.points, mass), (step.points, step.converged, mass)

        _, (path, converged, masses) = jax.lax.scan(advance, (points, weights), jnp.arange(steps))
        return WeightedTrajectory(
            points=jnp.concatenate([points[None], path]),
            weights=jnp.concatenate([weights[None], masses]),
            converged=converged,
        )

    @checked(d=lambda energy: energy.dimension)
    def step(
        self,
        points: Float[Array, "n d"],
        weights: Float[Array, "n"],
        t: Float[Array, ""],
        tau: Float[Array, ""],
        *,
        key: Key | None = None,
    ) -> Step:
        """The population a time tau after t, in the scheme of the fit.

        Args:
            points: the population at time t.
            weights: of the particles; rows of weight zero move but pull nobody.
            t: start of the step.
            tau: its length.
            key: draws the noise sqrt(2 beta tau) xi; without it the particles move by drift alone.
        """
        inside = relative(points, self.origin), weights, relative(t, self.start), tau
        step = self._step(*inside, key)
        return step._replace(points=_absolute(step.points, self.origin, points))

    @checked(d=lambda energy: energy.dimension)
    def advanced(
        self,
        points: Float[Array, "n d"],
        weights: Float[Array, "n"],
        t: Float[Array, ""],
        tau: Float[Array, ""],
        *,
        key: Key | None = None,
    ) -> tuple[Step, Float[Array, "n"]]:
        """`step` of a population that may grow, and its weights afterwards (`grown`).

        Particles pull by their shares: of before the growth in the explicit scheme, whose population
        is that of the start, and of after it in the others. The conditions of a fit have the same.
        Arguments are those of `step`.
        """
        inside = relative(points, self.origin), weights, relative(t, self.start), tau
        step, weights = self._advanced(*inside, key)
        return step._replace(points=_absolute(step.points, self.origin, points)), weights

    def _advanced(
        self, points: Array, weights: Array, t: Array, tau: Array, key: Key | None
    ) -> tuple[Step, Array]:
        if self.growth_rate is None:
            return self._step(points, weights, t, tau, key), weights
        grown = self.growth_rate.grown(points, weights, t, tau)
        pulling = weights if self.scheme == "explicit" else grown
        # Of shares, however many particles there are.
        return self._step(points, pulling / pulling.sum(), t, tau, key), grown

    def _step(self, points: Array, weights: Array, t: Array, tau: Array, key: Key | None) -> Step:
        step = STEPS[self.scheme](
            self._potential_at,
            self._pull_term,
            points,
            weights,
            scheme_time(self.scheme, t, tau),
            tau,
        )
        if self.has_circulation:
            step = step._replace(points=step.points + tau * self._circulation(points))
        if key is None:
            return step
        noise = jax.random.normal(key, points.shape, points.dtype)
        variance = 2.0 * self.beta * tau
        # The root's slope at zero is infinite; zero is its mean over the noise.
        still = variance == 0
        deviation = jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, variance)))
        return step._replace(points=step.points + deviation * noise)

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


def _told(energy: FittedEnergy) -> dict[str, Any]:
    """What is known beside the tree."""
    return {name: vars(energy).get(name) for name in ("_report", "_replicates", "_errors")}


def _beside(energy: FittedEnergy, told: dict[str, Any]) -> FittedEnergy:
    # No fields: a field would be a leaf, or part of what compiled programs are looked up by.
    for name, value in told.items():
        object.__setattr__(energy, name, value)
    return energy


def _absolute(values: Array, origin: Array | None, like: Any) -> Any:
    """Inverse of `relative`: in double precision on the host where `like` was, and none is traced."""
    if origin is None:
        return values
    if isinstance(like, jax.Array) or any(isinstance(x, jax.core.Tracer) for x in (values, origin)):
        return values + origin
    return np.asarray(values, np.float64) + np.asarray(origin, np.float64)


def _difference(own: Array | None, other: Array | None) -> Array | None:
    """One origin as seen from another; exact, where both lie close together."""
    if other is None:
        return own
    return -other if own is None else own - other


def _check_present(name: str, points: Array | HostArray) -> None:
    """Raises ValueError where there are no particles."""
    if not points.shape[0]:
        raise ValueError(f"{name} must have at least one row, got shape {points.shape}")
