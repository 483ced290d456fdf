"""The table of a sweep: a row per run as CSV, and the means over seeds as Markdown."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.populations.settings import DataSettings
from diffusions.files import write_text
from experiments.run.tables import Row, markdown
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from jkonet_star.solvers.registry import SOLVERS

DATA = (
    "dataset",
    "potential",
    "interaction",
    "beta",
    "dimension",
    "n_particles",
    "coupling",
    "substeps",
    "data_seed",
)
RUN = ("solver", "scheme", "variant", "seed")
LAW = ("energy_distance", "c2st", "variance_ratio")
W1 = {"w1": "energy", "w1_no_motion": "no_motion", "w1_floor": "floor"}
"""Column -> name in the summary: no distance means anything alone."""
RESULTS = (
    "emd",
    "emd_cumulative",
    *W1,
    *LAW,
    "drift_error",
    "potential_error",
    "interaction_error",
    "beta_learned",
    "seconds_per_epoch",
    "seconds_training",
    "seconds",
    "side_by_side",
)
COLUMNS = (*DATA, *RUN, "status", *RESULTS, "beaten", "converged", "reason")


def row_of(cell: Cell, folder: SweepFolder) -> Row:
    """A run's row; its status is finished, diverged, failed or missing."""
    row: Row = dict.fromkeys(COLUMNS) | data_columns(cell)
    row |= {name: getattr(cell, name) for name in RUN} | {"status": "missing"}
    if cell.solver is None:
        row |= {"status": "finished"} if folder.finished(cell) else {}
    elif folder.run(cell).finished:
        row |= result_columns(folder.summary(cell))
    failure = folder.failure(cell)
    if failure is not None and row["status"] == "missing":
        row |= {"status": "failed", "reason": failure["reason"]}
    return row


def data_columns(cell: Cell) -> Row:
    """What the data of a run are."""
    data = cell.data
    row: Row = {"dataset": cell.dataset_name}
    if not isinstance(data, DataSettings):
        return row
    row |= {"potential": data.potential, "interaction": data.interaction, "beta": data.beta}
    row["coupling"] = data.coupling if data.sinkhorn is None else f"{data.sinkhorn:g}"
    row["data_seed"] = data.seed
    if data.load_from_file is None:
        row |= {
            "dimension": data.dimension,
            "n_particles": data.n_particles,
            "substeps": data.substeps,
        }
    return row


def result_columns(summary: dict[str, Any]) -> Row:
    """What a finished run found."""
    errors = summary["field_error"] or {}

    def error(term: str) -> float | None:
        relative = errors.get(term, {}).get("relative")
        return None if relative is None else _mean(relative)

    emd = float(summary["emd_one_step_ahead"]["mean"])
    internal = SOLVERS[summary["solver"]].terms.internal
    seconds = summary["seconds"]
    # Those of the session that ended the run, to which its seconds belong.
    epochs = (summary.get("epochs") or 0) - int(seconds.get("from_epoch", 0))
    return {
        "status": "diverged" if summary.get("diverged") or not math.isfinite(emd) else "finished",
        "emd": emd,
        "emd_cumulative": float(summary["emd_cumulative"]["mean"]),
        **{name: (summary.get("w1_one_step_ahead") or {}).get(own) for name, own in W1.items()},
        **{name: _number((summary.get("law") or {}).get(name)) for name in LAW},
        "drift_error": error("drift"),
        "potential_error": error("potential_gradient"),
        "interaction_error": error("interaction_gradient"),
        "beta_learned": float(summary["beta"]["mean"]) if internal else None,
        "seconds_per_epoch": seconds["train"] / epochs if epochs > 0 else None,
        "seconds_training": seconds["train"],
        "seconds": seconds["total"],
        "side_by_side": summary.get("side_by_side", 1),
        "beaten": (summary.get("law") or {}).get("beaten"),
        "converged": summary["converged"],
    }


def _number(score: dict[str, Any] | None) -> float | None:
    return None if score is None or score["mean"] is None else float(score["mean"])


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean([float(v) for v in values]))


def mean_of(rows: Sequence[Row], column: str, **where: Any) -> float | None:
    """Mean of a column over the rows with these values, as far as it is there."""
    found = [r[column] for r in rows if all(r[k] == v for k, v in where.items())]
    found = [f for f in found if f is not None]
    return float(np.mean(found)) if found else None


def varying(rows: Sequence[Row], columns: Sequence[str] = (*DATA[1:], *RUN)) -> list[str]:
    """The columns in which the runs differ; that of the datasets' names where no other tells."""
    found = [c for c in columns if len({row[c] for row in rows}) > 1]
    told = {tuple(row[c] for c in found if c in DATA) for row in rows}
    return found if len(told) == len({row["dataset"] for row in rows}) else ["dataset", *found]


def means_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row for the runs that differ in the seed only, with the deviation of the EMD."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in (*DATA, *RUN[:-1])), []).append(row)
    merged = []
    for group in groups.values():
        row = {**group[0], "seeds": len(group)}
        row["status"] = ", ".join(sorted({r["status"] for r in group}))
        for name in RESULTS:
            values = [r[name] for r in group if r[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        known = [r["beaten"] for r in group if r["beaten"] is not None]
        row["beaten"] = any(known) if known else None
        finite = [r["emd"] for r in group if r["emd"] is not None]
        row["emd_std"] = float(np.std(finite)) if finite and np.isfinite(finite).all() else None
        merged.append(row)
    return merged


def write_markdown(file: Path, rows: Sequence[Row], title: str) -> None:
    """Means over seeds: the columns that vary, and the results that are there."""
    merged = means_over_seeds(rows)
    columns = [c for c in varying(rows) if c != "seed"] or ["dataset"]
    columns += [c for c in RESULTS[:-3] if any(row[c] is not None for row in merged)]
    if any(row["beaten"] for row in merged):
        columns.append("beaten")
    if any(row["status"] != "finished" for row in merged):
        columns += ["status", "reason"]
    n_seeds = len({row["seed"] for row in rows})
    head = f"# {title}\n\n{len(rows)} runs"
    head += f", mean +- standard deviation over {n_seeds} seeds\n\n" if n_seeds > 1 else "\n\n"
    write_text(file, head + markdown(merged, columns))
