"""What repetitions of the linear denoiser say: means, intervals, and the theory beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_generation.scripts.command_line import say
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
    """Means, standard errors, intervals, and the leading order of the theory; one row per size.

    Args:
        rows: of the metrics: lists (repetitions, sizes).
        model: for the theory.
        sizes: numbers of training points.
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


def say_table(table: list[dict[str, Any]], model: OneStepModel) -> None:
    """Prints the rows of `summarise`, and their limit."""
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
