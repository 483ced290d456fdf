"""Reproduces an experiment of the JKOnet* paper: runs, a table of numbers and the figure.

A reproduction is a sweep: it continues where it was killed.
"""

from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.reproductions.settings import ReproduceSettings
from experiments.sweeps.settings import ExecutionSettings

FLAGS = define_flags(ReproduceSettings)
define_flags(ExecutionSettings, into=FLAGS)

EXAMPLE = """
python -m experiments.reproduce --experiment=potentials --quick
python -m experiments.reproduce --experiment=potentials
python -m experiments.reproduce --experiment=potentials --reference=DIR --quick
python -m experiments.reproduce --experiment=embryoid-body --embryoid-body=eb_velocity_v5.npz
"""


def main() -> None:
    """Carries out the experiment of the flags."""
    settings = settings_from_flags(ReproduceSettings, FLAGS)
    execution = settings_from_flags(ExecutionSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.reproductions.running import reproduce

    reproduce(settings, execution)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
