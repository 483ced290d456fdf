"""What `--mode` of sparse localization does, in a run folder."""

import dataclasses
from typing import Any

import jax

from experiments.run.session import session
from experiments.run.verdicts import joined
from experiments.sparse_localization.evaluation import evaluate, sample
from experiments.sparse_localization.settings import CurriculumSettings, SparseSettings
from experiments.sparse_localization.task import (
    DENOISER,
    open_checkpoints,
    problem_of,
    read_reference,
)
from experiments.sparse_localization.training import divided_batches, train_denoiser


def run_mode(settings: SparseSettings, curriculum: CurriculumSettings, begin: float) -> None:
    """Does what the settings ask for.

    Args:
        settings: of the flags.
        curriculum: of a training.
        begin: when the script did, by `time.perf_counter`.
    """
    with session(settings, "experiments.sparse_localization", begin) as run:
        training = settings.mode == "train"
        reference = read_reference(settings)
        denoisers = {} if training else open_checkpoints(settings)
        problem = problem_of(settings, denoisers)
        scaled = curriculum.scaled(problem.n) if training else None
        started = run.start(
            f"sparse_{settings.mode}_n{problem.n}_k{problem.k}",
            f"{settings.mode}: n = {problem.n}, k = {problem.k}; threshold t = n/2 = "
            f"{problem.n / 2:g}",
            *(() if scaled is None else (scaled,)),
            divided=None if scaled is None else divided_batches(scaled.train_batch_size),
            unused=settings.unused,
            **dataclasses.asdict(problem),
        )
        if not started:
            return
        key = jax.random.key(settings.seed)
        results: dict[str, Any] = {"mode": settings.mode, **dataclasses.asdict(problem)}
        if scaled is not None:
            network = train_denoiser(run.folder, settings, scaled, problem, key, run.seconds)
            denoisers = {DENOISER: network}
        parts = []
        if settings.mode != "generate":
            with run.timed("evaluate"):
                parts.append(
                    evaluate(run.folder.path, settings, problem, denoisers, reference, key)
                )
        if settings.mode in ("generate", "reproduce"):
            with run.timed("generate"):
                parts.append(sample(run.folder, settings, problem, denoisers, key))
        for found, _ in parts:
            results |= found
        run.conclude(results | joined([verdict for _, verdict in parts]).said())
