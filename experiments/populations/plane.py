"""Fields over the first two coordinates of a population, and their colours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, PowerNorm

from data_generation.scripts.figures import DIFFERENCES, ENERGIES, FAINT, colour_bar, coordinate
from diffusions.typing import HostArray
from jkonet_star.snapshots import Snapshots

GRID = 120
LINES = 14
BELOW = 0.97
"""Share of the grid whose values the colours tell apart: an energy may grow like a power outside."""
LEAST = 1e-6
"""Above its minimum, below which an energy counts as constant."""
MOST_STRETCHED = 3.0
"""Ratio of two ranges up to which a length is as long in both directions."""


class Plane:
    """A grid in the first two coordinates, the others at the population's mean.

    Args:
        snapshots: the population.
        letter: what the coordinates are called.
    """

    def __init__(self, snapshots: Snapshots, letter: str = "x"):
        self.letter = letter
        self.particles = np.concatenate(snapshots.arrays())
        low, high = np.quantile(self.particles, (0.002, 0.998), axis=0)
        margin = 0.05 * (high - low)
        self.low, self.high = (low - margin)[:2], (high + margin)[:2]
        self.axes = [np.linspace(a, b, GRID) for a, b in zip(self.low, self.high, strict=True)]
        mesh = np.meshgrid(*self.axes, indexing="xy")
        points = np.tile(self.particles.mean(axis=0), (GRID * GRID, 1))
        points[:, :2] = np.stack([m.ravel() for m in mesh], axis=-1)
        self.points = points  # in double precision, for populations far from zero

    def draw_energies(
        self,
        every: Sequence[Axes],
        energies: Sequence[Any],
        label: str,
        *,
        reference: Any = None,
    ) -> None:
        """Energies at `points` above their minima, in common colours, and level curves.

        The colours grow like the root of the energy: so does the distance from a minimum.

        Args:
            every: axes.
            energies: one for each of the axes.
            label: of the colours.
            reference: sets the colours; the first energy that is not constant where absent or
                constant itself.
        """
        tables = [_above_minimum(energy) for energy in energies]
        tops = [_top(table) for table in [reference, *tables] if table is not None]
        top = next((top for top in tops if top is not None), None)
        drawn = None
        for axes, table in zip(every, tables, strict=True):
            if _top(table) is None or top is None:
                _say(axes, "constant" if np.isfinite(table).all() else "not finite")
            else:
                drawn = self._image(axes, table, PowerNorm(0.5, 0.0, top), ENERGIES)
                self.draw_lines(axes, table, top, color="white")
            self.frame(axes)
        if drawn is not None:
            colour_bar(drawn, every[-1], label, extend="max")

    def draw_lines(
        self, axes: Axes, energy: Any, top: float | None = None, *, color: str = FAINT
    ) -> None:
        """Level curves, equally far from each other around a quadratic minimum."""
        table = _above_minimum(energy)
        top = _top(table) if top is None else top
        if top is not None:
            levels = top * (np.arange(1, LINES + 1) / LINES) ** 2
            axes.contour(*self.axes, table, levels=levels, colors=color, linewidths=0.5, alpha=0.6)

    def draw_difference(
        self, axes: Axes, first: Any, second: Any, where: HostArray, label: str
    ) -> None:
        """The first field less the second, up to a constant: their mean difference at points.

        Args:
            axes: where to.
            first: at `points`.
            second: at `points`.
            where: (n, 2) points that also set the colours: elsewhere nothing was to be learned.
            label: of the colours.
        """
        table = np.reshape(np.float64(first) - np.float64(second), (GRID, GRID))
        if not np.isfinite(table).all():
            _say(axes, "not finite")
            self.frame(axes)
            return
        step = (self.high - self.low) / (GRID - 1)
        column, row = np.clip(np.rint((where - self.low) / step), 0, GRID - 1).astype(int).T
        table = table - table[row, column].mean()
        reach = float(np.quantile(np.abs(table[row, column]), 0.98))
        drawn = self._image(axes, table, CenteredNorm(0.0, max(reach, LEAST)), DIFFERENCES)
        self.frame(axes)  # the image's own aspect would win otherwise
        colour_bar(drawn, axes, label, extend="both")

    def _image(self, axes: Axes, table: HostArray, norm: Any, colours: str) -> ScalarMappable:
        (left, right), (bottom, top) = zip(self.low, self.high, strict=True)
        return axes.imshow(
            table,
            origin="lower",
            extent=(left, right, bottom, top),
            norm=norm,
            cmap=colours,
            interpolation="bilinear",
            aspect="auto",
        )

    def frame(self, axes: Axes) -> None:
        """Limits and labels of the plane."""
        axes.set_xlim(self.low[0], self.high[0])
        axes.set_ylim(self.low[1], self.high[1])
        axes.set_xlabel(coordinate(0, self.letter))
        axes.set_ylabel(coordinate(1, self.letter))
        sides = self.high - self.low
        if sides.max() <= MOST_STRETCHED * sides.min():
            axes.set_aspect("equal")


def _above_minimum(values: Any) -> HostArray:
    table = np.asarray(values, np.float64).reshape(GRID, GRID)
    return table - table.min()


def _top(values: Any) -> float | None:
    """Where the colours end; None where there is nothing to see."""
    table = np.asarray(values, np.float64)
    if not np.isfinite(table).all():
        return None
    top = float(np.quantile(table - table.min(), BELOW))
    return None if top < LEAST else top


def _say(axes: Axes, word: str) -> None:
    axes.text(0.5, 0.5, word, transform=axes.transAxes, ha="center", va="center")
