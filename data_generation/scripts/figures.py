"""Figures of one style, as a picture and, on request, as vectors, without global state.

Matplotlib's pyplot keeps every figure that it ever made, and its settings are everybody's: the style is
given to each figure's own axes.
"""

import functools
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import imsave
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator
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
_LETTERS = "₀₁₂₃₄₅₆₇₈₉⁻⁰¹²³⁴⁵⁶⁷⁸⁹×"
_CLOSE = 1e-5
"""To a whole number, for a label to have it."""
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 9, 8, 7


def new_figure(columns: int, rows: int = 1, *, size: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes (rows, columns), each of `size` inches."""
    figure = empty_figure(size * columns, size * rows + TITLE)
    grid = figure.subplots(rows, columns, squeeze=False)
    in_style(grid.ravel())
    return figure, grid


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many inches, without axes, that needs no screen."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def in_style(every: Iterable[Axes]) -> None:
    """Small letters (titles are given `TITLE_SIZE` where they are set), no frame but the two axes."""
    for axes in every:
        axes.tick_params(which="both", labelsize=TICK_SIZE)
        for side in (axes.xaxis, axes.yaxis):
            side.label.set_fontsize(LABEL_SIZE)
            side.get_offset_text().set_fontsize(TICK_SIZE)
        axes.spines[["top", "right"]].set_visible(False)
        # The labels of an axis lie outside of its line: measuring this, too, costs a fifth of a layout.
        axes.spines[:].set_in_layout(False)


def coordinate(j: int, letter: str = "x") -> str:
    """The name of a coordinate, counted from zero, such as x₁."""
    number = str(j + 1)
    return letter + number.translate(_LOWERED) if _plain() else f"${letter}_{{{number}}}$"


def _plain() -> bool:
    """Whether the user's font has the letters that spare a label its typesetting."""
    return not matplotlib.rcParams["text.usetex"] and _has_letters(findfont(FontProperties()))


@functools.cache
def _has_letters(font: str) -> bool:
    letters = get_font(font).get_charmap()
    return all(ord(x) in letters for x in _LETTERS)


class _Powers(LogFormatter):
    """Labels of a logarithmic axis as plain letters: 10⁻³, between powers 2×10⁻³."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        label = super().__call__(x, pos)
        if not label or x <= 0:
            return label
        power = np.log10(x)
        whole = round(power)
        if abs(power - whole) < _CLOSE:
            return "10" + str(whole).translate(_RAISED)
        below = int(np.floor(power))
        digits = 10.0 ** (power - below)
        if abs(digits - round(digits)) < _CLOSE:
            digits = round(digits)
        return f"{digits:g}×10{str(below).translate(_RAISED)}"


def log_scale(axis: Axis) -> None:
    """Makes an axis logarithmic, with labels as Matplotlib's but without its typesetting."""
    axes = axis.axes
    (axes.set_xscale if isinstance(axis, XAxis) else axes.set_yscale)("log")
    if _plain():
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
    figure.set_layout_engine("none")  # as it is laid out
    pixels = np.asarray(canvas.buffer_rgba())
    drawn = (pixels != np.round(255 * np.array(to_rgba(figure.get_facecolor())))).any(axis=2)
    on_the_edge = drawn[[0, -1]].any() or drawn[:, [0, -1]].any()
    about: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": _COMPRESSION}
    stream = io.BytesIO()
    words = [word.get_window_extent(canvas.get_renderer()) for word in _words(figure)]
    if on_the_edge or any(_goes_beyond(figure, extent) for extent in words):
        # Measured, and drawn again in a figure that is larger.
        words = [Bbox(extent.get_points() / figure.dpi) for extent in words]
        box = Bbox.union([figure.get_tightbbox(), *words]).padded(_EDGE)
        _save(figure, stream, "png", box, **about)
    else:
        # White pictures are more than the paper.
        for axes in (axes for axes in figure.axes if axes.images and axes.get_visible()):
            inside = axes.get_window_extent().get_points().round().astype(int)
            (left, bottom), (right, top) = inside.clip(0, None)
            drawn[max(0, len(drawn) - top) : len(drawn) - bottom, left:right] = True
        rows, columns = (_extent(drawn.any(axis=axis)) for axis in (1, 0))
        bottom, top = len(pixels) - rows.stop, len(pixels) - rows.start
        box = Bbox(np.array([[columns.start, bottom], [columns.stop, top]]) / figure.dpi)
        imsave(stream, pixels[rows, columns], format="png", dpi=figure.dpi, origin="upper", **about)
    write_bytes(file, stream.getvalue())
    if not vectors_wanted():
        return
    stream = io.BytesIO()
    # Letters as TrueType: publishers refuse Matplotlib's default, Type 3.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        _save(figure, stream, "pdf", box, metadata={"CreationDate": None})
    write_bytes(file.with_suffix(VECTORS), stream.getvalue())


def _save(figure: Figure, stream: io.BytesIO, kind: str, box: Bbox, **about: Any) -> None:
    """By Matplotlib, whatever a user's settings say of the files that they save."""
    figure.savefig(
        stream, format=kind, bbox_inches=box, dpi=figure.dpi, facecolor=figure.get_facecolor(),
        transparent=False, **about,
    )  # fmt: skip


def _words(artist: Artist) -> Iterator[Text | Legend]:
    """All that may be too long for its place: titles, labels of axes, legends and notes."""
    for child in artist.get_children():
        if not child.get_visible():
            continue
        if isinstance(child, Axes | SubFigure):
            yield from _words(child)
            continue
        word: Artist | None = child
        if isinstance(child, Axis):
            word = child.label if child.axes.axison else None
        if isinstance(word, Legend) or (isinstance(word, Text) and word.get_text()):
            bounds = (word.get_clip_box(), word.get_clip_path())
            clipped = word.get_clip_on() and any(bound is not None for bound in bounds)
            yield from [] if clipped else [word]


def _goes_beyond(figure: Figure, extent: Bbox) -> bool:
    """Whether something is not all in the figure, by more than half a pixel."""
    inside, room = figure.bbox, 0.5
    return (
        extent.x0 < inside.x0 - room
        or extent.y0 < inside.y0 - room
        or extent.x1 > inside.x1 + room
        or extent.y1 > inside.y1 + room
    )


def _extent(drawn: np.ndarray) -> slice:
    """From the first to the last true entry, and `_EDGE` around; all where none is true."""
    where, edge = np.flatnonzero(drawn), round(_EDGE * DPI)
    if not len(where):
        return slice(0, len(drawn))
    return slice(max(0, int(where[0]) - edge), min(len(drawn), int(where[-1]) + edge + 1))
