"""What `--mode` of sparse localization does, in a run folder."""

import dataclasses
import time
from typing import Any

import jax

from data_generation.scripts.command_line import say
from data_generation.scripts.device import device_name, precision
from experiments.run.folder import start_run
from experiments.run.replaced import keeps_replaced
from experiments.run.session import check_settings, conclude
from experiments.sparse_localization.evaluation import evaluate, sample
from experiments.sparse_localization.settings import CurriculumSettings, SparseSettings
from experiments.sparse_localization.task import (
    DENOISER,
    open_checkpoints,
    problem_of,
    read_reference,
)
from experiments.sparse_localization.training import train_denoiser


@keeps_replaced
def run_mode(settings: SparseSettings, curriculum: CurriculumSettings, begin: float) -> None:
    """Does what the settings ask for.

    Args:
        settings: of the flags.
        curriculum: of a training.
        begin: when the script did, by `time.perf_counter`.
    """
    check_settings(settings)
    training = settings.mode == "train"
    reference = read_reference(settings)
    denoisers = {} if training else open_checkpoints(settings)
    problem = problem_of(settings, denoisers)
    scaled = curriculum.scaled(problem.n) if training else None
    run = start_run(
        settings,
        "experiments.sparse_localization",
        f"sparse_{settings.mode}_n{problem.n}_k{problem.k}",
        *(() if scaled is None else (scaled,)),
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
    if scaled is not None:
        denoisers = {DENOISER: train_denoiser(run, settings, scaled, problem, key, seconds)}
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
