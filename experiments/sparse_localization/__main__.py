"""Where diffusion sampling fails: sparse rank-one matrices by stochastic localization.

Trains a message-passing denoiser, measures its squared error against time beside two polynomial-time
baselines, and generates samples, whose norms collapse although half of the true ones are 1. Without
--checkpoint the shipped network (n = 64, k = 6) is evaluated.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.run.replaced import keeps_replaced
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


@keeps_replaced
def main() -> None:
    """Runs the mode of the flags."""
    begin = time.perf_counter()
    settings = settings_from_flags(SparseSettings, FLAGS)
    curriculum = settings_from_flags(CurriculumSettings, FLAGS)
    training = settings.mode == "train"
    if not training:
        _refuse_curriculum(curriculum)
    import jax  # only now: `--help` and a mistyped flag need none of it

    from data_generation.scripts.device import device_name, precision
    from experiments.run.folder import start_run
    from experiments.run.session import check_settings, conclude
    from experiments.sparse_localization.evaluation import evaluate, sample
    from experiments.sparse_localization.task import (
        DENOISER,
        open_checkpoints,
        problem_of,
        read_reference,
    )
    from experiments.sparse_localization.training import train_denoiser

    check_settings(settings)
    reference = read_reference(settings)
    denoisers = {} if training else open_checkpoints(settings)
    problem = problem_of(settings, denoisers)
    if training:
        curriculum = curriculum.scaled(problem.n)
    run = start_run(
        settings,
        "experiments.sparse_localization",
        f"sparse_{settings.mode}_n{problem.n}_k{problem.k}",
        *((curriculum,) if training else ()),
        **dataclasses.asdict(problem),
    )
    if run.finished:
        say(f"{run.path} is already finished")
        return
    say(f"{settings.mode}: n = {problem.n}, k = {problem.k}; threshold t = n/2 = {problem.n / 2:g}")
    say(f"  {device_name()}, {precision()}, seed {settings.seed}; results in {run.path}")
    seconds: dict[str, float] = {}
    key = jax.random.key(settings.seed)
    results: dict[str, Any] = {"mode": settings.mode, **dataclasses.asdict(problem)}
    if training:
        denoisers = {DENOISER: train_denoiser(run, settings, curriculum, problem, key, seconds)}
    if settings.mode != "generate":
        start = time.perf_counter()
        results |= evaluate(run.path, settings, problem, denoisers, reference, key)
        seconds["evaluate"] = time.perf_counter() - start
    if settings.mode in ("generate", "reproduce"):
        start = time.perf_counter()
        results |= sample(run.path, settings, problem, denoisers, key)
        seconds["generate"] = time.perf_counter() - start
    seconds["total"] = time.perf_counter() - begin
    conclude(run, settings, results, seconds)


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
