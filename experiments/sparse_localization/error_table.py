"""Squared errors of denoisers against time, in lines that a terminal shows."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from diffusions.typing import HostArray
from experiments.sparse_localization.measurement import SquaredErrors

COLUMN = 12
"""Characters of a denoiser's column."""
FINEST = 5
"""Decimals, at most."""


def value_and_error(value: float, error: float) -> str:
    """Both as one number: 0.460(25) is 0.460 +- 0.025, the error with two digits."""
    if not error > 0.0:
        return f"{value:.{FINEST}f}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), FINEST)
    return f"{value:.{decimals}f}({round(error * 10**decimals)})"


def error_lines(
    times: Sequence[float],
    n: int,
    found: Mapping[str, SquaredErrors],
    predicted: HostArray,
    z: Mapping[float, float],
    *,
    width: int = 100,
) -> list[str]:
    """A line for every time, below a heading; too many denoisers for a line have further tables.

    Args:
        times: of the errors.
        n: dimension.
        found: errors by denoiser.
        predicted: by state evolution, at every time.
        z: deviations of the first denoiser from a reference, at times that it has.
        width: of the lines.
    """
    share = next(iter(found.values())).nonzero.mean(axis=1)
    columns: dict[str, list[str]] = {
        "t": [f"{t:.4g}" for t in times],
        "t / n": [f"{t / n:.3f}" for t in times],
        "zero": [f"{value:.3f}" for value in share],
        "state evolution": [f"{value:.5f}" for value in predicted],
    }
    if z:
        columns["z"] = [f"{z[t]:+.2f}" if t in z else "" for t in times]
    widths = {"t": 8, "t / n": 7, "zero": 7, "state evolution": 11, "z": 8}
    for name, errors in found.items():
        pairs = zip(errors.mean, errors.standard_error, strict=True)
        columns[name] = [value_and_error(*pair) for pair in pairs]
    shared = [name for name in columns if name not in found]
    room = max(1, (width - sum(widths[name] for name in shared)) // COLUMN)
    names = list(found)
    lines: list[str] = []
    for start in range(0, len(names), room):
        chosen = [*shared[:3], *names[start : start + room], *shared[3:]]
        sizes = [widths.get(name, COLUMN) for name in chosen]
        heads = [
            textwrap.wrap(name.replace("_", " "), size - 1)
            for name, size in zip(chosen, sizes, strict=True)
        ]
        depth = max(map(len, heads))
        rows = [[""] * (depth - len(head)) + head for head in heads]
        for cells in (*zip(*rows, strict=True), *zip(*map(columns.get, chosen), strict=True)):
            lines.append("".join(f"{c:>{size}}" for c, size in zip(cells, sizes, strict=True)))
    return lines
