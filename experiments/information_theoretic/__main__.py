"""Learns exact densities from denoising errors: points in the plane, or images.

Writes the validation nll, the error curve against the Gaussian's, contour pictures of the log density,
samples, and the network.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.information_theoretic.settings import InformationTheoreticSettings

FLAGS = define_flags(InformationTheoreticSettings)

EXAMPLE = """
python -m experiments.information_theoretic --dataset=dino
python -m experiments.information_theoretic --dataset=scg --run-name=scg --epochs=40
python -m experiments.information_theoretic --dataset=points --data-path=FILE.csv
python -m experiments.information_theoretic --dataset=cifar10 --data-path=FOLDER --preset=cpu
"""


def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    given = settings_from_flags(InformationTheoreticSettings, FLAGS)
    settings = given.resolved()
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.information_theoretic.running import train_run

    train_run(settings, begin, given.unused)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
