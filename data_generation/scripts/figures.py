"""Figures of one style, as a picture and, on request, as vectors, without global state.

Matplotlib's pyplot keeps every figure that it ever made, and its settings are everybody's: the style is
given to each figure's own axes.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_generation.scripts.vectors import vectors_wanted
from diffusions.files import add_files, write_bytes

TITLE = 0.3
"""Inches that equal axes leave no room for by themselves."""
DPI = 150
VECTORS = ".pdf"
"""Beside a PNG, for print."""

OBSERVED = "#1f6f9f"
PREDICTED = "#d9541e"
TRUTH = "#222222"
FAINT = "#6b7280"
"""Thresholds, limits, and what stands in the background."""
ENERGIES = "viridis"
DIFFERENCES = "RdBu_r"
_EDGE = 0.05
"""Inches around what is drawn: equal axes leave more white there than anybody wants."""
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 9, 8, 7


def new_figure(columns: int, rows: int = 1, *, size: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes (rows, columns), each of `size` inches."""
    figure = empty_figure(size * columns, size * rows + TITLE)
    grid = figure.subplots(rows, columns, squeeze=False)
    in_style(grid.ravel())
    return figure, grid


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, without axes, that needs no screen."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def in_style(every: Iterable[Axes]) -> None:
    """Small letters (titles are given `TITLE_SIZE` where they are set), no frame but the two axes."""
    for axes in every:
        axes.tick_params(which="both", labelsize=TICK_SIZE)
        for side in (axes.xaxis, axes.yaxis):
            side.label.set_fontsize(LABEL_SIZE)
            side.get_offset_text().set_fontsize(TICK_SIZE)
        axes.spines[["top", "right"]].set_visible(False)


def colour_bar(
    mappable: ScalarMappable, axes: Axes, label: str, *, extend: str = "neither"
) -> None:
    """What the colours mean, beside axes and as high as these.

    Args:
        mappable: what has the colours.
        axes: to whose right there is room.
        label: the quantity with its unit.
        extend: which ends stand for everything beyond: neither, min, max, both.
    """
    place = axes.inset_axes((1.04, 0.0, 0.05, 1.0))
    bar = axes.figure.colorbar(mappable, cax=place, extend=extend, ticks=MaxNLocator(5))
    bar.set_label(label, fontsize=LABEL_SIZE)
    place.tick_params(labelsize=TICK_SIZE)
    bar.outline.set_linewidth(0.5)


def _forget_page(picture: Path) -> None:
    """Removes the PDF of a picture that is about to be replaced; one without a picture is not ours."""
    if picture.exists():
        picture.with_suffix(VECTORS).unlink(missing_ok=True)


def add_pictures(folder: Path, new: Path) -> None:
    """`add_files` of pictures; the PDFs of those that they replace go."""
    for picture in new.glob("*.png"):
        _forget_page(folder / picture.name)
    add_files(folder, new)


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a PNG, and, where `vectors` asks for it, a PDF of the same name beside it.

    The same content gives the same bytes. A PDF of an older picture of that name goes.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Laid out and measured once, for both.
    layout = figure.get_layout_engine()
    if layout is None:
        figure.draw_without_rendering()
    else:
        layout.execute(figure)
        figure.set_layout_engine("none")
    drawn = figure.get_tightbbox().padded(_EDGE)
    _forget_page(file)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None}, bbox_inches=drawn)
    write_bytes(file, stream.getvalue())
    if not vectors_wanted():
        return
    stream = io.BytesIO()
    # Letters as TrueType: publishers refuse Matplotlib's default, Type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(stream, format="pdf", metadata={"CreationDate": None}, bbox_inches=drawn)
    write_bytes(file.with_suffix(VECTORS), stream.getvalue())
