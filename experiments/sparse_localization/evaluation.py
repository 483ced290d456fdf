"""What a run tells of its denoisers: squared errors against time, and norms of samples."""

from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.message_passing import Denoiser
from data_generation.formats.array_files import write_npz
from data_generation.scripts.command_line import say
from diffusions.approximate_message_passing import state_evolution
from diffusions.files import write_text
from diffusions.keys import named_key
from diffusions.stochastic_localization import uniform_times
from diffusions.typing import HostArray, Key
from experiments.run.folder import RunFolder
from experiments.run.verdicts import Verdict
from experiments.sparse_localization.error_table import error_lines
from experiments.sparse_localization.figures import plot_errors, plot_norms, plot_seeds
from experiments.sparse_localization.measurement import (
    baseline_estimators,
    compare,
    half_way,
    network_estimator,
    norm_distance,
    squared_errors,
)
from experiments.sparse_localization.sampling import generate
from experiments.sparse_localization.settings import REFERENCE_SAMPLES, SparseSettings
from experiments.sparse_localization.task import DenoisingProblem
from experiments.sparse_localization.verdict import errors_verdict, samples_verdict

CURVE_POINTS = 200


def evaluate(
    path: Path,
    settings: SparseSettings,
    problem: DenoisingProblem,
    denoisers: dict[str, Denoiser],
    reference: dict[float, float],
    key: Key,
) -> tuple[dict[str, Any], Verdict]:
    """Mean squared errors, as a table, files, figures and for the summary, and in words."""
    networks = _estimators(denoisers, problem.k)
    baselines = baseline_estimators(problem.k, settings.zero_probability)
    estimators = networks | (baselines if settings.baselines else {})
    found = squared_errors(
        named_key(key, "evaluation"),
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

    def predict(times: HostArray) -> HostArray:
        """For AMP, by state evolution; the estimate zero errs where the matrix is not."""
        errors = state_evolution(times, problem.n, problem.k)
        return (1.0 - settings.zero_probability) * errors

    predicted = predict(np.asarray(problem.times))
    crossings = {
        name: half_way(errors, problem.times, problem.n, settings.zero_probability)
        for name, errors in found.items()
    }
    result |= {"state_evolution": by_time(predicted), "half_way": crossings}
    first = next(iter(networks))
    if reference:
        result |= compare(found[first], problem.times, reference, REFERENCE_SAMPLES)
    for name, errors in found.items():
        lines = "".join(f"{value!r}\n" for value in errors.mean.tolist())
        write_text(path / f"numbers_{name}.txt", lines)
    say("  mean squared error, with its standard error in the last digits in brackets")
    say("  zero: of the estimate zero, the share of the matrices that are not; state evolution: of")
    say("  AMP, for n without end, if zero matrices are told from others")
    z = {t: result["z"][f"{t:g}"] for t in problem.times if f"{t:g}" in result.get("z", {})}
    for line in error_lines(problem.times, problem.n, found, predicted, z):
        say(line)
    said = [
        f"{name} {'-' if ratio is None else f'{ratio:.3f}'}" for name, ratio in crossings.items()
    ]
    say("  t/n where half of the zero estimate's error is left: " + ", ".join(said))
    if settings.plots:
        plots = path / "plots"
        fine = np.linspace(min(problem.times), max(problem.times), CURVE_POINTS)
        curve = dict(zip(fine.tolist(), predict(fine).tolist(), strict=True))
        plot_errors(plots / "errors.png", problem.times, problem.n, found, reference, curve)
        if len(networks) > 1:
            chosen = {name: found[name] for name in networks}
            plot_seeds(plots / "seeds.png", problem.times, problem.n, chosen)
    return result, errors_verdict(found, tuple(networks), crossings)


def _estimators(denoisers: dict[str, Denoiser], k: int) -> dict[str, Any]:
    """Denoisers as functions; a single one is called `network`."""
    return {
        name if len(denoisers) > 1 else "network": network_estimator(
            found.model.clone(n_nonzero=k), found.params
        )
        for name, found in denoisers.items()
    }


def sample(
    run: RunFolder,
    settings: SparseSettings,
    problem: DenoisingProblem,
    denoisers: dict[str, Denoiser],
    key: Key,
) -> tuple[dict[str, Any], Verdict]:
    """Samples of the first denoiser, their norms, and the distance to the true law, in words, too.

    With `--mode=generate` the run keeps its state within the sampling.
    """
    path = run.path
    estimator = next(iter(_estimators(denoisers, problem.k).values()))
    times = uniform_times(settings.step, problem.horizon)
    u = generate(
        named_key(key, "samples"),
        estimator,
        times,
        n=problem.n,
        n_samples=problem.n_samples,
        batch_size=settings.batch_size,
        run=run if settings.mode == "generate" else None,
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
        plot_norms(path / "plots" / "norms.png", norms, settings.zero_probability, distance)
    result = {
        "norms": quantiles,
        "share_of_norms_above_half": float(np.mean(norms > 0.5)),
        "w1_norm": distance,
        "steps": len(times) - 1,
    }
    return result, samples_verdict(norms, settings.zero_probability)
