"""What repetitions of the linear denoiser say: means, intervals, and the theory beside them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_generation.scripts.command_line import say
from diffusions.linear_denoiser.expectation import exact_expectation
from diffusions.linear_denoiser.model import OneStepModel
from diffusions.linear_denoiser.theory import leading_order
from experiments.run.tables import mean_and_error, positive_share

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


def summarise(
    rows: list[dict[str, Any]], model: OneStepModel, sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Means, standard errors, intervals, and the theory; one row per size.

    Args:
        rows: of the metrics: lists (repetitions, sizes).
        model: for the theory.
        sizes: numbers of training points.

    Returns:
        Columns named as the statistic are measured; `_expected` is exact at finite n, None where that
        is not known; `_leading_order` is the limit of n and d that grow together.
    """

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
    theory = {
        "expected": exact_expectation(model, np.asarray(sizes))._asdict(),
        "leading_order": leading_order(model, np.asarray(sizes))._asdict(),
    }
    table = []
    for k, n in enumerate(sizes):
        row: dict[str, Any] = {"n": n}
        for name, values in quantities.items():
            row[name], row[f"{name}_standard_error"] = mean_and_error(values[:, k])
        row |= positive_share(signs[:, k])
        for kind, predictions in theory.items():
            for name, values in predictions.items():
                value = float(values[k])
                row[f"{name}_{kind}"] = None if math.isnan(value) else value
        table.append(row)
    return table


def say_table(table: list[dict[str, Any]], model: OneStepModel) -> None:
    """Prints the rows of `summarise`, and their limit."""
    say("  distances of what is generated to the truth, and its variance per coordinate")
    say("  exact: the expectation at this n; leading: of leading order as n and d grow together")
    say(
        f"  {'':>6} {'KL':^35} {'H^2':^17} {'variance':^19}\n"
        f"       n {'measured':>11} {'exact':>11} {'leading':>11} {'measured':>9} {'leading':>7} "
        f"{'measured':>9} {'exact':>9}"
    )
    for row in table:
        say(
            f"  {row['n']:>6} {row['kl']:>11.5g} {_shown(row['kl_expected']):>11} "
            f"{row['kl_leading_order']:>11.5g} {row['hellinger_squared']:>9.5f} "
            f"{row['hellinger_squared_leading_order']:>7.5f} {row['mean_variance']:>9.4g} "
            f"{_shown(row['mean_variance_expected'], 4):>9}"
        )
    say(
        f"  n -> oo: H^2 {model.limiting_hellinger_squared:.5f}, KL {model.limiting_kl:.5g}, "
        f"variance {model.limiting_ratio * model.std**2:.4g}"
    )
    d = model.dimension
    if min(row["n"] for row in table) <= d + 2:
        noisy = f"; at n = {d + 1} and {d + 2} KL is finite, its mean is not"
        say(
            f"  up to n = d = {d} the covariance is singular: KL is infinite and H^2 is 1, exactly"
            + (noisy if model.noise_variance else "")
        )
    say(
        "  memory: smoothed L2 distances of what is generated, up to a constant common to both sets,"
    )
    say("  in units of (4 pi std^2)^(-d/2); Delta = train - original")
    say(f"       n {'to train':>12} {'to original':>12}   P(Delta > 0) [95 %]")
    for row in table:
        say(
            f"  {row['n']:>6} {row['distance_train']:>12.4e} {row['distance_original']:>12.4e}   "
            f"{row['p_delta_positive']:.3f} [{row['p_delta_positive_low']:.3f}, "
            f"{row['p_delta_positive_high']:.3f}]"
        )


def _shown(value: float | None, digits: int = 5) -> str:
    return "" if value is None else f"{value:.{digits}g}"
