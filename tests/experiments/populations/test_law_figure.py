"""The figure of a law: its rows and columns, equal axes, and what it leaves out."""

import numpy as np
import pytest

from experiments.populations import law_figure
from experiments.populations.law_figure import plot_law
from jkonet_star.law import judge_law
from jkonet_star.snapshots import snapshots_from_arrays


def cells(dimension, n_steps=2, shift=0.0):
    """Snapshots of unequal size, so that there is padding."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(60 + 5 * k, dimension)) + k for k in range(n_steps + 1)]
    return snapshots_from_arrays([x + shift for x in arrays])


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, and gives back the figure."""
    kept = []

    def keep(figure, file):
        figure.savefig(file)
        kept.append(figure)

    monkeypatch.setattr(law_figure, "save_figure", keep)

    def draw(snapshots, predicted, law=None):
        plot_law(tmp_path / "law.png", snapshots, predicted, law)
        return kept[-1]

    return draw


@pytest.mark.parametrize(
    ("dimension", "n_steps", "columns", "rows"), [(1, 2, 1, 2), (2, 1, 3, 1), (5, 7, 4, 4)]
)
def test_a_row_per_step_and_a_column_per_view(dimension, n_steps, columns, rows, drawn):
    snapshots = cells(dimension, n_steps)
    figure = drawn(snapshots, np.asarray(snapshots.points[1:]))
    assert len(figure.subfigs) == rows
    titles = [row.get_suptitle() for row in figure.subfigs]
    assert titles[0].startswith("t = 0 to 1")
    assert titles[-1].startswith(f"t = {n_steps - 1} to {n_steps}")
    for row in figure.subfigs:
        assert len(row.axes) == columns
        if dimension > 1:
            box = row.axes[0].get_window_extent()
            wide, tall = row.axes[0].get_xlim(), row.axes[0].get_ylim()
            unit = np.ptp(wide) / box.width, np.ptp(tall) / box.height
            assert unit[0] == pytest.approx(unit[1])


def test_as_many_of_both_are_drawn_and_none_is_cut_off(drawn):
    snapshots = cells(2, 1, shift=1e6)
    figure = drawn(snapshots, np.asarray(snapshots.points[:-1]) + 1.0)
    axes = figure.subfigs[0].axes[0]
    (dots,) = axes.collections
    points = np.asarray(dots.get_offsets())
    assert len(points) == 2 * 60
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert ((points > [left, low]) & (points < [right, high])).all()
    assert abs(points.mean() - 1e6) < 5


def test_components_are_those_of_the_observed(drawn):
    rng = np.random.default_rng(1)
    line = rng.normal(size=(400, 1)) @ np.array([[3.0, 4.0, 0.0, 0.0]])
    arrays = [line + 0.01 * rng.normal(size=(400, 4)) for _ in range(2)]
    snapshots = snapshots_from_arrays(arrays)
    figure = drawn(snapshots, np.asarray(snapshots.points[1:]))
    axes = figure.subfigs[0].axes[0]
    assert axes.get_xlabel() == "component 1 (100 %)"
    points = np.asarray(axes.collections[0].get_offsets())
    assert points.std(axis=0) == pytest.approx([5 * line[:, 0].std() / 3, 0.01], rel=0.1)


def test_scores_are_in_the_titles_and_what_is_far_is_counted(drawn):
    snapshots = cells(2, 1)
    predicted = np.asarray(snapshots.points[1:]).copy()
    law = judge_law(predicted, snapshots).as_dict()
    title = drawn(snapshots, predicted, law).subfigs[0].get_suptitle()
    assert "C2ST 0.5" in title
    assert "variance ratio 0.9" in title or "variance ratio 1" in title
    assert "beyond" not in title
    predicted[0, :2], predicted[0, 2] = np.nan, 1e9
    law = judge_law(predicted, snapshots).as_dict()
    figure = drawn(snapshots, predicted, law)
    assert "energy distance inf" in figure.subfigs[0].get_suptitle()
    assert "3 predictions beyond the figure" in figure.subfigs[0].get_suptitle()
    assert np.ptp(figure.subfigs[0].axes[0].get_xlim()) < 20
    predicted[:] = np.nan
    assert "60 predictions beyond" in drawn(snapshots, predicted).subfigs[0].get_suptitle()
