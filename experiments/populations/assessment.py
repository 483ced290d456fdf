"""What the JKOnet* scripts say of a learned energy: numbers, a table, figures."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_generation.scripts.command_line import say
from diffusions.typing import Key
from experiments.populations.figures import plot_interaction, plot_potential, plot_predictions
from experiments.populations.law_figure import plot_law
from jkonet_star.diagnostics import (
    Explanation,
    data_warnings,
    explanation,
    outliers,
)
from jkonet_star.evaluation import (
    KnownEnergy,
    Predictions,
    evaluate_predictions,
    field_errors,
    predict_snapshots,
)
from jkonet_star.fit_report import ClosedFormReport, ComparedReport, fit_report
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth import growth_report
from jkonet_star.law import SCORES, judge_law
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.divergence import divergence_warning
from jkonet_star.solvers.problem import Problem
from jkonet_star.yardsticks import YARDSTICKS, Yardsticks

_BESIDE = {"energy": "mean", "no_motion": "no_motion", "floor": "floor"}
"""Of the summary's first distance -> entry of the score."""


def evaluation_key() -> Key:
    """The key of the noise in every evaluation: it takes nothing from the training stream."""
    return jax.random.key(20)


def assess(
    energies: FittedEnergy,
    snapshots: Snapshots,
    truth: KnownEnergy | None,
    order: int,
    beside: Yardsticks,
) -> tuple[dict[str, Any], Predictions]:
    """Every number that is reported of a stack of energies, and the predictions behind them.

    Args:
        energies: every leaf with a leading seed axis.
        snapshots: that judge them.
        truth: of simulated data.
        order: of the Wasserstein distance.
        beside: of the snapshots.
    """
    predictions = predict_snapshots(energies, snapshots, evaluation_key())
    law = judge_law(
        np.asarray(predictions.one_step),
        snapshots,
        weights=np.asarray(predictions.one_step_weights),
        beside=beside,
    ).as_dict()
    w1 = {name: law["w1"][entry] for name, entry in _BESIDE.items()}
    result = {"verdict": law["verdict"], "w1_one_step_ahead": w1}
    result |= evaluate_predictions(predictions, snapshots, order=order)
    result |= {"wasserstein_order": order, "law": law}
    beta = np.asarray(jax.vmap(lambda e: e.beta)(energies), np.float64)
    result["beta"] = {
        "mean": float(beta.mean()),
        "std": float(beta.std()),
        "per_seed": beta.tolist(),
    }
    result["field_error"] = (
        None if truth is None else field_errors(energies, truth, snapshots, predictions)
    )
    return result, predictions


def print_table(result: dict[str, Any], times: list[float], truth: KnownEnergy | None) -> None:
    """The distances per step, and the errors against the truth."""
    ahead, onward = result["emd_one_step_ahead"], result["emd_cumulative"]
    order = result["wasserstein_order"]
    metric = "EMD" if order == 1 else "W2"
    say(f"  step          {metric} one step ahead   {metric} cumulative")
    for k, (a, c) in enumerate(zip(ahead["per_step"], onward["per_step"], strict=True)):
        say(f"  {times[k]:<6.3g}{times[k + 1]:>6.3g}   {a:>15.5f}   {c:>14.5f}")
    say(f"  mean           {ahead['mean']:>15.5f}   {onward['mean']:>14.5f}")
    if len(ahead["per_seed"]) > 1:
        say(f"  std over seeds {ahead['std']:>15.5f}   {onward['std']:>14.5f}")
    if not result["converged"]:
        say("  warning: some prediction steps did not converge; their distances are unreliable")
    print_law(result["law"])
    errors = result["field_error"]
    if errors is not None:
        for name, label in (
            ("drift", "drift"),
            ("potential_gradient", "gradient of the potential"),
            ("interaction_gradient", "gradient of the interaction"),
        ):
            if name not in errors:
                continue
            relative, absolute = errors[name]["relative"], np.mean(errors[name]["absolute"])
            shown = f"{100 * np.mean(relative):.3g} %" if relative else "(the truth is zero)"
            say(f"  error of the {label}: {shown}, root mean square {absolute:.3g}")
    if truth is not None or result["beta"]["mean"]:
        known = "" if truth is None else f" (true: {truth.beta:g})"
        say(f"  beta {result['beta']['mean']:.4g}{known}")


