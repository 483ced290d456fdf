"""The effect of the scheme, on Euler steps and on a finely resolved flow.

Snapshots of explicit Euler steps obey the explicit scheme exactly. Those of the continuous flow, here
of twenty Euler steps per dt, obey none; the midpoint scheme is the one of second order.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps

from data_generation.scripts.figures import TITLE_SIZE, log_scale, new_figure, save_figure
from diffusions.files import write_text
from experiments.reproductions.settings import ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import mean_of
from jkonet_star.settings import SCHEMES

FULL = ("styblinski_tang", "double_exp", "sphere")
SOLVERS = ("jkonet-star-potential", "jkonet-star-linear-potential")
SUBSTEPS = {1: "Euler steps", 20: "20 steps per dt"}


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per potential, kind of data, scheme, solver and seed."""
    return [
        Cell(
            data=settings.simulation(potential, substeps=substeps, n_gmm_components=0),
            data_dir=settings.data_dir,
            solver=solver,
            scheme=scheme,
            seed=seed,
            learning=settings.learning(),
        )
        for substeps in SUBSTEPS
        for potential in settings.or_default("potentials", FULL, ("sphere",))
        for scheme in SCHEMES
        for solver in settings.or_default("solvers", SOLVERS, SOLVERS[1:])
        for seed in settings.or_default("seeds", (0,), (0,))
    ]


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """Figure and table: EMD and error of the drift by scheme, side by side for both kinds of data."""
    del runs, settings
    potentials = list(dict.fromkeys(row["potential"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    measures = {"emd": "EMD one step ahead", "drift_error": "relative error of the drift"}
    table = []
    for substeps, data in SUBSTEPS.items():
        for potential in potentials:
            for solver in solvers:
                line: Row = {"data": data, "potential": potential, "solver": solver}
                for measure, short in (("emd", "EMD"), ("drift_error", "drift")):
                    for scheme in SCHEMES:
                        line[f"{short} {scheme}"] = mean_of(
                            rows,
                            measure,
                            substeps=substeps,
                            potential=potential,
                            solver=solver,
                            scheme=scheme,
                        )
                table.append(line)
    write_text(folder.path / "schemes.md", markdown(table, list(table[0])))
    figure, grid = new_figure(len(SUBSTEPS), len(measures), size=3.6)
    shades = dict(zip(SCHEMES, colormaps["tab10"](range(len(SCHEMES))), strict=True))
    for line_of_axes, (measure, label) in zip(grid, measures.items(), strict=True):
        for axes, (substeps, data) in zip(line_of_axes, SUBSTEPS.items(), strict=True):
            for number, scheme in enumerate(SCHEMES):
                for marker, solver in zip("os^Dv", solvers, strict=False):
                    errors = [
                        mean_of(
                            rows,
                            measure,
                            substeps=substeps,
                            potential=p,
                            solver=solver,
                            scheme=scheme,
                        )
                        for p in potentials
                    ]
                    shown = [np.nan if e is None else max(e, 1e-6) for e in errors]
                    axes.plot(
                        np.arange(len(potentials)) + 0.2 * (number - 1),
                        shown,
                        marker,
                        color=shades[scheme],
                        fillstyle="full" if marker == "o" else "none",
                        markersize=6,
                        label=f"{scheme}, {solver.removeprefix('jkonet-star-')}",
                    )
            log_scale(axes.yaxis)
            axes.grid(axis="y", alpha=0.3, linewidth=0.5)
            axes.set_xticks(range(len(potentials)), potentials, fontsize=8)
            axes.set_xlim(-0.5, len(potentials) - 0.5)
            axes.set_title(data, fontsize=TITLE_SIZE)
        line_of_axes[0].set_ylabel(label, fontsize=8)
        low = min(axes.get_ylim()[0] for axes in line_of_axes)
        high = max(axes.get_ylim()[1] for axes in line_of_axes)
        for axes in line_of_axes:
            axes.set_ylim(low, high)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=7,
        frameon=False,
    )
    save_figure(figure, folder.path / "plots" / "schemes.png")
