"""The solvable linear denoiser: what it generates from n training points, against the truth.

For each n: distances of the generated law to the truth (squared Hellinger, KL), to the training points
and to an original set of fresh points (smoothed L2), and how often the original set is the nearer one.
With --mode=memorisation: losses on training and fresh pairs, and KL, over n / d and diffusion time.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.linear_denoiser.settings import LinearDenoiserSettings

FLAGS = define_flags(LinearDenoiserSettings)

EXAMPLE = """
python -m experiments.linear_denoiser --n-train=25,50,75,100 --n-simulations=100
python -m experiments.linear_denoiser
python -m experiments.linear_denoiser --mode=memorisation --n-simulations=50
python -m experiments.linear_denoiser --noise-scale=0.01 --n-pixels=4 --n-train=8,16,32,64,128
"""


def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    settings = settings_from_flags(LinearDenoiserSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.linear_denoiser.task import simulate

    simulate(settings, begin)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
