"""Figures of one style, as a picture and, on request, as vectors, without global state.

Matplotlib's pyplot keeps every figure that it ever made, and its settings are everybody's: the style is
given to each figure's own axes.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import AutoLocator, LogFormatter, MaxNLocator
from matplotlib.transforms import Bbox

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
_COMPRESSION = {"compress_level": 4}
"""Of a PNG: two thirds of zlib's usual time, for 2 % more bytes."""
_LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 9, 8, 7
_TICKS = 6
"""Most intervals of an axis: panels are small, and every tick is measured and drawn."""


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
    """Small letters (titles are given `TITLE_SIZE` where set), few ticks, no frame but the two axes."""
    for axes in every:
        axes.tick_params(which="both", labelsize=TICK_SIZE)
        for side in (axes.xaxis, axes.yaxis):
            side.label.set_fontsize(LABEL_SIZE)
            side.get_offset_text().set_fontsize(TICK_SIZE)
            locator = side.get_major_locator()
            if isinstance(locator, AutoLocator):
                locator.set_params(nbins=_TICKS)
        axes.spines[["top", "right"]].set_visible(False)
        # The labels of an axis lie outside of its line: measuring this, too, costs a fifth of a layout.
        axes.spines[:].set_in_layout(False)


def coordinate(j: int, letter: str = "x") -> str:
    """The name of a coordinate, counted from zero: x₁. Plain letters need no typesetting."""
    return letter + str(j + 1).translate(_LOWERED)


class _Powers(LogFormatter):
    """Labels of a logarithmic axis as plain letters: 10⁻³, between powers 2×10⁻³."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        label = super().__call__(x, pos)
        if not label:
            return label
        exponent = int(np.floor(np.log10(x) + 1e-9))
        power = "10" + str(exponent).translate(_RAISED)
        digit = f"{x / 10.0**exponent:.0f}"
        return power if digit == "1" else f"{digit}×{power}"


def log_scale(axis: Axis) -> None:
    """Makes an axis logarithmic, with labels as Matplotlib's but without its typesetting."""
    axes = axis.axes
    (axes.set_xscale if isinstance(axis, XAxis) else axes.set_yscale)("log")
    axis.set_major_formatter(_Powers())
    axis.set_minor_formatter(_Powers(labelOnlyBase=False))


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
    _forget_page(file)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    dark = (pixels != 255).any(axis=2)
    rows, columns = (_extent(dark.any(axis=axis)) for axis in (1, 0))
    figure.set_layout_engine("none")  # as it is laid out
    about: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": _COMPRESSION}
    stream = io.BytesIO()
    if dark[[0, -1]].any() or dark[:, [0, -1]].any():
        # Something goes beyond the figure, which is measured and drawn again.
        box = figure.get_tightbbox().padded(_EDGE)
        figure.savefig(stream, format="png", bbox_inches=box, **about)
    else:
        bottom, top = len(pixels) - rows.stop, len(pixels) - rows.start
        box = Bbox(np.array([[columns.start, bottom], [columns.stop, top]]) / figure.dpi)
        imsave(stream, pixels[rows, columns], format="png", dpi=figure.dpi, **about)
    write_bytes(file, stream.getvalue())
    if not vectors_wanted():
        return
    stream = io.BytesIO()
    # Letters as TrueType: publishers refuse Matplotlib's default, Type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(stream, format="pdf", metadata={"CreationDate": None}, bbox_inches=box)
    write_bytes(file.with_suffix(VECTORS), stream.getvalue())


def _extent(drawn: np.ndarray) -> slice:
    """From the first to the last true entry, and `_EDGE` around; all where none is true."""
    where, edge = np.flatnonzero(drawn), round(_EDGE * DPI)
    if not len(where):
        return slice(0, len(drawn))
    return slice(max(0, int(where[0]) - edge), min(len(drawn), int(where[-1]) + edge + 1))
