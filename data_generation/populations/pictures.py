"""The picture of a dataset."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from data_generation.scripts.figures import (
    LABEL_SIZE,
    TITLE_SIZE,
    colour_bar,
    coordinate,
    empty_figure,
    in_style,
    save_figure,
)
from jkonet_star.snapshots import Snapshots

_MAX_POINTS = 2000  # per snapshot: more only hide one another
_MOST_LABELS = 10  # in a legend; more leave no room for the points
_TITLE_WIDTH = 72  # letters; names of datasets break after an underscore
_LIGHTEST = 0.95  # of the colours: yellow on white is hard to see


def draw_snapshots(snapshots: Snapshots, file: Path, *, title: str = "") -> None:
    """Scatters every snapshot, coloured by time: the first two coordinates, or time against one.

    A few snapshots are named in a legend; of many, a bar tells the times of the colours.

    Args:
        snapshots: what to draw.
        file: a .png.
        title: above the axes.
    """
    figure = empty_figure(6.0, 5.0)
    axes = figure.add_subplot()
    in_style([axes])
    times = snapshots.time_values()
    many = len(times) > _MOST_LABELS
    spread = (times - times[0]) / (times[-1] - times[0]) if many else np.linspace(0, 1, len(times))
    shades = colormaps["viridis"](_LIGHTEST * spread)
    generator = np.random.default_rng(0)
    flat = snapshots.dimension == 1
    for points, time, shade in zip(snapshots.arrays(), times, shades, strict=True):
        if len(points) > _MAX_POINTS:
            points = points[generator.choice(len(points), _MAX_POINTS, replace=False)]
        x, y = (np.full(len(points), time), points[:, 0]) if flat else points[:, :2].T
        axes.scatter(
            x,
            y,
            s=5,
            color=shade,
            linewidths=0,
            alpha=0.7,
            rasterized=True,
            label=f"t = {time:.3g}",
        )
    axes.set_xlabel("t" if flat else coordinate(0))
    axes.set_ylabel(coordinate(0) if flat else coordinate(1))
    lines = textwrap.fill(title.replace("_", "_ "), _TITLE_WIDTH, break_on_hyphens=False)
    lines = lines.replace("_ ", "_")
    axes.set_title(lines, fontsize=TITLE_SIZE, parse_math=False)
    if many:
        colours = ListedColormap(colormaps["viridis"](np.linspace(0, _LIGHTEST, 256)))
        scale = Normalize(times[0], times[-1])
        colour_bar(ScalarMappable(scale, colours), axes, "t")
    else:
        figure.legend(
            loc="outside right upper", fontsize=LABEL_SIZE, markerscale=2.5, frameon=False
        )
    save_figure(figure, file)
