"""What repetitions of the learned denoiser say: means, intervals and running averages."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_generation.scripts.command_line import say
from experiments.run.tables import mean_and_error, positive_share

AVERAGED = (
    "delta",
    "distance_train",
    "distance_original",
    "loss",
    "validation_loss",
    "generated_mean",
    "generated_std",
)


def _values(rows: list[dict[str, Any]], n: int, name: str) -> Any:
    """One number per repetition, in order."""
    parts = [np.asarray(row[name], np.float64) for row in rows if row["n"] == n and name in row]
    return np.concatenate(parts) if parts else np.zeros(0)


def summarise(rows: list[dict[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Means with standard errors and P(Delta > 0) with its interval; one row per size.

    Args:
        rows: of the metrics.
        sizes: numbers of training images.
    """
    table = []
    for n in sizes:
        row: dict[str, Any] = {"n": n}
        for name in AVERAGED:
            values = _values(rows, n, name)
            row[name], row[f"{name}_standard_error"] = (
                mean_and_error(values) if len(values) else (None, None)
            )
        row |= positive_share(_values(rows, n, "delta"))
        table.append(row)
    return table


def running_averages(rows: list[dict[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Averages over the first repetitions, for every number of them and every size.

    Args:
        rows: of the metrics.
        sizes: numbers of training images.
    """
    averages = []
    for n in sizes:
        deltas = _values(rows, n, "delta")
        count = np.arange(1, len(deltas) + 1)
        columns = {
            name: np.cumsum(values) / count
            for name, values in (
                ("delta", deltas),
                ("p_delta_positive", deltas > 0),
                ("distance_train", _values(rows, n, "distance_train")),
                ("distance_original", _values(rows, n, "distance_original")),
            )
        }
        averages += [
            {"n": n, "repetitions": int(c), **{k: float(v[c - 1]) for k, v in columns.items()}}
            for c in count
        ]
    return averages


def say_table(table: list[dict[str, Any]]) -> None:
    """Prints the rows of `summarise`."""
    say(
        "       n  original-generated  train-generated              Delta"
        "   P(Delta > 0) [95 %]      loss"
    )
    for row in table:
        error = row["delta_standard_error"]
        delta = f"{row['delta']:.4g}" + ("" if error is None else f" +- {error:.2g}")
        say(
            f"  {row['n']:>6} {row['distance_original']:>19.5g} {row['distance_train']:>16.5g} "
            f"{delta:>20}   {row['p_delta_positive']:.3f} "
            f"[{row['p_delta_positive_low']:.3f}, {row['p_delta_positive_high']:.3f}] "
            f"{row['loss']:>9.4f}"
        )
