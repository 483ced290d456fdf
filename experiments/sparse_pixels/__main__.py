"""Whole images from a few of their pixels: a diffusion model trained on sparse images.

Training shows the network the told pixels of an image and asks for others; see
`diffusions.images.sparse_denoising`. A new run ends with its evaluation on held-out images beside
interpolation and a one-shot regression network; `--mode=sample` and `--mode=evaluate` do that again
with the network of a finished run and other samplers.
"""

import time
from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from experiments.sparse_pixels.settings import SparsePixelsSettings

FLAGS = define_flags(SparsePixelsSettings)

EXAMPLE = """
python -m experiments.sparse_pixels --dataset=synthetic --preset=cpu
python -m experiments.sparse_pixels --data-path=FOLDER --preset=cpu --run-name=sparse
python -m experiments.sparse_pixels --data-path=FOLDER --model=ddpm --supervision=full-input
python -m experiments.sparse_pixels --mode=evaluate --run=runs/sparse --sampler=sde --steps=50
python -m experiments.sparse_pixels --data-path=FOLDER --preset=cpu --model=em --mask-mode=fixed
python -m experiments.sparse_pixels --mode=sample --run=runs/sparse --noimpose
"""


def main() -> None:
    """Does what `--mode` says."""
    begin = time.perf_counter()
    given = settings_from_flags(SparsePixelsSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.sparse_pixels.running import reuse_run, train_run

    if given.mode == "train":
        train_run(given.resolved(), begin)
    else:
        reuse_run(given, begin, given_flags={name for name in FLAGS if FLAGS[name].present})


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
