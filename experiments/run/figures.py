"""Figures without global state: Matplotlib's pyplot keeps every figure it ever made."""

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffusions.files import write_bytes

TITLE = 0.3
"""Inches that equal axes leave no room for by themselves."""


def new_figure(columns: int, rows: int = 1, *, size: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes (rows, columns), each of `size` inches."""
    figure = Figure(figsize=(size * columns, size * rows + TITLE), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a PNG that is the same for the same content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    write_bytes(file, stream.getvalue())
