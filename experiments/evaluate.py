"""Evaluates the energies of a finished run, on its own dataset or another one."""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.populations.settings import EvaluateSettings

FLAGS = define_flags(EvaluateSettings)

EXAMPLE = """
python -m experiments.evaluate --run=runs/demo
python -m experiments.evaluate --run=runs/demo --dataset=NAME --wasserstein-order=2
"""


def main() -> None:
    """Evaluates the run of the flags."""
    start = time.perf_counter()
    settings = settings_from_flags(EvaluateSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.populations.evaluation import evaluate_run

    evaluate_run(settings, start)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
