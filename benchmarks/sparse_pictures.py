r"""Samples of several finished runs of sparse pixels beside each other, of the same held-out images.

    python -m experiments.sparse_pixels --mode=sample --run=runs/A         # of each run
    python benchmarks/sparse_pictures.py --runs=runs/A,runs/B --picture=FILE.png

A row per image: what is told, one sample of each run and the mean of its samples, the truth.
"""

import argparse
from pathlib import Path

import numpy as np
from measurement import words

from data_generation.scripts.figures import TITLE_SIZE, new_figure, save_figure

SIZE = 1.1
"""Inches of an image."""


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=words, required=True, help="folders, with `samples` in them")
    parser.add_argument("--picture", type=Path, required=True, help="file to write")
    parser.add_argument("--images", type=int, default=3)
    given = parser.parse_args()
    columns: dict[str, np.ndarray] = {}
    for run in map(Path, given.runs):
        with np.load(run / "samples" / "samples.npz") as found:
            samples, told, truth = found["samples"], found["told"], found["truth"]
        columns.setdefault("told", np.where(told, truth, 0))
        if not np.array_equal(columns["told"], np.where(told, truth, 0)):
            parser.error(f"{run} was told other pixels than {given.runs[0]}")
        columns[run.name] = samples[0]
        columns[f"{run.name}, mean"] = samples.mean(axis=0).round().astype(np.uint8)
    columns["truth"] = truth
    figure, grid = new_figure(len(columns), given.images, size=SIZE)
    for axes in grid.ravel():
        axes.set_axis_off()
    for j, (name, images) in enumerate(columns.items()):
        grid[0, j].set_title(name, fontsize=TITLE_SIZE)
        for axes, image in zip(grid[:, j], images, strict=False):
            axes.imshow(image, interpolation="nearest")
    save_figure(figure, given.picture)


if __name__ == "__main__":
    main()
