"""Makes a dataset: simulates populations, or reads snapshots, then couples them.

The dataset goes to a folder in --data-dir whose name spells the settings.
"""

import sys
import time
from collections.abc import Sequence

from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing

FLAGS = define_flags(DataSettings)

EXAMPLE = """
data_generation --potential=styblinski_tang
data_generation --potential=none --internal=wiener --beta=0.2 --unpaired
data_generation --load-from-file=cells.h5ad --time-key=day --representation=X_pca --split-population
"""


def main() -> None:
    """Makes or finds the dataset of the flags, and says what it is."""
    settings = settings_from_flags(DataSettings, FLAGS)
    start = time.perf_counter()
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from data_generation.populations.making import make

    make(settings, start)


def run(argv: Sequence[str] | None = None) -> int:
    """The console script; asked for nothing it says what there is."""
    arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    return run_script(main, FLAGS, argv=arguments, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
