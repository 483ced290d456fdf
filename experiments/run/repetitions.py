"""Many independent repetitions in a run folder: chunks, each a row of the metrics.

A chunk's results depend on its keys alone. A resumed run takes the rows that are there as they are and
computes the others in the same chunks, so that it ends with the same bits.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from data_generation.scripts.progress import progress_bar
from experiments.run.folder import RunFolder


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
    with progress_bar(total=len(chunks), initial=done, unit=unit) as progress:
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
