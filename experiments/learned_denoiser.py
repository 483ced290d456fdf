"""The learned counterpart of the linear denoiser: diffusion models of Gaussian images, many times over.

Each repetition draws an original and a training set, trains an attention U-Net, generates a few images
and compares: Delta is the distance of training and generated images minus that of original and
generated ones, so that Delta > 0 says that the model generalises.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.linear_denoiser.settings import LearnedDenoiserSettings

FLAGS = define_flags(LearnedDenoiserSettings)

EXAMPLE = """
python -m experiments.learned_denoiser --quick
python -m experiments.learned_denoiser --n-train=450 --n-simulations=1
python -m experiments.learned_denoiser --quick --mean-list=0.3,0.7 --std-list=0.05,0.1 --weights=1,2
"""


def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    settings = settings_from_flags(LearnedDenoiserSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.linear_denoiser.learned_task import simulate

    simulate(settings, begin)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
