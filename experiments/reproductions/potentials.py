"""Section 4.1: fifteen potentials, every solver, one-step-ahead EMD (Terpin et al., figure 3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from data_generation.populations.settings import DataSettings
from data_generation.scripts.figures import TRUTH, empty_figure, in_style, log_scale, save_figure
from diffusions.files import write_text
from experiments.reproductions.baselines import relative_to_no_change
from experiments.reproductions.settings import POTENTIALS, ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.figures import MARKERS
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import mean_of
from jkonet_star.solvers.registry import SOLVERS, scheme_of

# The closed forms first: a table that is worth reading is there after a few minutes.
FULL = tuple(
    sorted(
        (name for name in SOLVERS if name.startswith("jkonet-star")),
        key=lambda name: (SOLVERS[name].trained, SOLVERS[name].terms.interaction),
    )
)
QUICK = ("jkonet-star-potential", "jkonet-star-linear-potential")
DRAWN = (1e-5, 30.0)
"""Errors relative to no change that the figure tells apart."""


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per potential, solver and seed."""
    potentials = settings.or_default("potentials", POTENTIALS, ("sphere", "relu"))
    solvers = settings.or_default("solvers", FULL, QUICK)
    seeds = settings.or_default("seeds", (0,), (0,))
    return [
        Cell(
            data=_data(settings, potential),
            data_dir=settings.data_dir,
            solver=solver,
            scheme=scheme_of("auto", solver),
            seed=seed,
            learning=settings.learning(),
        )
        for potential in potentials
        for solver in solvers
        for seed in seeds
    ]


def _data(settings: ReproduceSettings, potential: str) -> DataSettings:
    if settings.reference is not None:
        file = Path(settings.reference) / f"{potential}.npz"
        if file.is_file():
            name = f"reference_{potential}"
            return DataSettings(
                potential=potential,  # type: ignore[arg-type]
                load_from_file=str(file),
                dataset_name=name,
                data_dir=settings.data_dir,
            )
    return settings.simulation(potential, n_gmm_components=2 if settings.quick else 10)


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """Figure and tables."""
    del settings
    potentials = list(dict.fromkeys(row["potential"] for row in rows))
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    still = relative_to_no_change(rows, runs, folder)
    for row in rows:
        row["cost"] = row["seconds_per_epoch"] or row["seconds_training"]
    still_of = {row["potential"]: still.get(row["dataset"]) for row in rows}
    parts = []
    for title, column in (
        ("One-step-ahead EMD; `no change` predicts that nothing moves", "emd"),
        ("Relative L2 error of the drift", "drift_error"),
        ("Seconds per epoch and run side by side; of a closed form, in all", "cost"),
    ):
        table = []
        for p in potentials:
            row = {s: mean_of(rows, column, potential=p, solver=s) for s in solvers}
            table.append({"potential": p, "no change": still_of[p], **row})
        columns = ["potential", *(["no change"] if column == "emd" else []), *solvers]
        parts.append(f"{title}\n\n{markdown(table, columns)}")
    write_text(folder.path / "potentials.md", "\n".join(parts))
    curves = {s: _curves([c for c in runs if c.solver == s], folder) for s in solvers}
    save_figure(
        draw_potentials(rows, potentials, solvers, curves), folder.path / "plots/potentials.png"
    )