def print_law(law: dict[str, Any]) -> None:
    """The scores of a law beside its yardsticks, as far as they are there."""
    there = [name for name in YARDSTICKS if law["w1"][name] is not None]
    heads = "".join(f"{name.replace('_', ' '):>13}" for name in there)
    say(f"  one step ahead    energy{heads}")
    for name, label in SCORES.items():
        if name in law:
            values = [law[name][column] for column in ("mean", *there)]
            shown = (f"{'none' if v is None else format(v, '.4g'):>13}" for v in values)
            say(f"  {label:<{24 - 13}}{''.join(shown)}")
    judged = f"{max(law['n_compared']):,} particles a side"
    if law["n_transported"] != law["n_compared"]:
        judged += f", {max(law['n_transported']):,} for W1"
    if law["halved"]:
        judged += "; one half judges the other, since these were learned from"
    say(f"  by at most {judged}; C2ST .5 and a variance ratio of 1 are equal laws")


def say_verdict(result: dict[str, Any]) -> None:
    """The distance beside its yardsticks, and whether what learns nothing is as good."""
    law, w1 = result["law"], result["w1_one_step_ahead"]
    beside = [f"{w1['energy']:.3g} by the energy"] if w1["energy"] is not None else []
    if w1["no_motion"] is not None:
        beside.append(f"{w1['no_motion']:.3g} without motion")
    if w1["floor"] is not None:
        beside.append(f"{w1['floor']:.3g} the sampling floor")
    if beside:
        say(f"  W1 one step ahead: {', '.join(beside)}")
    say(f"  {'warning: ' if law['beaten'] else ''}{law['verdict']}")


def judge(problem: Problem, energies: FittedEnergy) -> dict[str, Any]:
    """What the training data say of the fit, for the summary; what is wrong is said on the way.

    Args:
        problem: of the fit.
        energies: every leaf with a leading seed axis.
    """
    found, explained = outliers(problem.snapshots), explanation(problem, energies)
    lines = data_warnings(problem, found)
    if (unexplained := explained.warning()) is not None:
        lines.append(unexplained)
    for line in lines:
        say(f"  warning: {line}")
    return {
        "explanation": dataclasses.asdict(explained),
        "outliers": [o._asdict() for o in found],
        "warnings": lines,
    }


def reported(
    problem: Problem,
    energies: FittedEnergy,
    solver: str,
    rows: Sequence[dict[str, Any]],
    details: dict[str, Any],
    *,
    refinement_losses: np.ndarray | None = None,
    compared: Sequence[ComparedReport] = (),
) -> FittedEnergy:
    """The energies with what is known of the fit as their report; the summary gains it, too.

    Args:
        problem: of the fit.
        energies: every leaf with a leading seed axis.
        solver: its name.
        rows: of the run's metrics.
        details: of the summary, with those of `judge`; `couplings` and `density` are added, and a
            warning of seeds that diverged.
        refinement_losses: (seeds, steps), where the energies were refined.
        compared: by `auto`.
    """
    losses = [row["loss"] for row in rows if "loss" in row]
    diverged = details.get("diverged") or [None] * len(energies.times)
    line = divergence_warning(diverged)
    if line is not None:
        details["warnings"] = [line, *details["warnings"]]
    solved = details.get("closed_form")
    report = fit_report(
        problem,
        solver,
        diverged=diverged,
        losses=np.asarray(losses, np.float64).T if losses else None,
        facts=details,
        closed_form=None if solved is None else ClosedFormReport(**solved),
        explained=Explanation(**details["explanation"]),
        warnings=details["warnings"],
        refinement_losses=refinement_losses,
        compared=compared,
        growth=growth_report(energies, problem.snapshots, problem.growth),
    )
    if report.growth is not None:
        details["growth"] = dataclasses.asdict(report.growth)
        say(f"  {report.growth.line()}")
    details["couplings"] = [dataclasses.asdict(step) for step in report.couplings]
    details["density"] = None if report.density is None else dataclasses.asdict(report.density)
    return energies.with_report(report)


def draw(
    folder: Path,
    energies: FittedEnergy,
    truth: KnownEnergy | None,
    snapshots: Snapshots,
    predictions: Predictions,
    law: dict[str, Any],
) -> None:
    """The figures of the first seed's energy."""
    energy = jax.device_get(energies).member(0)  # on a device each array's row is a program
    if energy.model.has_potential:
        plot_potential(folder / "potential.png", energy, truth, snapshots)
    if energy.model.has_interaction:
        plot_interaction(folder / "interaction.png", energy, truth, snapshots)
    one_step = np.asarray(predictions.one_step)[0]
    weights = np.asarray(predictions.one_step_weights)[0].astype(np.float64)
    plot_predictions(folder / "predictions.png", energy, snapshots, one_step, weights)
    plot_law(folder / "law.png", snapshots, one_step, law, weights)
