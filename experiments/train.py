"""Trains a JKOnet* solver on a dataset, evaluates it, and writes a run folder.

Without --dataset it makes the Styblinski-Tang demonstration first.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.populations.learning_settings import (
    define_learning_flags,
    learning_from_flags,
)
from experiments.populations.settings import TrainSettings

FLAGS = define_learning_flags(define_flags(TrainSettings))

EXAMPLE = """
python -m experiments.train --solver=jkonet-star-potential --run-name=demo
python -m experiments.train --solver=jkonet-star-linear --dataset=NAME --scheme=explicit
python -m experiments.train --solver=jkonet --epochs=20 --eval-every=5
python -m experiments.train --solver=jkonet-star-time-potential --dataset=cells --seeds=0,1,2,3,4
"""


def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    settings, learning = settings_from_flags(TrainSettings, FLAGS), learning_from_flags(FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.populations.training import train

    train(settings, learning, begin)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
