"""scanpy, scVelo and CellRank take what is written, where they are installed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest

from jkonet_star import cells

ELSEWHERE = "no extra installs {}: that it takes what cells.tl writes is not checked here"


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def installed(name):
    return pytest.importorskip(name, reason=ELSEWHERE.format(name), exc_type=ImportError)


def test_scanpy_colours_cells_by_their_potential(adata):
    scanpy = installed("scanpy")
    cells.tl.potential(adata)
    ax = scanpy.pl.umap(adata, color="jkonet_potential", show=False, sort_order=False)
    shown = ax.collections[0]
    np.testing.assert_array_equal(shown.get_array(), adata.obs["jkonet_potential"])
    np.testing.assert_allclose(shown.get_offsets(), adata.obsm["X_umap"])


def test_scvelo_draws_the_velocity(adata):
    scvelo = installed("scvelo")
    cells.tl.velocity(adata, basis="umap")
    arrows = adata.obsm["jkonet_umap"].copy()
    for draw in (scvelo.pl.velocity_embedding_stream, scvelo.pl.velocity_embedding_grid):
        ax = draw(adata, vkey="jkonet", basis="umap", color="cell_type", show=False)
        assert len(ax.collections) > 1  # arrows, besides the cells
    # By the arrows that are there, not by any of its own.
    np.testing.assert_array_equal(adata.obsm["jkonet_umap"], arrows)
    assert "jkonet_graph" not in adata.uns


def test_cellrank_finds_the_same_fates_in_the_transitions(adata):
    cellrank = installed("cellrank")
    cells.tl.transitions(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    kernel = cellrank.kernels.PrecomputedKernel(adata.obsp["jkonet_transitions"], adata=adata)
    ends = (adata.obs["day"] == "d7") & adata.obs["cell_type"].isin(list("ABC"))
    estimator = cellrank.estimators.GPCCA(kernel)
    terminal = adata.obs["cell_type"].astype(object).where(ends).astype("category")
    estimator.set_terminal_states(pandas.Series(terminal, index=adata.obs_names))
    estimator.compute_fate_probabilities(solver="direct", use_petsc=False, show_progress_bar=False)
    found = estimator.fate_probabilities
    order = [list(found.names).index(name) for name in adata.uns["jkonet"]["fates"]]
    # It knows neither growth nor the mean over cells of a kind.
    apart = np.abs(np.asarray(found.X)[:, order] - adata.obsm["jkonet_fates"]).mean()
    assert apart < 0.1
