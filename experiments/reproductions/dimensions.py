"""Section 4.2: errors as the dimension and the number of particles grow (Terpin et al., figure 4)."""

from collections.abc import Sequence

from data_generation.scripts.figures import save_figure
from diffusions.files import write_text
from experiments.reproductions.baselines import relative_to_no_change
from experiments.reproductions.heat_maps import Value, heat_maps
from experiments.reproductions.settings import POTENTIALS, ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import mean_of

DIMENSIONS = (10, 20, 30, 40, 50)
PARTICLE_COUNTS = (1000, 2500, 5000, 7500, 10_000)
SOLVERS = ("jkonet-star-potential", "jkonet-star-linear-potential")


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per potential, dimension, number of particles, solver and seed."""
    potentials = settings.or_default("potentials", POTENTIALS, ("sphere",))
    dimensions = settings.or_default("dimensions", DIMENSIONS, (2, 3))
    counts = settings.or_default("particle_counts", PARTICLE_COUNTS, (100,))
    return [
        Cell(
            data=settings.simulation(
                potential, dimension=dimension, n_particles=count, n_gmm_components=0
            ),
            data_dir=settings.data_dir,
            solver=solver,
            seed=seed,
            learning=settings.learning(),
        )
        for dimension in dimensions
        for count in counts
        for potential in potentials
        for solver in settings.or_default("solvers", SOLVERS, SOLVERS[1:])
        for seed in settings.or_default("seeds", (0,), (0,))
    ]


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """Figure and tables: means over potentials of the EMD relative to that of no change."""
    del settings
    relative_to_no_change(rows, runs, folder)
    dimensions = sorted({row["dimension"] for row in rows})
    counts = sorted({row["n_particles"] for row in rows})
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    measures = {
        "relative": "EMD one step ahead, relative to no change",
        "drift_error": "relative L2 error of the drift",
    }
    parts = ["Means over the potentials; rows are dimensions, columns numbers of particles.\n"]
    panels: dict[tuple[str, str], Value] = {}
    for measure, label in measures.items():
        for solver in solvers:

            def value(d: int, n: int, measure: str = measure, solver: str = solver) -> float | None:
                return mean_of(rows, measure, solver=solver, dimension=d, n_particles=n)

            panels[label, solver] = value
            table = [{"dimension": d} | {str(n): value(d, n) for n in counts} for d in dimensions]
            shown = markdown(table, ["dimension", *map(str, counts)])
            parts.append(f"{solver}: {label}\n\n{shown}")
    write_text(folder.path / "dimensions.md", "\n".join(parts))
    figure = heat_maps(
        panels,
        dimensions,
        counts,
        label="error",
        row_axis="dimension",
        column_axis="particles",
    )
    save_figure(figure, folder.path / "plots" / "dimensions.png")
