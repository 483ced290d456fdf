"""Many independent repetitions in a run folder: chunks, each a row of the metrics; tables of averages.

A chunk's results depend on its keys alone. A resumed run takes the rows that are there as they are and
computes the others in the same chunks, so that it ends with the same bits.
"""

import csv
import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffusions.files import write_text
from experiments.run_folder import RunFolder

Z95 = 1.959963984540054  # of a two-sided 95 % interval


def run_chunks(
    run: RunFolder,
    chunks: Sequence[dict[str, Any]],
    compute: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    columns: Sequence[str],
    n_each: int | None = None,
    unit: str = "chunk",
) -> list[dict[str, Any]]:
    """Computes what is missing, and logs each chunk as soon as it is done.

    Args:
        run: the folder.
        chunks: what each chunk consists of; it becomes part of its row.
        compute: from that to the rest of the row.
        columns: what every row has from `compute`, a list with an entry per repetition.
        n_each: numbers in such an entry, where it is a list.
        unit: what a chunk is, for the progress bar.

    Returns:
        One row per chunk.

    Raises:
        ValueError: the rows that are there are not those of these chunks.
    """
    rows = run.rows(*columns)
    done = len(rows)
    for number, (row, chunk) in enumerate(itertools.zip_longest(rows, chunks[:done]), start=1):
        if chunk is None or {k: row.get(k) for k in ("epoch", *chunk)} != {
            "epoch": number,
            **chunk,
        }:
            raise ValueError(f"row {number} of the run's metrics.jsonl is not of its repetitions")
        for name in columns:
            if not _is_of(row[name], chunk["count"], n_each):
                raise ValueError(f"row {number} of the run's metrics.jsonl has other {name}")
    # A row that was cut off is dropped before the next one is written after it.
    run.keep_rows(done)
    with tqdm(total=len(chunks), initial=done, unit=unit, leave=False) as progress:
        for number, chunk in enumerate(chunks[done:], start=done + 1):
            row = {"epoch": number, **chunk, **compute(chunk)}
            run.log([row])
            rows.append(row)
            progress.update()
    return rows


def _is_of(value: Any, count: int, n_each: int | None) -> bool:
    """Whether a value is a list with an entry per repetition."""
    if not isinstance(value, list) or len(value) != count:
        return False
    if n_each is None:
        return not any(isinstance(entry, list) for entry in value)
    return all(isinstance(entry, list) and len(entry) == n_each for entry in value)


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
    p = successes / trials
    scale = 1.0 + Z95**2 / trials
    middle = p + Z95**2 / (2 * trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + Z95**2 / (4 * trials**2))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


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
