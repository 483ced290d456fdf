"""How an energy was made: what decides how far to trust it.

Numbers, words and lists that JSON can hold, kept beside the energy in memory (`FittedEnergy.report`)
and on disk (`checkpoints.save_energy`), so that nothing that went wrong is only a line of a log. A
number that is not finite is None; an infinite condition number is the largest number there is. This
module imports no JAX.
"""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from diffusions.checks import Count, Double, Natural

if TYPE_CHECKING:
    from jkonet_star.diagnostics import Explanation
    from jkonet_star.solvers.problem import Problem

MOST_LOSSES = 200
"""Epochs whose loss is kept, evenly spaced, the first and the last among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoupledStep:
    """How two consecutive snapshots were coupled.

    Attributes:
        method: the one that was used; `given` where the couplings were made elsewhere.
        pairs: that were kept.
        marginal_error: of the pairs kept, sum_i |sum_j P_ij - a_i| + sum_j |sum_i P_ij - b_j|.
        converged: whether the solver did; None where that is not known.
        mass_kept: share of the plan's mass in the pairs kept; None where that is not known.
    """

    method: str
    pairs: Count
    marginal_error: Double
    converged: bool | None = None
    mass_kept: Double | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensityReport:
    """Which densities the internal energy used.

    Attributes:
        kind: gaussian-mixtures or kernel-densities.
        components: of each mixture, or the particles of the largest snapshot.
    """

    kind: str
    components: Count


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaReport:
    """The estimate of beta (`internal_energy`).

    Attributes:
        value: of beta.
        standard_error: of it, for a model that holds; None where the data do not tell.
        paired: whether the snapshots were taken to show the same particles.
        gain: log likelihood per particle that speaks for it.
        converged: whether the estimator met its tolerance, and the data do not contradict it.
        unexplained: share of the particles that move as neither the features nor this noise explain.
    """

    value: Double
    standard_error: Double | None
    paired: bool
    gain: Double | None
    converged: bool
    unexplained: Double = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeakFormReport:
    """The drift of independent snapshots (`weak_form_drift`, `long_steps`), where it is the energy's.

    Attributes:
        kept: which of the linear energy's features, those of V first.
        covariance: of beta and their coefficients, at unit scale; a row each.
        attraction: q of equation (2) there, per mean step.
        misfit: of the residuals, in standard deviations.
    """

    kept: list[Natural]
    covariance: list[list[Double]]
    attraction: Double
    misfit: Double


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClosedFormReport:
    """How well posed the least-squares problem was.

    Attributes:
        n_features: unknowns.
        rank: directions kept of `closed_form`, equation (2).
        condition_number: largest over smallest eigenvalue of it.
        regularization: reg, as given or as chosen.
        interaction_factor: of the ridge of phi_2, over reg.
        relative_residual: remaining over initial mean square of the residual.
    """

    n_features: int
    rank: int
    condition_number: Double
    regularization: Double
    interaction_factor: Double
    relative_residual: Double


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedReport:
    """How one candidate of `solver="auto"` did (`solvers.choice`).

    Attributes:
        name: in words.
        parameters: that it learned.
        energy_distance: of its predictions to held-out particles, by the exponent of the refinement,
            mean over the steps.
        standard_error: of the difference to the best one; zero for that.
        chosen: whether it was.
        c2st: how well its predictions are told from held-out particles, mean over the steps; None
            where these are too few.
        beta: of its noise; None for none.
    """

    name: str
    parameters: Count
    energy_distance: Double | None
    standard_error: Double | None
    chosen: bool
    c2st: Double | None = None
    beta: Double | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrowthReport:
    """How fast particles multiply and die (`growth`), over the training particles of every step.

    Attributes:
        absolute: whether the masses of the population were known; else the rates are centred.
        least: the rate below which one particle in a hundred is, in 1 / time.
        most: that above which one in a hundred is.
        error: root mean square of the standard error of rates, by the curvature of the estimate.
    """

    absolute: bool
    least: Double
    most: Double
    error: Double | None = None

    def line(self) -> str:
        """For people."""
        error = "" if self.error is None else f", standard error {self.error:.2g}"
        gauge = "absolute" if self.absolute else "relative, centred at every time"
        return f"growth rates {self.least:.3g} to {self.most:.3g} per time{error} ({gauge})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BootstrapReport:
    """Energies of resampled particles (`solvers.resampling`).

    Attributes:
        replicates: how many.
        resampled: trajectories, snapshots or coefficients.
        diverged: how many of the trainings did.
    """

    replicates: Count
    resampled: str
    diverged: Natural = 0

    def line(self) -> str:
        """For people."""
        failed = f", {self.diverged} DIVERGED" if self.diverged else ""
        return f"{self.replicates} energies of resampled {self.resampled}{failed}"

    def warning(self) -> str | None:
        """One line, where trainings diverged."""
        if not self.diverged:
            return None
        return (
            f"{self.diverged} of the {self.replicates} replicates diverged, and intervals are too long "
            "for them: take a smaller learning_rate"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberReport:
    """What one energy of a stack has of its own.

    Attributes:
        losses: mean over each of the epochs `FitReport.loss_epochs`; none where it was solved.
        diverged: the epoch since which training was not sound; None where it ended well.
        motion_left: D_1 of `diagnostics`, equation (2); None where it is not known.
        refinement_loss: mean over the last tenth of the refinement's steps; None without one.
    """

    losses: list[Double | None]
    diverged: Count | None = None
    motion_left: Double | None = None
    refinement_loss: Double | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitReport:
    """How an energy, or a stack of them, was made.

    Attributes:
        solver: its name.
        scheme: explicit, implicit or midpoint.
        couplings: of each step.
        density: of the snapshots, where the solver uses one.
        beta: its estimate, where there is one.
        closed_form: of the linear solvers.
        weak_form: where the drift is that of the weak form, not of couplings, and as it was found
            there: neither refined nor solved for again with other features.
        growth: of the first member, where growth is learned.
        beta_without_growth: particles multiply and die, and `beta` was estimated as if they did not.
        bootstrap: of the energies of resampled particles, where there are some.
        epochs: of training; 0 where it was solved.
        batch_size: of training.
        optimizer: of training; None where it is the user's own, where nothing was trained, and where a
            solver that was registered, or an older release, does not say.
        learning_rate: at its start; likewise.
        loss_epochs: the epochs whose losses are kept.
        refinement_steps: 0 where the energy was not refined.
        compared: by `auto`, from simple to rich; empty where the solver was named.
        motion: D_0 of `diagnostics`, equation (2); None where it is not known.
        chance: what D_0 and D_1 must exceed to mean anything.
        members: one per energy of the stack, one in all for a single energy.
        warnings: that were said.
    """

    MORE: ClassVar[bool] = True  # a later release may know more

    solver: str
    scheme: str
    couplings: list[CoupledStep]
    density: DensityReport | None = None
    beta: BetaReport | None = None
    closed_form: ClosedFormReport | None = None
    weak_form: WeakFormReport | None = None
    growth: GrowthReport | None = None
    beta_without_growth: bool = False
    bootstrap: BootstrapReport | None = None
    epochs: Natural = 0
    batch_size: Count | None = None
    optimizer: str | None = None
    learning_rate: Double | None = None
    loss_epochs: list[Count] = dataclasses.field(default_factory=list)
    refinement_steps: Natural = 0
    compared: list[ComparedReport] = dataclasses.field(default_factory=list)
    motion: Double | None = None
    chance: Double | None = None
    members: list[MemberReport]
    warnings: list[str] = dataclasses.field(default_factory=list)

    def member(self, i: int) -> "FitReport":
        """Of one energy of the stack."""
        return dataclasses.replace(self, members=[self.members[i]])

    @property
    def diverged(self) -> tuple[int | None, ...]:
        """The epoch in which each member's training did."""
        return tuple(member.diverged for member in self.members)

    def explained(self) -> list[float | None]:
        """1 - D_1 / D_0 of each member; None where there is no motion beyond chance."""
        if self.motion is None or self.chance is None or self.motion <= self.chance:
            return [None] * len(self.members)
        left = [member.motion_left for member in self.members]
        return [None if value is None else 1.0 - value / self.motion for value in left]

    def lines(self) -> list[str]:
        """What matters most, for people."""
        found = [f"{self.solver}, " + (self._training() if self.epochs else "solved")]
        if self.closed_form is not None:
            solved = self.closed_form
            found.append(
                f"{solved.n_features} features, ridge {solved.regularization:g}, condition number "
                f"{solved.condition_number:.1e}, remaining residual {solved.relative_residual:.2e}"
            )
        for row in self.compared:
            if row.chosen:
                found.append(
                    f"{row.name}, chosen out of {len(self.compared)} by held-out particles"
                )
        if self.refinement_steps:
            found.append(f"refined in {self.refinement_steps} steps")
        if self.weak_form is None:
            found.append(self._couplings())
        else:
            found.append(
                f"drift by the weak form: {len(self.weak_form.kept)} features, "
                f"misfit {self.weak_form.misfit:.2g} standard deviations"
            )
        if self.beta is not None:
            regime = "the same particles" if self.beta.paired else "different particles"
            failed = "" if self.beta.converged else ", NOT converged"
            error = self.beta.standard_error
            known = "" if error is None else f" (standard error {error:.2g})"
            apart = ", as if nothing grew" if self.beta_without_growth else ""
            share = self.beta.unexplained
            left = f", {share:.1%} of which nothing explains" if share > 0.0005 else ""
            found.append(
                f"beta {self.beta.value:.4g}{known} of snapshots of {regime}{left}{apart}{failed}"
            )
        if self.growth is not None:
            found.append(self.growth.line())
        if self.bootstrap is not None:
            found.append(self.bootstrap.line())
        shares = [share for share in self.explained() if share is not None]
        if shares:
            found.append(f"explains {_range(shares, '{:.0%}')} of the motion")
        if self.warnings:
            found.append(f"{len(self.warnings)} in report.warnings")
        return found

    def _training(self) -> str:
        last = [m.losses[-1] for m in self.members if m.losses and m.losses[-1] is not None]
        text = f"{self.epochs} epochs"
        if self.optimizer is not None and self.learning_rate is not None:
            text += f" of {self.optimizer} from {self.learning_rate:.3g}"
        if last:
            text += f", loss {_range(last, '{:.3g}')}"
        if any(self.diverged):
            text += ", DIVERGED in epoch " + ", ".join(str(e or "never") for e in self.diverged)
        return text

    def _couplings(self) -> str:
        methods = ", ".join(sorted({step.method for step in self.couplings}))
        text = f"couplings {methods}, marginal error at most "
        text += f"{max(step.marginal_error for step in self.couplings):.1e}"
        kept = [step.mass_kept for step in self.couplings if step.mass_kept is not None]
        if kept and min(kept) < 1:
            text += f", mass kept at least {min(kept):.3g}"
        failed = sum(step.converged is False for step in self.couplings)
        return text + (f", {failed} NOT converged" if failed else "")

    def __repr__(self) -> str:
        return "FitReport(" + ",\n  ".join(self.lines()) + ")"