def _curves(runs: Sequence[Cell], folder: SweepFolder) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs, and each run's EMD after them relative to its range.

    None for closed forms, and where two evaluations would be nothing but the ends of that range.
    """
    found: dict[tuple, list[np.ndarray]] = {}
    for cell in runs:
        evaluations = [r for r in folder.run(cell).rows() if "emd_one_step_ahead" in r]
        emd = np.array([float(r["emd_one_step_ahead"][0]) for r in evaluations])
        if len(emd) > 2 and np.isfinite(emd).all() and np.ptp(emd) > 0:
            epochs = tuple(r["epoch"] for r in evaluations)
            found.setdefault(epochs, []).append((emd - emd.min()) / np.ptp(emd))
    if not found:
        return None
    epochs = max(found, key=lambda e: len(found[e]))
    return np.array(epochs), np.stack(found[epochs])


def draw_potentials(
    rows: Sequence[Row],
    potentials: Sequence[str],
    solvers: Sequence[str],
    curves: dict[str, tuple[np.ndarray, np.ndarray] | None],
) -> Figure:
    """Errors by potential, convergence over the epochs, time per epoch."""
    figure = empty_figure(11, 7.4)
    # Closed forms have no epochs, and short runs a single evaluation.
    drawn = any(curve is not None for curve in curves.values())
    axes = figure.subplot_mosaic("ee;ct" if drawn else "e;t")  # errors, convergence, time
    in_style(axes.values())
    shades = dict(zip(solvers, colormaps["tab10"](np.arange(len(solvers)) % 10), strict=True))
    for number, solver in enumerate(solvers):
        shift = (number - (len(solvers) - 1) / 2) * 0.75 / len(solvers)
        errors = [mean_of(rows, "relative", potential=p, solver=solver) for p in potentials]
        places = [k + shift for k, e in enumerate(errors) if e is not None]
        shown = np.clip([e for e in errors if e is not None], *DRAWN)
        marker = MARKERS[number % len(MARKERS)]
        axes["e"].scatter(places, shown, s=20, color=shades[solver], marker=marker, label=solver)
        curve = curves[solver]
        if curve is not None:
            epochs, emd = curve
            middle, spread = emd.mean(axis=0), emd.std(axis=0)
            axes["c"].plot(epochs, middle, color=shades[solver], linewidth=1.2)
            axes["c"].fill_between(
                epochs, middle - spread, middle + spread, color=shades[solver], alpha=0.12
            )
    for k in range(1, len(potentials)):
        axes["e"].axvline(k - 0.5, color="0.9", linewidth=0.6)
    axes["e"].axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    log_scale(axes["e"].yaxis)
    axes["e"].set_ylim(DRAWN[0] / 1.6, DRAWN[1] * 1.6)
    axes["e"].set_xlim(-0.5, len(potentials) - 0.5)
    axes["e"].set_xticks(range(len(potentials)), potentials, rotation=30, ha="right", fontsize=8)
    axes["e"].set_ylabel("EMD / EMD of no change (dashed)", fontsize=9)
    axes["e"].legend(
        fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
    )
    if drawn:
        axes["c"].set_xlabel("epoch")
        axes["c"].set_ylabel("EMD, from its least to its largest value", fontsize=9)
    costs = {s: [r["cost"] for r in rows if r["solver"] == s and r["cost"]] for s in solvers}
    _draw_costs(axes["t"], {s: costs[s] for s in solvers if costs[s]}, shades)
    return figure


def _draw_costs(axes: Axes, costs: dict[str, list[float]], shades: dict[str, np.ndarray]) -> None:
    """A row of points per solver, one for each run, and their median; between whole decades."""
    axes.set_xlabel("seconds per epoch (bar: median); of a closed form, in all", fontsize=9)
    if not costs:
        return
    for row, (solver, found) in enumerate(costs.items()):
        marker = MARKERS[list(shades).index(solver) % len(MARKERS)]
        axes.scatter(
            found, [row] * len(found), s=20, color=shades[solver], marker=marker, alpha=0.6
        )
        axes.plot(np.median(found), row, "|", color=TRUTH, markersize=16, markeredgewidth=1.5)
    every = np.log10(np.concatenate(list(costs.values())))
    log_scale(axes.xaxis)
    # Numbers stand at powers of ten only: two of them, however near each other the runs are.
    axes.set_xlim(10.0 ** np.floor(every.min() - 0.05), 10.0 ** np.ceil(every.max() + 0.05))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(costs)), list(costs), fontsize=7)
    spare = max(len(costs), 4) / 2  # of one solver no row as high as the figure
    axes.set_ylim((len(costs) - 1) / 2 + spare, (len(costs) - 1) / 2 - spare)
