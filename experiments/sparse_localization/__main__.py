"""Where diffusion sampling fails: sparse rank-one matrices by stochastic localization.

Trains a message-passing denoiser, measures its squared error against time beside two polynomial-time
baselines, and generates samples, whose norms collapse although half of the true ones are 1. Without
--checkpoint the shipped network (n = 64, k = 6) is evaluated.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_generation.formats.json_file import read_text
from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.run.replaced import keeps_replaced
from experiments.sparse_localization.settings import (
    PUBLISHED_N,
    PUBLISHED_TIMES,
    REFERENCE_SAMPLES,
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

DEFAULT_K = 20
DEFAULT_SAMPLES = {"train": 1000, "evaluate": 15_000, "generate": 500, "reproduce": 1000}
DENOISER = "denoiser"


@dataclasses.dataclass(frozen=True)
class DenoisingProblem:
    """What the flags leave open is filled in from the denoiser, or by the published problem."""

    n: int
    k: int
    times: tuple[float, ...]
    n_samples: int
    horizon: float


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

    check_settings(settings)
    reference = _read_reference(settings)
    denoisers = {} if training else _open_checkpoints(settings)
    problem = _problem(settings, denoisers)
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
        denoisers = {DENOISER: _train(run, settings, curriculum, problem, key, seconds)}
    if settings.mode != "generate":
        start = time.perf_counter()
        results |= _evaluate(run.path, settings, problem, denoisers, reference, key)
        seconds["evaluate"] = time.perf_counter() - start
    if settings.mode in ("generate", "reproduce"):
        start = time.perf_counter()
        results |= _generate(run.path, settings, problem, denoisers, key)
        seconds["generate"] = time.perf_counter() - start
    seconds["total"] = time.perf_counter() - begin
    conclude(run, settings, results, seconds)


def _refuse_curriculum(curriculum: CurriculumSettings) -> None:
    """Flags that would be ignored are mistakes."""
    for field in dataclasses.fields(curriculum):
        if getattr(curriculum, field.name) != field.default:
            raise ValueError(f"--{field.name.replace('_', '-')} needs --mode=train")


def _read_reference(settings: SparseSettings) -> dict[float, float]:
    """Published means: time -> value, from a file of one number per line."""
    if settings.reference is None:
        return {}
    try:
        values = [float(word) for word in read_text(Path(settings.reference)).split()]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the reference {settings.reference}: {error}") from error
    if len(values) != len(PUBLISHED_TIMES):
        raise ValueError(
            f"{settings.reference} holds {len(values)} numbers; one is needed for each of the times "
            f"{PUBLISHED_TIMES[0]:g}, {PUBLISHED_TIMES[1]:g}, ..., {PUBLISHED_TIMES[-1]:g}"
        )
    if not all(0.0 <= value < float("inf") for value in values) or not 0.0 < values[0] < 1.0:
        raise ValueError(
            f"{settings.reference} must hold mean squared errors, the first of them the share of "
            f"non-zero matrices, got {values[0]:g} to begin with and {min(values):g} to {max(values):g}"
        )
    return dict(zip(PUBLISHED_TIMES, values, strict=True))


def _open_checkpoints(settings: SparseSettings) -> dict[str, Any]:
    """Denoisers by label, all of one problem."""
    from checkpoints.message_passing import SHIPPED, load_denoiser

    paths = [Path(path) for path in settings.checkpoint] or [SHIPPED]
    # A run's folder stands for the denoiser in it.
    paths = [path / DENOISER if (path / DENOISER).is_dir() else path for path in paths]
    labels = [path.parent.name if path.name == DENOISER else path.name for path in paths]
    if len(set(labels)) != len(labels):
        raise ValueError(f"checkpoints must have different names, got {', '.join(labels)}")
    denoisers = {label: load_denoiser(path) for label, path in zip(labels, paths, strict=True)}
    problems = {(found.n, found.model.n_nonzero) for found in denoisers.values()}
    if len(problems) > 1 and (settings.n is None or settings.k is None):
        raise ValueError(
            "the checkpoints are of different problems (n, k): "
            f"{', '.join(map(str, sorted(problems)))}; give --n and --k"
        )
    return denoisers


def _problem(settings: SparseSettings, denoisers: dict[str, Any]) -> DenoisingProblem:
    found = next(iter(denoisers.values()), None)
    n = settings.n or (found.n if found else PUBLISHED_N)
    k = settings.k or (found.model.n_nonzero if found else DEFAULT_K)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    horizon = settings.horizon or 4.0 * n
    if settings.step > horizon:
        raise ValueError(f"step {settings.step:g} exceeds the horizon {horizon:g}")
    return DenoisingProblem(
        n=n,
        k=k,
        times=settings.times or tuple(t * n / PUBLISHED_N for t in PUBLISHED_TIMES),
        n_samples=settings.n_samples or DEFAULT_SAMPLES[settings.mode],
        horizon=horizon,
    )


def _train(
    run: Any,
    settings: SparseSettings,
    curriculum: CurriculumSettings,
    problem: DenoisingProblem,
    key: Any,
    seconds: dict[str, float],
) -> Any:
    """The best network of the last stage, saved in the run's folder with its losses."""
    from checkpoints.message_passing import Denoiser, load_denoiser, save_denoiser
    from diffusions.files import write_text
    from experiments.run.training import train_in_chunks
    from experiments.sparse_localization.training import Curriculum

    path = run.path / DENOISER
    if not path.exists():
        training = Curriculum(problem.n, problem.k, settings.zero_probability, curriculum, key)
        state: Any = train_in_chunks(
            run,
            training.initial(),
            training.train,  # type: ignore[arg-type]  # of a state that holds more
            epochs=sum(curriculum.epochs),
            every=curriculum.checkpoint_every,
            seconds=seconds,
        )
        save_denoiser(path, Denoiser(training.model, state.best, problem.n))
    rows = run.rows("loss", "noise_free", "best_loss")
    write_text(run.path / "losses.txt", "".join(f"{row['loss']!r}\n" for row in rows))
    if settings.plots:
        from experiments.sparse_localization.figures import plot_training

        plot_training(run.plots / "training.png", rows)
    return load_denoiser(path)


