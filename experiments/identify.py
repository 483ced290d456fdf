"""Says what the data of a finished run can tell, and what they cannot.

V or a quadratic U, gradient or circulation, noise or drift, growth or transport: each with a number and
a sentence, printed and kept in `identify.json` of the run.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.populations.settings import IdentifySettings

FLAGS = define_flags(IdentifySettings)

EXAMPLE = "python -m experiments.identify --run=runs/demo"


def main() -> None:
    """Asks of the run of the flags."""
    start = time.perf_counter()
    settings = settings_from_flags(IdentifySettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.populations.identification import identify_run

    identify_run(settings, start)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
