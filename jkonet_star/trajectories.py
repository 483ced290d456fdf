"""What a population becomes under an energy: steps of `dynamics`, with noise and growth."""

import functools
import warnings
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.checks import MOST_INT
from diffusions.memory import check_memory
from diffusions.short_repr import short_repr
from diffusions.typing import Array, Bool, Float, HostArray, Key
from jkonet_star.dynamics import STEPS, Step, scheme_time
from jkonet_star.energy_functions import EnergyFunctions, check_present
from jkonet_star.snapshots import relative


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
class PredictingEnergy(EnergyFunctions):
    """An energy that moves populations, in the scheme that it was learned in."""

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
        check_present("points", points)
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
        if self.substeps == 1:
            return self._substep(points, weights, t, tau, key)
        short = tau / self.substeps

        def advance(step: Step, k: Array) -> tuple[Step, None]:
            own = None if key is None else jax.random.fold_in(key, k)
            found = self._substep(step.points, weights, t + k * short, short, own)
            return Step(found.points, step.converged & found.converged), None

        start = Step(points, jnp.ones(len(points), bool))
        return jax.lax.scan(advance, start, jnp.arange(self.substeps))[0]

    def _substep(
        self, points: Array, weights: Array, t: Array, tau: Array, key: Key | None
    ) -> Step:
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


def _absolute(values: Array, origin: Array | None, like: Any) -> Any:
    """Inverse of `relative`: in double precision on the host where `like` was, and none is traced."""
    if origin is None:
        return values
    if isinstance(like, jax.Array) or any(isinstance(x, jax.core.Tracer) for x in (values, origin)):
        return values + origin
    return np.asarray(values, np.float64) + np.asarray(origin, np.float64)
