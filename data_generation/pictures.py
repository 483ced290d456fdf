"""The picture of a dataset."""

import io
from pathlib import Path

import numpy as np

from diffusions.files import write_bytes
from jkonet_star.snapshots import Snapshots

_MAX_POINTS = 2000  # per snapshot: more only hide one another


def draw_snapshots(snapshots: Snapshots, file: Path, *, title: str = "") -> None:
    """Scatters every snapshot, coloured by time: the first two coordinates, or time against one.

    Args:
        snapshots: what to draw.
        file: a .png.
        title: above the axes.
    """
    # Matplotlib takes a second to load, and only a new dataset needs it. The canvas is chosen here,
    # so that no display and no global state is touched.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = snapshots.time_values()
    shades = colormaps["viridis"](np.linspace(0, 0.95, len(times)))
    generator = np.random.default_rng(0)
    flat = snapshots.dimension == 1
    for points, time, shade in zip(snapshots.arrays(), times, shades, strict=True):
        if len(points) > _MAX_POINTS:
            points = points[generator.choice(len(points), _MAX_POINTS, replace=False)]
        x, y = (np.full(len(points), time), points[:, 0]) if flat else points[:, :2].T
        axes.scatter(x, y, s=5, color=shade, linewidths=0, alpha=0.7, label=f"t = {time:.3g}")
    axes.set_xlabel("t" if flat else "$x_1$")
    axes.set_ylabel("$x_1$" if flat else "$x_2$")
    axes.set_title(title, fontsize=8, wrap=True)
    axes.legend(fontsize=7, markerscale=2, loc="upper right", framealpha=0.8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_bytes(file, stream.getvalue())
