"""Repetitions of the linear denoiser, as one program per chunk, in a run folder."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import scipy.linalg.cython_lapack  # noqa: F401  JAX's linear algebra: a limit needs it loaded
from threadpoolctl import threadpool_limits

from data_generation.gaussians import IsotropicMixture
from data_generation.scripts.device import division
from diffusions.devices import Members
from diffusions.linear_denoiser.distance import difference, log_cross, log_pairs
from diffusions.linear_denoiser.model import (
    OneStepModel,
    generated_law,
    kl_divergence,
    log_affinity,
)
from diffusions.networks.linear import least_squares
from diffusions.precision import double_precision
from experiments.linear_denoiser import memorisation
from experiments.linear_denoiser.evaluation import STATISTICS, say_table, summarise
from experiments.linear_denoiser.figures import plot_linear, plot_memorisation
from experiments.linear_denoiser.settings import LinearDenoiserSettings
from experiments.linear_denoiser.verdict import curves_verdict, map_verdict
from experiments.run.repetitions import run_chunks
from experiments.run.session import Session, session
from experiments.run.tables import write_table


def simulate(settings: LinearDenoiserSettings, begin: float) -> None:
    """Runs what the settings ask for.

    Args:
        settings: of the flags.
        begin: when the script did, by `time.perf_counter`.
    """
    # On small matrices BLAS threads wait for each other, longer than one alone takes.
    with (
        threadpool_limits(1, user_api="blas"),
        double_precision(settings.precision == "float64"),
    ):
        _run(settings, begin)


def _run(settings: LinearDenoiserSettings, begin: float) -> None:
    with session(
        settings, "experiments.linear_denoiser", begin, activities=("compile", "simulate")
    ) as run:
        model = OneStepModel(
            dimension=settings.n_pixels**2,
            mean=settings.mean,
            std=settings.std,
            time=settings.time,
            noise_scale=settings.noise_scale,
        )
        mapped = settings.mode == "memorisation"
        step = (
            f"{len(settings.times)} times of an Ornstein-Uhlenbeck process"
            if mapped
            else f"time {model.time:g}, lambda {model.noise_scale:g}"
        )
        size = chunk_size(settings)
        started = run.start(
            f"linear_denoiser__{'memorisation__' if mapped else ''}d{model.dimension}",
            f"linear denoiser in dimension {model.dimension}, {step}: {settings.n_simulations} "
            f"repetitions of n = {','.join(map(str, settings.n_train))}, {settings.n_original} "
            f"{'fresh pairs' if mapped else 'original points'}",
            numbers=settings.precision,
            divided=division(f"chunks of {size} repetitions", Members.of(size)),
        )
        if started:
            results = _map(run, settings) if mapped else _curves(run, model, settings)
            run.conclude(results | {"n_simulations": settings.n_simulations})


def _curves(run: Session, model: OneStepModel, settings: LinearDenoiserSettings) -> dict[str, Any]:
    """Distances over n: table, figure and the results for the summary."""
    sizes = settings.n_train
    rows = _rows(run, settings, _distances(model, settings), STATISTICS, len(sizes))
    table = summarise(rows, model, sizes)
    say_table(table, model)
    write_table(run.folder.path / "table.csv", table)
    if settings.plots:
        plot_linear(run.folder.plots / "curves.png", table, model)
    limit = {
        "kl": model.limiting_kl,
        "hellinger_squared": model.limiting_hellinger_squared,
        "mean_variance": model.limiting_ratio * model.std**2,
    }
    said = curves_verdict(table, model, settings.n_simulations).said()
    return {**said, "table": table, "large_n_limit": limit}


def _map(run: Session, settings: LinearDenoiserSettings) -> dict[str, Any]:
    """Losses and KL over n and diffusion time: the same."""
    models = memorisation.steps(settings)
    cells = len(models) * len(settings.n_train)
    losses = memorisation.losses(models, settings)
    rows = _rows(run, settings, losses, memorisation.STATISTICS, cells)
    table = memorisation.summarise(rows, models, settings.n_train)
    memorisation.say_table(table)
    write_table(run.folder.path / "table.csv", table)
    if settings.plots:
        plot_memorisation(run.folder.plots / "memorisation.png", table, models)
    return {**map_verdict(table, settings.n_simulations).said(), "table": table}


def _rows(
    run: Session,
    settings: LinearDenoiserSettings,
    repetition: Callable[[Any], dict[str, Any]],
    columns: Sequence[str],
    n_each: int,
) -> list[dict[str, Any]]:
    """All repetitions, in chunks of one compiled program: rows of the metrics.

    Args:
        run: to log to.
        settings: how many.
        repetition: from a key to the columns.
        columns: their names.
        n_each: numbers in each.
    """
    size = chunk_size(settings)
    vmapped = settings.vmapped or (1 if jax.default_backend() == "cpu" else size)
    key = jax.random.key(settings.seed)
    members = Members.of(size)

    def chunk(key: Any, first: Any) -> dict[str, Any]:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first + jnp.arange(size))
        return members.divided(repetitions, (0,))(members.filled(keys))

    def repetitions(keys: Any) -> dict[str, Any]:
        return jax.lax.map(repetition, keys, batch_size=vmapped if vmapped > 1 else None)

    with run.timed("compile"):
        program = jax.jit(chunk).lower(*members.shared((key, jnp.asarray(0)))).compile()

    def compute(chunk: dict[str, Any]) -> dict[str, Any]:
        values = program(*members.shared((key, jnp.asarray(chunk["first"]))))
        values = jax.device_get(members.own(values))
        return {name: value[: chunk["count"]].tolist() for name, value in values.items()}

    chunks = [
        {"first": first, "count": min(size, settings.n_simulations - first)}
        for first in range(0, settings.n_simulations, size)
    ]
    with run.timed("simulate"):
        return run_chunks(run.folder, chunks, compute, columns=columns, n_each=n_each)


def chunk_size(settings: LinearDenoiserSettings) -> int:
    """Repetitions of a chunk."""
    return min(settings.chunk_size, settings.n_simulations)


def _distances(model: OneStepModel, settings: LinearDenoiserSettings) -> Any:
    """Key -> statistics (sizes) of one repetition."""
    data = IsotropicMixture((settings.mean,), (settings.std,))
    scale = settings.bandwidth_scale

    def draw(key: Any, n: int) -> Any:
        return data.draw(key, n, model.dimension).astype(settings.precision)

    pairs = functools.partial(log_pairs, model, scale=scale, block_size=settings.block_size)
    cross = functools.partial(log_cross, model, scale=scale)

    def repetition(key: Any) -> dict[str, Any]:
        original_key, train_key = jax.random.split(key)
        original = draw(original_key, settings.n_original)
        original_pairs = pairs(original)
        rows = []
        for n in settings.n_train:
            # The draw of a size does not depend on which others there are.
            data_key, noise_key = jax.random.split(jax.random.fold_in(train_key, n))
            drawn = data.draw(data_key, n, model.dimension)
            # Noise in float32 in either precision, so that the data are the same.
            z = model.corrupt(noise_key, drawn).astype(settings.precision)
            x = drawn.astype(settings.precision)
            law = generated_law(model, least_squares(z, x), x)
            near, far = (pairs(x), cross(law, x)), (original_pairs, cross(law, original))
            delta = difference(near, far)
            rows.append(
                {
                    "kl": kl_divergence(model, law),
                    "log_affinity": log_affinity(model, law),
                    "mean_variance": law.variance,
                    "train_log_pairs": near[0],
                    "train_log_cross": near[1],
                    "original_log_pairs": far[0],
                    "original_log_cross": far[1],
                    "delta_sign": delta.sign,
                    "delta_log": delta.log,
                }
            )
        return jax.tree.map(lambda *values: jnp.stack(values), *rows)

    return repetition
