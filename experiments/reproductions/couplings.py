"""Ablation of the couplings: Sinkhorn's epsilon against the exact plan.

The published epsilons .01, .1 and 1 are squared lengths; ours are relative to the mean squared
distance of the particles, which for independent uniform points of [-4, 4]^2 is 64/3.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps

from data_generation.populations.datasets import load_dataset
from data_generation.scripts.figures import TITLE_SIZE, log_scale, new_figure, save_figure
from diffusions.files import write_text
from experiments.reproductions.baselines import relative_to_no_change
from experiments.reproductions.settings import POTENTIALS, ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.figures import MARKERS
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import mean_of

MEAN_SQUARED_DISTANCE = 64 / 3
EPSILONS: dict[str, float | None] = {"exact": None, "0.01": 0.01, "0.1": 0.1, "1": 1.0}
SOLVERS = ("jkonet-star-potential", "jkonet-star-linear-potential")


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per potential, coupling, solver and seed."""
    return [
        Cell(
            data=settings.simulation(potential, n_gmm_components=0, **_coupling(epsilon)),
            data_dir=settings.data_dir,
            solver=solver,
            seed=seed,
            learning=settings.learning(),
        )
        for potential in settings.or_default("potentials", POTENTIALS, ("sphere",))
        for epsilon in (list(EPSILONS)[::2] if settings.quick else EPSILONS)
        for solver in settings.or_default("solvers", SOLVERS, SOLVERS[1:])
        for seed in settings.or_default("seeds", (0,), (0,))
    ]


def _coupling(name: str) -> dict[str, Any]:
    epsilon = EPSILONS[name]
    return {"coupling": "exact"} if epsilon is None else {"sinkhorn": _relative(epsilon)}


def _relative(epsilon: float) -> float:
    return float(f"{epsilon / MEAN_SQUARED_DISTANCE:.4g}")


def _epsilon(row: Row) -> str:
    """The published name of a row's coupling."""
    relative = {name: "exact" if e is None else f"{_relative(e):g}" for name, e in EPSILONS.items()}
    return next(name for name, shown in relative.items() if shown == row["coupling"])


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """Figure and table: errors by coupling, and what of the plan's mass was kept."""
    del settings
    still = relative_to_no_change(rows, runs, folder)
    for row in rows:
        row["epsilon"] = _epsilon(row)
    epsilons = list(dict.fromkeys(row["epsilon"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    potentials = list(dict.fromkeys(row["potential"] for row in rows))
    kept = _kept_mass(runs, folder)
    table = []
    for potential in potentials:
        for epsilon in epsilons:
            own = [r for r in rows if r["potential"] == potential and r["epsilon"] == epsilon]
            line = {
                "potential": potential,
                "epsilon": epsilon,
                "mass kept": kept.get(own[0]["dataset"]),
            }
            line["no change"] = still.get(own[0]["dataset"])
            for solver in solvers:
                line[f"{solver}: EMD"] = mean_of(own, "emd", solver=solver)
                line[f"{solver}: drift"] = mean_of(own, "drift_error", solver=solver)
            table.append(line)
    text = (
        "One-step-ahead EMD and relative L2 error of the drift; `mass kept` is the share of the\n"
    )
    text += "plan in pairs heavy enough to be learned from.\n\n"
    write_text(folder.path / "couplings.md", text + markdown(table, list(table[0])))
    figure, grid = new_figure(len(solvers), size=4.2)
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(epsilons)))
    for axes, solver in zip(grid[0], solvers, strict=True):
        for number, epsilon in enumerate(epsilons):
            errors = [
                mean_of(rows, "relative", potential=p, epsilon=epsilon, solver=solver)
                for p in potentials
            ]
            shown = [np.nan if e is None else max(e, 1e-5) for e in errors]
            shift = (number - (len(epsilons) - 1) / 2) * 0.15
            axes.plot(
                np.arange(len(potentials)) + shift,
                shown,
                MARKERS[number],
                markersize=4.5,
                color=shades[number],
                label=epsilon if epsilon == "exact" else f"epsilon {epsilon}",
            )
        axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
        log_scale(axes.yaxis)
        axes.set_xticks(range(len(potentials)), potentials, rotation=45, ha="right", fontsize=7)
        axes.set_title(solver, fontsize=TITLE_SIZE)
    grid[0, 0].set_ylabel("EMD / EMD of no change (dashed)", fontsize=8)
    grid[0, 0].legend(fontsize=7, frameon=False)
    save_figure(figure, folder.path / "plots" / "couplings.png")


def _kept_mass(runs: Sequence[Cell], folder: SweepFolder) -> dict[str, float]:
    """Share of the plans' mass that the couplings of each dataset hold; none where all runs failed."""
    found = {}
    for cell in runs:
        if cell.dataset_name not in found and folder.run(cell).finished:
            reports = load_dataset(cell.dataset_path).metadata["couplings"]
            found[cell.dataset_name] = 1.0 - float(np.mean([r["dropped_mass"] for r in reports]))
    return found
