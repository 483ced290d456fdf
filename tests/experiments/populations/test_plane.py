"""Colours of fields tell what they shall."""

import numpy as np
import pytest

from data_generation.scripts.figures import new_figure
from experiments.populations.plane import GRID, Plane
from jkonet_star.snapshots import snapshots_from_arrays


@pytest.fixture(scope="module")
def plane():
    points = np.random.default_rng(0).normal(size=(2, 400, 3))
    return Plane(snapshots_from_arrays(list(points), None, dt=0.1))


def image(axes):
    (found,) = axes.get_images()
    return found


def bars(figure):
    return [axes.get_ylabel() for axes in figure.findobj(lambda a: hasattr(a, "_colorbar"))]


def test_energies_have_common_colours_from_their_own_minima(plane):
    figure, grid = new_figure(2)
    energy = (plane.points[:, :2] ** 2).sum(axis=1)
    plane.draw_energies(list(grid[0]), [energy + 5.0, 2.0 * energy], "V", reference=2.0 * energy)
    first, second = (image(axes) for axes in grid[0])
    np.testing.assert_allclose(2.0 * first.get_array(), second.get_array(), rtol=1e-4, atol=1e-5)
    assert first.get_array().min() == 0.0
    assert first.norm.vmax == second.norm.vmax
    assert [axes.get_aspect() for axes in grid[0]] == [1.0, 1.0]
    above = 2.0 * (energy - energy.min())
    assert first.norm.vmax == pytest.approx(np.quantile(above, 0.97))
    assert first.norm(0.25 * first.norm.vmax) == pytest.approx(0.5), (
        "twice as far, twice the colour"
    )
    assert bars(figure) == ["V"]


def test_level_curves_around_a_quadratic_minimum_are_equally_far_from_each_other(plane):
    _, grid = new_figure(1)
    plane.draw_lines(grid[0, 0], (plane.points[:, :2] ** 2).sum(axis=1))
    levels = grid[0, 0].collections[0].levels
    np.testing.assert_allclose(np.diff(np.sqrt(levels)), np.sqrt(levels[0]), rtol=1e-6)


def test_a_difference_is_free_of_constants_and_coloured_by_where_there_is_something(plane):
    figure, grid = new_figure(1)
    x = plane.points[:, 0]
    where = plane.particles[:, :2]
    plane.draw_difference(grid[0, 0], 1.5 * x + 7.0, x, where, "error")
    drawn = image(grid[0, 0])
    inside = np.abs(where[:, 0] - where[:, 0].mean())
    step = (plane.high - plane.low)[0] / (GRID - 1)
    expected = 0.5 * (x.reshape(GRID, GRID) - where[:, 0].mean())
    np.testing.assert_allclose(drawn.get_array(), expected, atol=0.5 * step)
    assert drawn.norm.vmax == -drawn.norm.vmin
    assert grid[0, 0].get_aspect() == 1.0, "a length is as long in both directions"
    assert drawn.norm.vmax == pytest.approx(0.5 * np.quantile(inside, 0.98), abs=0.5 * step)
    assert bars(figure) == ["error"]


@pytest.mark.parametrize(("value", "word"), [(3.0, "constant"), (np.nan, "not finite")])
def test_what_cannot_be_drawn_is_said(value, word, plane):
    _, grid = new_figure(2)
    flat = np.full(len(plane.points), value)
    plane.draw_energies([grid[0, 0]], [flat], "V")
    assert [text.get_text() for text in grid[0, 0].texts] == [word]
    plane.draw_difference(grid[0, 1], flat, 0.0 * flat, plane.particles[:, :2], "error")
    assert [text.get_text() for text in grid[0, 1].texts] == (
        ["not finite"] if value != 3.0 else []
    )


def test_lengths_are_equal_in_both_directions_unless_units_differ():
    for stretch, aspect in ((1.0, 1.0), (50.0, "auto")):
        points = np.random.default_rng(0).normal(size=(2, 200, 2)) * [1.0, stretch]
        _, grid = new_figure(1)
        Plane(snapshots_from_arrays(list(points), None, dt=0.1)).frame(grid[0, 0])
        assert grid[0, 0].get_aspect() == aspect
