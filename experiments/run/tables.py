"""Tables of results: means with errors, shares with intervals, CSV and Markdown."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from diffusions.files import write_text

Row = dict[str, Any]


def mean_and_error(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and standard error; no error for one value or where the mean is infinite."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    return mean, float(np.std(values, ddof=1) / math.sqrt(len(values)))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a probability (Wilson, 1927), of positive width and in [0, 1].

    Args:
        successes: out of `trials`.
        trials: at least 1.
    """
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def positive_share(deltas: np.ndarray) -> dict[str, float]:
    """P(Delta > 0) with its standard error and interval, as columns of a table."""
    positive, trials = int(np.sum(deltas > 0)), len(deltas)
    p = positive / trials
    low, high = wilson_interval(positive, trials)
    return {
        "p_delta_positive": p,
        "p_delta_positive_standard_error": float(np.sqrt(p * (1 - p) / trials)),
        "p_delta_positive_low": low,
        "p_delta_positive_high": high,
    }


def write_table(
    file: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None
) -> None:
    """Writes rows with the same keys as CSV; the columns are those of the first row, if not given."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(columns or rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, stream.getvalue())


def markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A table of some columns."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [_shown(row, c) for c in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.4g}"
        spread = row.get("emd_std") if column == "emd" and row.get("seeds", 1) > 1 else None
        return text if spread is None else f"{text} +- {spread:.2g}"
    return str(value).replace("|", "/")
