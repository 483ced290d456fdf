"""Where diffusion sampling fails: sparse rank-one matrices by stochastic localization.

Trains a message-passing denoiser, measures its squared error against time beside two polynomial-time
baselines, and generates samples, whose norms collapse although half of the true ones are 1. Without
--checkpoint the shipped network (n = 64, k = 6) is evaluated.
"""

import dataclasses
import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.sparse_localization.settings import (
    CurriculumSettings,
    SparseSettings,
)

FLAGS = define_flags(SparseSettings)
define_flags(CurriculumSettings, into=FLAGS)

EXAMPLE = """
python -m experiments.sparse_localization --mode=reproduce
python -m experiments.sparse_localization --mode=train --n=64 --k=6 --samples-per-epoch=2000 \\
    --train-batch-size=50
python -m experiments.sparse_localization --mode=evaluate --checkpoint=DIR --times=20,200,360
python -m experiments.sparse_localization --mode=generate --checkpoint=DIR --step=7 --n-samples=40
"""


def main() -> None:
    """Runs the mode of the flags."""
    begin = time.perf_counter()
    settings = settings_from_flags(SparseSettings, FLAGS)
    curriculum = settings_from_flags(CurriculumSettings, FLAGS)
    if settings.mode != "train":
        _refuse_curriculum(curriculum)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.sparse_localization.running import run_mode

    run_mode(settings, curriculum, begin)


def _refuse_curriculum(curriculum: CurriculumSettings) -> None:
    """Flags that would be ignored are mistakes."""
    for field in dataclasses.fields(curriculum):
        if getattr(curriculum, field.name) != field.default:
            raise ValueError(f"--{field.name.replace('_', '-')} needs --mode=train")


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
