"""The solvable linear denoiser: what it generates from n training points, against the truth.

For each n: distances of the generated law to the truth (squared Hellinger, KL), to the training points
and to an original set of fresh points (smoothed L2), and how often the original set is the nearer one.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from experiments.linear_denoiser.settings import LinearDenoiserSettings
from experiments.run.replaced import keeps_replaced

STATISTICS = (
    "kl",
    "log_affinity",
    "mean_variance",
    "train_log_pairs",
    "train_log_cross",
    "original_log_pairs",
    "original_log_cross",
    "delta_sign",
    "delta_log",
)
"""Of every repetition and size."""

FLAGS = define_flags(LinearDenoiserSettings)

EXAMPLE = """
python -m experiments.linear_denoiser --n-train=25,50,75,100 --n-simulations=300
python -m experiments.linear_denoiser --n-train=102,110,125,150,200,300,500,1000 --n-simulations=100
python -m experiments.linear_denoiser --noise-scale=0.01 --n-pixels=4 --n-train=8,16,32,64,128
"""


@keeps_replaced
def main() -> None:
    """Runs the experiment of the flags."""
    begin = time.perf_counter()
    settings = settings_from_flags(LinearDenoiserSettings, FLAGS)
    # Only now: `--help` and a mistyped flag need none of it.
    import scipy.linalg.cython_lapack  # noqa: F401  JAX's linear algebra: a limit needs it loaded
    from threadpoolctl import threadpool_limits

    from diffusions.precision import double_precision

    # On small matrices BLAS threads wait for each other, longer than one alone takes.
    with (
        threadpool_limits(1, user_api="blas"),
        double_precision(settings.precision == "float64"),
    ):
        _run(settings, begin)


def _run(settings: LinearDenoiserSettings, begin: float) -> None:
    import jax

    from data_generation.scripts.device import device_name, precision
    from diffusions.linear_denoiser.model import OneStepModel
    from experiments.linear_denoiser.figures import plot_linear
    from experiments.run.folder import start_run
    from experiments.run.repetitions import run_chunks
    from experiments.run.session import check_settings, conclude
    from experiments.run.tables import write_table

    check_settings(settings)
    model = OneStepModel(
        dimension=settings.n_pixels**2,
        mean=settings.mean,
        std=settings.std,
        time=settings.time,
        noise_scale=settings.noise_scale,
    )
    run = start_run(settings, "experiments.linear_denoiser", f"linear_denoiser__d{model.dimension}")
    if run.finished:
        say(f"{run.path} is already finished")
        return
    say(
        f"linear denoiser in dimension {model.dimension}, time {model.time:g}, lambda "
        f"{model.noise_scale:g}: {settings.n_simulations} repetitions of "
        f"n = {','.join(map(str, settings.n_train))}, {settings.n_original} original points"
    )
    numbers = precision(settings.precision)
    say(f"  {device_name()}, {numbers}, seed {settings.seed}; results in {run.path}")
    seconds = {"compile": 0.0, "simulate": 0.0}
    size = min(settings.chunk_size, settings.n_simulations)
    key = jax.random.key(settings.seed)
    start = time.perf_counter()
    program = _program(model, settings, size).lower(key, 0).compile()
    seconds["compile"] = time.perf_counter() - start

    def compute(chunk: dict[str, Any]) -> dict[str, Any]:
        values = jax.device_get(program(key, chunk["first"]))
        return {name: value[: chunk["count"]].tolist() for name, value in values.items()}

    chunks = [
        {"first": first, "count": min(size, settings.n_simulations - first)}
        for first in range(0, settings.n_simulations, size)
    ]
    start = time.perf_counter()
    rows = run_chunks(run, chunks, compute, columns=STATISTICS, n_each=len(settings.n_train))
    seconds["simulate"] = time.perf_counter() - start
    table = summarise(rows, model, settings.n_train)
    _print_table(table, model)
    write_table(run.path / "table.csv", table)
    if settings.plots:
        plot_linear(run.plots / "curves.png", table, model)
    seconds["total"] = time.perf_counter() - begin
    limit = {
        "kl": model.limiting_kl,
        "hellinger_squared": model.limiting_hellinger_squared,
        "mean_variance": model.limiting_ratio * model.std**2,
    }
    results = {"table": table, "large_n_limit": limit, "n_simulations": settings.n_simulations}
    conclude(run, settings, results, seconds)


def _program(model: Any, settings: LinearDenoiserSettings, size: int) -> Any:
    """(key, first repetition) -> statistics (repetitions, sizes) of a chunk, as one jitted program."""
    import jax
    import jax.numpy as jnp

    from data_generation.gaussians import IsotropicMixture
    from diffusions.linear_denoiser.distance import difference, log_cross, log_pairs
    from diffusions.linear_denoiser.model import generated_law, kl_divergence, log_affinity
    from diffusions.networks.linear import least_squares

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

    vmapped = settings.vmapped or (1 if jax.default_backend() == "cpu" else size)

    def chunk(key: Any, first: Any) -> dict[str, Any]:
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(first + jnp.arange(size))
        return jax.lax.map(repetition, keys, batch_size=vmapped if vmapped > 1 else None)

    return jax.jit(chunk)


def summarise(rows: list[dict[str, Any]], model: Any, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Means, standard errors, intervals, and the leading order of the theory; one row per size.

    Args:
        rows: of the metrics: lists (repetitions, sizes).
        model: for the theory.
        sizes: numbers of training points.
    """
    import numpy as np

    from diffusions.linear_denoiser.theory import leading_order
    from experiments.run.tables import mean_and_error, positive_share

    def joined(name: str) -> Any:
        # An infinite number is text in the metrics.
        return np.concatenate([np.asarray(row[name], np.float64) for row in rows])

    signs = joined("delta_sign")
    distances = {
        name: np.exp(joined(f"{name}_log_pairs")) - 2.0 * np.exp(joined(f"{name}_log_cross"))
        for name in ("train", "original")
    }
    quantities = {
        "kl": joined("kl"),
        "hellinger_squared": -np.expm1(joined("log_affinity")),
        "log_affinity": joined("log_affinity"),
        "mean_variance": joined("mean_variance"),
        "distance_train": distances["train"],
        "distance_original": distances["original"],
        "delta": signs * np.exp(joined("delta_log")),
    }
    theory = leading_order(model, np.asarray(sizes))
    table = []
    for k, n in enumerate(sizes):
        row: dict[str, Any] = {"n": n}
        for name, values in quantities.items():
            row[name], row[f"{name}_standard_error"] = mean_and_error(values[:, k])
        row |= positive_share(signs[:, k])
        for name, values in theory._asdict().items():
            row[f"{name}_leading_order"] = float(values[k])
        table.append(row)
    return table


def _print_table(table: list[dict[str, Any]], model: Any) -> None:
    say("  distances are up to a constant common to both sets, in units of (4 pi std^2)^(-d/2)")
    say(
        "       n  original-generated  train-generated      H^2           KL   variance"
        "   P(Delta > 0) [95 %]"
    )
    for row in table:
        say(
            f"  {row['n']:>6} {row['distance_original']:>19.4e} {row['distance_train']:>16.4e} "
            f"{row['hellinger_squared']:>8.5f} {row['kl']:>12.5g} {row['mean_variance']:>10.4g}   "
            f"{row['p_delta_positive']:.3f} [{row['p_delta_positive_low']:.3f}, "
            f"{row['p_delta_positive_high']:.3f}]"
        )
    say(
        f"  n -> oo: H^2 {model.limiting_hellinger_squared:.5f}, KL {model.limiting_kl:.5g}, "
        f"variance {model.limiting_ratio * model.std**2:.4g}"
    )


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
