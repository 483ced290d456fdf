"""A learned energy: what is known of it beside its functions and its predictions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.struct
import jax
import numpy as np

from diffusions.short_repr import count, known, short_repr
from diffusions.typing import Array, PyTree
from jkonet_star.fit_report import FitReport
from jkonet_star.intervals import Interval, bootstrap_interval, delta_interval
from jkonet_star.snapshots import Snapshots
from jkonet_star.trajectories import PredictingEnergy

if TYPE_CHECKING:
    from jkonet_star.solvers.coefficient_errors import LinearErrors


@flax.struct.dataclass
class FittedEnergy(PredictingEnergy):
    """The energy J(mu) = int V dmu + int int U(x - y) dmu dmu + beta int rho log rho of a population.

    V, U and beta are in the physical units of the snapshots: dX = -(grad V + grad U * mu) dt +
    sqrt(2 beta) dW. A constant in V or in U is arbitrary; so is the split between V and a quadratic
    part of U where the population's mean does not move: compare drifts there.

    Learned with growth, particles also multiply and die at the rate g(x, t): a step multiplies their
    weights by exp(tau g).

    A step is one of its scheme, or `substeps` shorter ones, where the drift was found by these.

    Learned far from zero (`snapshots`, equation (1)), it keeps the snapshots' origin: points and times
    are still those of the data, and are best given in double precision, as NumPy arrays and Python
    numbers; `predict` then answers in double precision, too.

    It is a pytree: `jax.vmap` over a stack of them evaluates many seeds at once, and `member` takes
    one out of it. Its `report` is no part of the tree, so that energies that differ in it share their
    compiled programs; what a transformation or `replace` returns has none.

    Its functions of points are those of `EnergyFunctions`, its predictions those of `PredictingEnergy`.
    """

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self)
        if not known(*leaves) or self.times.ndim > 2:
            return short_repr(self)
        stack = 1 if self.times.ndim == 1 else len(self.times)
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params)) // stack
        times, digits = np.atleast_2d(self.time_values())[0], 7 if self.start is None else 12
        lines = [
            f"{' + '.join(self._terms())} in dimension {self.dimension}, {self.scheme} scheme"
            + ("" if self.substeps == 1 else f" in {self.substeps} substeps"),
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


def _told(energy: FittedEnergy) -> dict[str, Any]:
    """What is known beside the tree."""
    return {name: vars(energy).get(name) for name in ("_report", "_replicates", "_errors")}


def _beside(energy: FittedEnergy, told: dict[str, Any]) -> FittedEnergy:
    # No fields: a field would be a leaf, or part of what compiled programs are looked up by.
    for name, value in told.items():
        object.__setattr__(energy, name, value)
    return energy


def _difference(own: Array | None, other: Array | None) -> Array | None:
    """One origin as seen from another; exact, where both lie close together."""
    if other is None:
        return own
    return -other if own is None else own - other