def fit_report(
    problem: "Problem",
    solver: str,
    *,
    diverged: Sequence[int | None],
    losses: np.ndarray | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    closed_form: ClosedFormReport | None = None,
    explained: "Explanation | None" = None,
    warnings: Sequence[str] = (),
    refinement_losses: np.ndarray | None = None,
    compared: Sequence[ComparedReport] = (),
    growth: GrowthReport | None = None,
) -> FitReport:
    """Puts together what a fit knows.

    Args:
        problem: what was solved.
        solver: by which.
        diverged: the epoch in which each member did.
        losses: (members, epochs); None where nothing was trained.
        facts: of the training, of `Solver.prepare`.
        closed_form: of a linear solver.
        explained: how much of the motion the energies explain.
        warnings: that were said.
        refinement_losses: (members, steps); None, or no steps, where nothing was refined.
        compared: by `auto`.
        growth: where it was learned.
    """
    steps = 0 if refinement_losses is None else refinement_losses.shape[1]
    epochs = 0 if losses is None else losses.shape[1]
    kept = np.unique(np.linspace(0, epochs - 1, min(epochs, MOST_LOSSES)).round().astype(int))
    members = [
        MemberReport(
            losses=[] if losses is None else [finite_or_none(x) for x in losses[i, kept].tolist()],
            diverged=epoch,
            motion_left=None if explained is None else finite_or_none(explained.predicted[i]),
            refinement_loss=None
            if refinement_losses is None or not steps
            else finite_or_none(refinement_losses[i, -max(1, steps // 10) :].mean()),
        )
        for i, epoch in enumerate(diverged)
    ]
    estimate = problem.internal
    if closed_form is not None:
        condition = min(closed_form.condition_number, sys.float_info.max)
        closed_form = dataclasses.replace(closed_form, condition_number=condition)
    return FitReport(
        solver=solver,
        scheme=problem.scheme,
        couplings=list(problem.coupled),
        density=problem.density,
        beta=None
        if estimate is None
        else BetaReport(
            value=estimate.beta,
            standard_error=None if estimate.unknown else finite_or_none(estimate.standard_error),
            paired=estimate.paired,
            gain=finite_or_none(estimate.gain),
            converged=estimate.converged,
            unexplained=estimate.unexplained,
        ),
        closed_form=closed_form,
        weak_form=None if steps or closed_form is not None else weak_form_report(problem),
        growth=growth,
        beta_without_growth=estimate is not None and problem.growth is not None,
        epochs=epochs,
        batch_size=facts.get("batch_size"),
        optimizer=facts.get("optimizer"),
        learning_rate=facts.get("learning_rate"),
        loss_epochs=(kept + 1).tolist(),
        refinement_steps=steps,
        compared=list(compared),
        motion=None if explained is None else finite_or_none(explained.no_motion),
        chance=None if explained is None else finite_or_none(explained.chance),
        members=members,
        warnings=list(warnings),
    )


def weak_form_report(problem: "Problem") -> WeakFormReport | None:
    """Of a problem whose drift is that of the weak form."""
    drift = None if problem.internal is None else problem.internal.drift
    if drift is None or problem.weak_form is None:
        return None
    return WeakFormReport(
        kept=drift.kept.tolist(),
        covariance=drift.covariance.tolist(),
        attraction=drift.attraction,
        misfit=drift.misfit,
    )


def finite_or_none(value: float) -> float | None:
    """The number, where it is one that JSON can hold."""
    return float(value) if math.isfinite(value) else None


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
