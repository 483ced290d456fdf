r"""Errors of finished evaluations of sparse rank-one denoisers in one figure, a panel for each size.

    python -m experiments.sparse_localization --mode=evaluate              # each
    python benchmarks/sparse_errors.py --runs=runs/A,runs/B --picture=FILE.png

The error is that of the estimate over the error of saying zero, as in `summary.json`'s `mse` and
`share_of_nonzero`, with two standard errors of the network's. A disc is where half of it is left
(`half_way` there); the legend has its t/n. State evolution is AMP for n without end.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from measurement import words

from data_generation.scripts.figures import FAINT, TITLE_SIZE, new_figure, save_figure
from diffusions.approximate_message_passing import state_evolution
from experiments.sparse_localization.figures import NETWORK, STYLES, THRESHOLD

CURVE_POINTS = 200


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=words, required=True, help="folders of evaluations")
    parser.add_argument("--picture", type=Path, required=True, help="file to write")
    given = parser.parse_args()
    figure, grid = new_figure(len(given.runs), size=4.2)
    for axes, run in zip(grid[0], given.runs, strict=True):
        summary = json.loads((Path(run) / "summary.json").read_text())
        n, k = summary["n"], summary["k"]
        times = np.asarray(summary["times"])
        share = np.asarray(list(summary["share_of_nonzero"].values()))
        for name, errors in summary["mse"].items():
            label, color, line = STYLES.get(name, (name, NETWORK, "-"))
            mean = np.asarray(list(errors.values())) / share
            crossing = summary["half_way"][name]
            if crossing is not None:
                label = f"{label}, {crossing:.2f}"
                axes.plot(crossing, 0.5, "o", color=color, markersize=4)
            axes.plot(times / n, mean, line, color=color, linewidth=1.3, label=label)
            if name not in STYLES:
                margin = 2 * np.asarray(list(summary["standard_error"][name].values())) / share
                axes.fill_between(
                    times / n, mean - margin, mean + margin, color=color, alpha=0.2, linewidth=0
                )
        fine = np.linspace(times[0], times[-1], CURVE_POINTS)
        limit = state_evolution(fine, n, k)
        label = "state evolution"
        if (limit < 0.5).any():
            label += f", {fine[np.argmax(limit < 0.5)] / n:.2f}"
        axes.plot(fine / n, limit, "--", color="black", linewidth=0.9, label=label)
        axes.axvline(THRESHOLD, color=FAINT, linewidth=0.8, linestyle=":")
        axes.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set_ylim(-0.02, 1.6)
        axes.set_xlabel("$t/n$")
        axes.set_title(f"$n = {n}$, $k = {k}$", fontsize=TITLE_SIZE)
        axes.legend(fontsize=8, frameon=False, title="half is left at $t/n$", title_fontsize=8)
    grid[0, 0].set_ylabel("squared error over that of saying zero")
    save_figure(figure, given.picture)


if __name__ == "__main__":
    main()