def _evaluate(
    path: Path,
    settings: SparseSettings,
    problem: DenoisingProblem,
    denoisers: dict[str, Any],
    reference: dict[float, float],
    key: Any,
) -> dict[str, Any]:
    """Mean squared errors, as a table, files, figures and for the summary."""
    import jax
    import numpy as np

    from diffusions.files import write_text
    from experiments.sparse_localization.measurement import (
        baseline_estimators,
        compare,
        squared_errors,
    )

    networks = _estimators(denoisers, problem.k)
    estimators = networks | (baseline_estimators(problem.k) if settings.baselines else {})
    found = squared_errors(
        jax.random.fold_in(key, 3),
        estimators,
        problem.times,
        n=problem.n,
        k=problem.k,
        zero_probability=settings.zero_probability,
        n_samples=problem.n_samples,
        batch_size=settings.batch_size,
    )
    names = [f"{t:g}" for t in problem.times]

    def by_time(values: Any) -> dict[str, float]:
        return dict(zip(names, np.asarray(values, float).tolist(), strict=True))

    result: dict[str, Any] = {
        "mse": {name: by_time(errors.mean) for name, errors in found.items()},
        "standard_error": {n: by_time(errors.standard_error) for n, errors in found.items()},
        "mse_of_zero": {n: by_time(errors.given(False)[0]) for n, errors in found.items()},
        "mse_of_nonzero": {n: by_time(errors.given(True)[0]) for n, errors in found.items()},
        "share_of_nonzero": by_time(next(iter(found.values())).nonzero.mean(axis=1)),
    }
    first = next(iter(networks))
    if reference:
        result |= compare(found[first], problem.times, reference, REFERENCE_SAMPLES)
    for name, errors in found.items():
        lines = "".join(f"{value!r}\n" for value in errors.mean.tolist())
        write_text(path / f"numbers_{name}.txt", lines)
    say("  mean squared error; in brackets relative to the share of non-zero matrices drawn")
    say("      t     t/n" + "".join(f"{name:>26}" for name in found))
    for i, t in enumerate(problem.times):
        cells = []
        for errors in found.values():
            share = errors.nonzero[i].mean()
            relative = errors.mean[i] / share if share else float("nan")
            cells.append(
                f"{errors.mean[i]:>10.5f} +-{errors.standard_error[i]:.5f} ({relative:.2f})"
            )
        score = f"   z {result['z'][names[i]]:+.2f}" if names[i] in result.get("z", {}) else ""
        say(f"  {t:>6.4g} {t / problem.n:>6.3f} " + " ".join(cells) + score)
    if settings.plots:
        from experiments.sparse_localization.figures import plot_errors, plot_seeds

        plots = path / "plots"
        plot_errors(plots / "errors.png", problem.times, problem.n, found, reference)
        if len(networks) > 1:
            chosen = {name: found[name] for name in networks}
            plot_seeds(plots / "seeds.png", problem.times, problem.n, chosen)
    return result


def _estimators(denoisers: dict[str, Any], k: int) -> dict[str, Any]:
    """Denoisers as functions; a single one is called `network`."""
    from experiments.sparse_localization.measurement import network_estimator

    return {
        name if len(denoisers) > 1 else "network": network_estimator(
            found.model.clone(n_nonzero=k), found.params
        )
        for name, found in denoisers.items()
    }


def _generate(
    path: Path,
    settings: SparseSettings,
    problem: DenoisingProblem,
    denoisers: dict[str, Any],
    key: Any,
) -> dict[str, Any]:
    """Samples of the first denoiser, their norms, and the distance to the true law."""
    import jax
    import numpy as np

    from data_generation.formats.array_files import write_npz
    from diffusions.stochastic_localization import uniform_times
    from experiments.sparse_localization.measurement import generate, norm_distance

    estimator = next(iter(_estimators(denoisers, problem.k).values()))
    times = uniform_times(settings.step, problem.horizon)
    u = generate(
        jax.random.fold_in(key, 4),
        estimator,
        times,
        n=problem.n,
        n_samples=problem.n_samples,
        batch_size=settings.batch_size,
    )
    norms = np.sum(u.astype(np.float64) ** 2, axis=1)  # |u u^T|_F = |u|^2
    write_npz(path / "samples.npz", {"u": u, "norms": norms})
    distance = norm_distance(norms, settings.zero_probability)
    quantiles = {
        f"{q:g}": float(np.quantile(norms, q)) for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    }
    say(f"  {problem.n_samples} samples in {len(times) - 1} steps up to t = {problem.horizon:g}")
    say("  norms: " + ", ".join(f"{float(q):.0%} {value:.4g}" for q, value in quantiles.items()))
    say(
        f"  share above 1/2: {np.mean(norms > 0.5):.3f} "
        f"(true law: {1 - settings.zero_probability:g}); W1 of the norms: {distance:.4f}"
    )
    if settings.plots:
        from experiments.sparse_localization.figures import plot_norms

        plot_norms(path / "plots" / "norms.png", norms, settings.zero_probability, distance)
    return {
        "norms": quantiles,
        "share_of_norms_above_half": float(np.mean(norms > 0.5)),
        "w1_norm": distance,
        "steps": len(times) - 1,
    }


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
