"""Carries out a grid of runs: data, training, evaluation, a table and a figure.

Networks on data of one shape are trained side by side in one program. Runs that are finished are
skipped, so that a sweep that was killed continues; runs that fail are tried once more.
"""

from collections.abc import Sequence
from pathlib import Path

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from diffusions.checks import check_folder_name
from experiments.populations.learning_settings import define_learning_flags, learning_from_flags
from experiments.sweeps.settings import (
    ExecutionSettings,
    Grid,
    SimulationSettings,
    SweepSettings,
    cells_of,
    check_datasets,
    grids_from_flags,
    simulated_in_vain,
)

FLAGS = define_flags(SweepSettings)
define_flags(Grid, into=FLAGS)
define_flags(SimulationSettings, into=FLAGS)
define_flags(ExecutionSettings, into=FLAGS)
define_learning_flags(FLAGS)

EXAMPLE = """
python -m experiments.sweep --potentials=sphere,moon --solvers=jkonet-star-potential --seeds=0,1,2
python -m experiments.sweep --grid=all_models --betas=0
python -m experiments.sweep --grid=FILE.yaml --executor=slurm --jobs=16
"""


def main() -> None:
    """Carries out the sweep of the flags."""
    sweep = settings_from_flags(SweepSettings, FLAGS)
    grids = grids_from_flags(FLAGS, sweep.grid)
    simulation, learning = (
        settings_from_flags(SimulationSettings, FLAGS),
        learning_from_flags(FLAGS),
    )
    cells = cells_of(grids, simulation, learning)
    execution = settings_from_flags(ExecutionSettings, FLAGS)
    name = sweep.sweep_name or (Path(sweep.grid).stem if sweep.grid else "sweep")
    check_folder_name("sweep_name", name)
    check_datasets(cells, Path(execution.runs_dir) / name)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.sweeps.running import check_complete, run_sweep

    solvers = {cell.solver for cell in cells if cell.solver is not None}
    unused = (
        simulated_in_vain(grids, simulation) + execution.unused + learning.unused(*sorted(solvers))
    )
    check_complete(run_sweep(cells, name, execution, unused=unused))


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
