"""The picture of a dataset has room for what it says, however many snapshots there are."""

import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from data_generation.populations.pictures import draw_snapshots
from jkonet_star.snapshots import snapshots_from_arrays


def picture(tmp_path, n_snapshots, *, dimension=2, title="a"):
    points = np.random.default_rng(0).normal(size=(n_snapshots, 12, dimension))
    file = tmp_path / "snapshots.png"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*constrained_layout")
        draw_snapshots(snapshots_from_arrays(list(points), None, dt=0.1), file, title=title)
    return imread(file)[..., :3]


def colours_by_column(image):
    return [len(np.unique(image[:, column], axis=0)) for column in range(image.shape[1])]


def edges(image, depth=3):
    sides = (image[:depth], image[-depth:], image[:, :depth], image[:, -depth:])
    return np.concatenate([side.reshape(-1, 3) for side in sides])


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize(("n_snapshots", "bar"), [(2, False), (10, False), (11, True), (60, True)])
def test_many_snapshots_have_a_bar_of_colours_instead_of_a_legend(
    n_snapshots, bar, dimension, tmp_path
):
    image = picture(tmp_path, n_snapshots, dimension=dimension)
    assert (max(colours_by_column(image)) > 200) == bar
    assert (edges(image) == 1).all()


@pytest.mark.parametrize(
    "title", ["potential_styblinski_tang_" * 7, "many words " * 18, "a-b$" * 40]
)
def test_a_long_title_is_wrapped(title, tmp_path):
    assert (edges(picture(tmp_path, 3, title=title)) == 1).all()
