"""Writes one HTML page about a run of any experiment, or about a sweep.

The page holds everything: numbers, curves, figures, configuration, environment, and the commands that
make them again. It loads nothing from elsewhere, so that it can be mailed or archived.
"""

from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.reports.settings import ReportSettings

FLAGS = define_flags(ReportSettings)

EXAMPLE = """
python -m experiments.report --run=runs/demo
python -m experiments.report --run=runs/sweep --out=sweep.html
"""


def main() -> None:
    """Writes the report of the flags."""
    settings = settings_from_flags(ReportSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.reports.page import report

    report(settings)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
