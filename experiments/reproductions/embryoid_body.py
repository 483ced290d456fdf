"""Section 4.4: single cells of the embryoid body in five principal components, by three protocols.

    one step ahead     60 % of the cells of every day are learned from, the others predicted from the
                       day before; W1, mean of four steps (Terpin et al., NeurIPS 2024)
    leave one out      all cells of all days but one are learned from, which is predicted from the day
                       before; W1, mean of days 1, 2 and 3 (Tong et al., ICML 2020)
    leave two out      all cells of days 0, 2 and 4 are learned from; days 1 and 3 are predicted; W2
                       (Persiianov et al., ICLR 2026)

They are different questions, and their numbers are not to be compared with each other. V depends on
time in all of them, but where `auto` finds that it need not; the first is also judged by its law. A
step to a day that was left out is a step of training cut short: of the same V, at the same time.
"""

from collections.abc import Sequence

from experiments.populations.learning_settings import LearningSettings
from experiments.reproductions.embryoid_body_methods import network_of, seeds_of, solvers_of
from experiments.reproductions.settings import ReproduceSettings
from experiments.run.tables import Row
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell


def cells(settings: ReproduceSettings) -> list[Cell]:
    """A run per solver, scheme, variant and seed of the one-step-ahead protocol."""
    return [
        Cell(
            data=settings.cells_one_step_ahead,
            data_dir=settings.data_dir,
            solver=solver,
            scheme=scheme,
            seed=seed,
            variant=variant,
            learning=LearningSettings(network=network_of(settings, variant)),
        )
        for solver, scheme, variant in solvers_of(settings)
        for seed in seeds_of(settings)
    ]


def report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """The other two protocols, figures and tables."""
    from experiments.reproductions.embryoid_body_report import write_report

    write_report(rows, runs, folder, settings)
