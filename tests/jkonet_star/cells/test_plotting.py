"""Pictures show what was written, and say what is missing."""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest

from jkonet_star import cells
from jkonet_star.cells.model import kept


@pytest.fixture
def told(adata):
    cells.tl.potential(adata)
    cells.tl.velocity(adata, basis="umap")
    cells.tl.growth(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    yield adata
    plt.close("all")


def coloured(ax):
    return ax.collections[0].get_array(), ax.collections[0].get_offsets()


def test_colours_are_the_values_of_the_cells(told):
    ax = cells.pl.landscape(told)
    values, places = coloured(ax)
    order = np.argsort(told.obsm["X_umap"][:, 0])
    np.testing.assert_allclose(
        values[np.argsort(places[:, 0])], told.obs["jkonet_potential"].to_numpy()[order], rtol=1e-6
    )
    assert ax.get_xlabel() == "umap 1"
    growth = cells.pl.growth(told)
    low, high = growth.collections[0].norm.vmin, growth.collections[0].norm.vmax
    assert low == -high
    assert "1 / day" in growth.figure.axes[-1].get_ylabel()


def test_a_panel_for_each_fate(told):
    axes = cells.pl.fates(told)
    assert [ax.get_title() for ax in axes] == ["A", "B", "C"]
    shown = np.stack([np.sort(coloured(ax)[0]) for ax in axes], axis=1)
    np.testing.assert_allclose(shown, np.sort(told.obsm["jkonet_fates"], axis=0))


def test_nothing_is_cut_and_little_is_left_empty(told):
    """Of an embedding that is higher than wide, as one that is wider than high."""
    for stretched in ([1.0, 1.0], [0.6, 1.0], [1.7, 1.0]):
        own = told.obsm["X_umap"]
        told.obsm["X_umap"] = (own - own.min(axis=0)) / np.ptp(own, axis=0) * stretched
        for ax in (cells.pl.growth(told), cells.pl.landscape(told), *cells.pl.fates(told)[:1]):
            figure = ax.figure
            figure.draw_without_rendering()
            drawn, size = figure.get_tightbbox(), figure.get_size_inches()
            assert drawn.x0 >= -0.01
            assert drawn.y0 >= -0.01
            assert drawn.x1 <= size[0] + 0.01
            assert drawn.y1 <= size[1] + 0.01
            assert drawn.width > 0.78 * size[0]


def test_stream_lines_stay_where_cells_are(told):
    ax = cells.pl.velocity(told)
    own = told.obsm["X_umap"]
    for box, low, high in ((ax.get_xlim(), own[:, 0].min(), own[:, 0].max()),):
        assert box[0] < high
        assert box[1] > low
    assert len(ax.collections) > 1


def test_the_law_of_every_step_is_drawn_on_equal_axes(told):
    axes = cells.pl.law(told)
    assert [ax.get_title() for ax in axes] == ["0 to 2 day", "2 to 4.5 day", "4.5 to 7 day"]
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    seen, moved = axes[-1].collections
    late = (told.obs["day"] == "d7").to_numpy()
    np.testing.assert_allclose(seen.get_offsets(), told.obsm["X_pca"][late, :2], rtol=1e-5)
    assert len(moved.get_offsets()) == (told.obs["day"] == "d4.5").sum()


@pytest.mark.parametrize("name", ["landscape", "growth", "fates", "velocity"])
def test_what_was_not_asked_is_named(adata, name):
    with pytest.raises(ValueError, match="ask for cells.tl"):
        getattr(cells.pl, name)(adata)


def test_an_embedding_that_is_not_there(told):
    with pytest.raises(ValueError, match="no 'X_tsne' in obsm"):
        cells.pl.landscape(told, basis="tsne")


def test_cells_that_are_told_by_another_model_are_drawn(told):
    model = kept(told)
    other = anndata.AnnData(obs=told.obs[["day"]].copy(), obsm=dict(told.obsm))
    cells.tl.growth(other, model=model)
    assert not other.uns.get("jkonet")
    values, _ = coloured(cells.pl.growth(other))
    assert len(values) == other.n_obs
