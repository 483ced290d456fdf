"""Section 4.3: every potential with every interaction, at several noises (Terpin et al., figure 5)."""

from collections.abc import Sequence

import numpy as np

from data_generation.scripts.figures import save_figure
from diffusions.files import write_text
from experiments.reproductions.baselines import relative_to_no_change
from experiments.reproductions.heat_maps import Value, heat_maps
from experiments.reproductions.settings import POTENTIALS, ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import mean_of

BETAS = (0.0, 0.1, 0.2)
SOLVERS = ("jkonet-star-linear",)


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per potential, interaction, beta, solver and seed."""
    functionals = settings.or_default("potentials", POTENTIALS, ("sphere",))
    return [
        Cell(
            data=settings.simulation(
                potential,
                interaction=interaction,
                internal="wiener",
                beta=beta,
                n_gmm_components=2 if settings.quick else 10,
            ),
            data_dir=settings.data_dir,
            solver=solver,
            seed=seed,
            learning=settings.learning(),
        )
        for beta in settings.or_default("betas", BETAS, BETAS[1:2])
        for potential in functionals
        for interaction in functionals
        for solver in settings.or_default("solvers", SOLVERS, SOLVERS)
        for seed in settings.or_default("seeds", (0,), (0,))
    ]


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """Figure and tables: drift errors by pair of functionals, and what becomes of beta."""
    del settings
    relative_to_no_change(rows, runs, folder)
    potentials = list(dict.fromkeys(row["potential"] for row in rows))
    interactions = list(dict.fromkeys(row["interaction"] for row in rows))
    betas = sorted({row["beta"] for row in rows})
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    summary: list[Row] = []
    panels: dict[tuple[str, str], Value] = {}
    for solver in solvers:
        for beta in betas:
            own = [r for r in rows if r["solver"] == solver and r["beta"] == beta]

            def value(u: str, v: str, own: list[Row] = own) -> float | None:
                return mean_of(own, "relative", interaction=u, potential=v)

            panels[solver, f"beta {beta:g}"] = value
            summary.append({"solver": solver, "beta": beta, **_summary(own)})
    columns = [
        "solver",
        "beta",
        "runs",
        "finished",
        "emd",
        "emd / no change",
        "drift",
        "beta found",
    ]
    text = "Medians over all pairs of functionals, with the quartiles of the last three\n\n"
    pairs = [
        {k: row[k] for k in ("potential", "interaction", "beta", "solver", "emd", "drift_error")}
        | {"beta_learned": row["beta_learned"], "status": row["status"]}
        for row in rows
    ]
    text += f"{markdown(summary, columns)}\n{markdown(pairs, list(pairs[0]))}"
    write_text(folder.path / "functionals.md", text)
    figure = heat_maps(
        panels,
        interactions,
        potentials,
        label="EMD one step ahead, relative to no change",
        row_axis="interaction",
        column_axis="potential",
        limits=(1e-3, 1.0),
    )
    save_figure(figure, folder.path / "plots" / "functionals.png")


def _summary(rows: Sequence[Row]) -> Row:
    shown: Row = {"runs": len(rows), "finished": sum(row["status"] == "finished" for row in rows)}
    for name, column in (
        ("emd", "emd"),
        ("emd / no change", "relative"),
        ("drift", "drift_error"),
        ("beta found", "beta_learned"),
    ):
        values = [row[column] for row in rows if row[column] is not None]
        if values:
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            shown[name] = (
                f"{middle:.3g}" if name == "emd" else f"{middle:.3g} [{low:.2g}, {high:.2g}]"
            )
    return shown
