"""Memorising against generalising over n and diffusion time: repetitions, and what they say."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_generation.gaussians import IsotropicMixture
from data_generation.scripts.command_line import say
from diffusions.linear_denoiser.expectation import exact_expectation
from diffusions.linear_denoiser.generalisation import (
    expected_losses,
    ornstein_uhlenbeck,
    prediction_loss,
)
from diffusions.linear_denoiser.model import OneStepModel, generated_law, kl_divergence
from diffusions.networks.linear import least_squares
from experiments.linear_denoiser.settings import LinearDenoiserSettings
from experiments.run.tables import mean_and_error

STATISTICS = ("train_loss", "test_loss", "kl")
"""Of every repetition, one number per time and size, in this order."""


def steps(settings: LinearDenoiserSettings) -> list[OneStepModel]:
    """One step of an Ornstein-Uhlenbeck process per time."""
    return [
        ornstein_uhlenbeck(settings.n_pixels**2, time, settings.mean, settings.std)
        for time in sorted(settings.times)
    ]


def losses(models: Sequence[OneStepModel], settings: LinearDenoiserSettings) -> Any:
    """Key -> statistics (times and sizes) of one repetition.

    Args:
        models: one per time.
        settings: sizes, and the data.
    """
    data = IsotropicMixture((settings.mean,), (settings.std,))
    d = settings.n_pixels**2

    def repetition(key: Any) -> dict[str, Any]:
        fresh_key, train_key = jax.random.split(key)

        def pairs(key: Any, n: int) -> list[tuple[Any, Any]]:
            """One set of points and of noises for all times; drawn in float32 in either precision."""
            data_key, noise_key = jax.random.split(key)
            x = data.draw(data_key, n, d)
            return [
                (
                    model.corrupt(noise_key, x).astype(settings.precision),
                    x.astype(settings.precision),
                )
                for model in models
            ]

        fresh = pairs(fresh_key, settings.n_original)
        # The draw of a size does not depend on which others there are.
        train = [pairs(jax.random.fold_in(train_key, n), n) for n in settings.n_train]
        values: dict[str, list[Any]] = {name: [] for name in STATISTICS}
        for i, model in enumerate(models):
            for own in train:
                params = least_squares(*own[i])
                law = generated_law(model, params, own[i][1])
                values["train_loss"].append(prediction_loss(model, params, *own[i]))
                values["test_loss"].append(prediction_loss(model, params, *fresh[i]))
                values["kl"].append(kl_divergence(model, law))
        return {name: jnp.stack(own) for name, own in values.items()}

    return repetition


def summarise(
    rows: list[dict[str, Any]], models: Sequence[OneStepModel], sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Means, standard errors, exact expectations and z-scores; one row per time and size.

    Args:
        rows: of the metrics: lists (repetitions, times and sizes).
        models: one per time.
        sizes: numbers of training points.

    Returns:
        Columns of `train_loss`, `test_loss`, their difference `gap`, and `kl_per_dimension`: measured,
        `_standard_error`, `_expected` and `_z`. None where there is no such number.
    """
    columns = {
        name: np.concatenate([np.asarray(row[name], np.float64) for row in rows])
        for name in STATISTICS
    }
    table = []
    for i, model in enumerate(models):
        theory = expected_values(model, sizes)
        for j, n in enumerate(sizes):
            train, test, kl = (columns[name][:, i * len(sizes) + j] for name in STATISTICS)
            row: dict[str, Any] = {"time": model.time, "n": n, "n_over_d": n / model.dimension}
            for name, values in (
                ("train_loss", train),
                ("test_loss", test),
                ("gap", test - train),
                ("kl_per_dimension", kl / model.dimension),
            ):
                mean, error = mean_and_error(values)
                expected = float(theory[name][j])
                # Rounding is all that is left of the loss of pairs that are reproduced.
                scored = expected != 0.0 and np.isfinite(expected)
                row |= {
                    name: mean,
                    f"{name}_standard_error": error,
                    f"{name}_expected": None if np.isnan(expected) else expected,
                    f"{name}_z": (mean - expected) / error if error and scored else None,
                }
            table.append(row)
    return table


def expected_values(
    model: OneStepModel, sizes: Sequence[int] | np.ndarray
) -> dict[str, np.ndarray]:
    """The exact expectation of every column of `summarise`, (sizes,) each."""
    train, test = expected_losses(model, np.asarray(sizes))
    kl = exact_expectation(model, np.asarray(sizes)).kl
    return {
        "train_loss": train,
        "test_loss": test,
        "gap": test - train,
        "kl_per_dimension": kl / model.dimension,
    }


def say_table(table: list[dict[str, Any]]) -> None:
    """Prints the gap over n / d and time, and how far theory and measurement are apart."""
    ratios = sorted({row["n_over_d"] for row in table})
    say("  gap, fresh minus training loss of predicting the noise, per coordinate: measured")
    say("    time   n/d = " + " ".join(f"{ratio:>8.4g}" for ratio in ratios))
    for time in sorted({row["time"] for row in table}):
        own = {row["n_over_d"]: row["gap"] for row in table if row["time"] == time}
        say(f"  {time:>6.4g}         " + " ".join(f"{own[ratio]:>8.4g}" for ratio in ratios))
    for name in ("train_loss", "test_loss", "kl_per_dimension"):
        scores = [abs(row[f"{name}_z"]) for row in table if row[f"{name}_z"] is not None]
        if scores:
            say(
                f"  {name}: |measured - exact| up to {max(scores):.1f} standard errors in "
                f"{len(scores)} cells"
            )
