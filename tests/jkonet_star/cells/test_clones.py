"""Predicted fates beside those of clones."""

import numpy as np
import pytest

from data_generation.populations.simulated_cells import BRANCHES
from jkonet_star import cells
from jkonet_star.cells.clones import clonal_report


@pytest.fixture
def told(adata):
    cells.tl.fates(adata, groups="cell_type", terminal=list(BRANCHES))
    # Clones of one fate, which is that of the cells themselves at the end.
    end = adata.obsm["jkonet_fates"].argmax(axis=1)
    adata.obs["line"] = [f"{f}{i % 15}" for i, f in enumerate(end)]
    return adata


def test_clones_that_go_as_predicted_correlate(told):
    cells.tl.clones(told, clone_key="line", groups="cell_type")
    about = told.uns["jkonet"]["clones"]
    assert list(about["methods"]) == ["energy", "transport", "no_motion"]
    r = about["correlation"]
    assert r[0] > 0.4
    np.testing.assert_allclose(about["ahead"], r[0] - r[1:])
    assert (about["correlation_sd"] < 0.2).all()
    assert about["correlation_by_time"].shape == (3, len(about["times"]))
    assert about["n_clones"] <= 45
    ax = cells.pl.clones(told)
    assert [text.get_text() for text in ax.get_legend().get_texts()][2] == "no motion"
    mine = ax.containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(mine, about["correlation_by_time"][0])


def test_shuffled_barcodes_do_not(told):
    told.obs["line"] = np.random.default_rng(0).permutation(told.obs["line"])
    cells.tl.clones(told, clone_key="line", groups="cell_type")
    about = told.uns["jkonet"]["clones"]
    assert (np.abs(about["correlation"]) < 4 * about["correlation_sd"]).all()


def test_only_clones_with_cells_before_and_behind_count(told):
    line = told.obs["line"].astype(object)
    few = np.arange(told.n_obs) % 3 == 0
    line[few] = [f"alone{i}" for i in range(few.sum())]  # clones of one cell
    line[np.arange(told.n_obs) % 3 == 1] = None  # no barcode
    told.obs["line"] = line
    cells.tl.clones(told, clone_key="line", groups="cell_type")
    some = told.uns["jkonet"]["clones"]
    assert some["n_clones"] <= 45
    kept = told[(np.arange(told.n_obs) % 3 == 2)]
    early, late = kept[kept.obs["day"] != "d7"], kept[kept.obs["day"] != "d0"]
    early = set(early.obs["line"][early.obs["cell_type"] == "progenitor"])
    late = set(late.obs["line"][late.obs["cell_type"] != "progenitor"])
    assert some["n_clones"] <= len(early & late)
    told.obs["line"] = [f"alone{i}" for i in range(told.n_obs)]
    with pytest.raises(ValueError, match="fewer than 3 clones of obs.'line'. have cells"):
        cells.tl.clones(told, clone_key="line", groups="cell_type")


def test_the_correlation_is_that_of_the_equation():
    # Two clones at one time, one fate each of two; a third has no later cells.
    points = np.random.default_rng(0).normal(size=(9, 2))
    early, late = np.arange(5), np.arange(5, 9)
    ends = np.zeros((9, 2))
    ends[[5, 6], 0] = ends[[7, 8], 1] = 1.0
    clone = np.array([0, 0, 1, 2, 3, 0, 0, 1, 2])
    fates = np.array([[0.9, 0.7, 0.4, 0.2, 0.5] + [0] * 4]).T
    fates = np.concatenate([fates, 1 - fates], axis=1)
    about = clonal_report(
        points,
        [early, late],
        ends,
        fates,
        clone,
        times=np.array([0.0, 1.0]),
        n_bootstrap=50,
        seed=0,
        name="clone",
    )
    expected = np.corrcoef([0.8, 0.4, 0.2], [1.0, 0.0, 0.0])[0, 1]
    assert about["correlation"][0] == pytest.approx(expected)
    assert about["n_clones"] == 3


def test_what_is_missing_is_named(adata):
    with pytest.raises(ValueError, match="ask for cells.tl.fates first"):
        cells.tl.clones(adata, clone_key="clone", groups="cell_type")
    with pytest.raises(ValueError, match="ask for cells.tl.clones first"):
        cells.pl.clones(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    with pytest.raises(ValueError, match="no 'clones' in obs .*did you mean 'clone'"):
        cells.tl.clones(adata, clone_key="clones", groups="cell_type")
    with pytest.raises(ValueError, match="no 'cell_typ' in obs"):
        cells.tl.clones(adata, clone_key="clone", groups="cell_typ")
    with pytest.raises(ValueError, match="n_bootstrap must be at least 2, got 1"):
        cells.tl.clones(adata, clone_key="clone", groups="cell_type", n_bootstrap=1)


@pytest.mark.parametrize("kind", ["text", "codes", "floats"])
def test_cells_without_a_barcode_are_no_clone_however_that_is_written(told, kind):
    number = np.unique(told.obs["clone"].astype(str), return_inverse=True)[1].astype(float)
    number[::3] = np.nan
    told.obs["known"] = number
    told.obs["written"] = {
        "text": told.obs["known"].astype(str),
        "codes": told.obs["known"].fillna(-1).astype(int),
        "floats": told.obs["known"].fillna(-1),
    }[kind]
    reports = []
    for name in ("known", "written"):
        cells.tl.clones(told, clone_key=name, groups="cell_type", n_bootstrap=2)
        reports.append(told.uns["jkonet"]["clones"])
    assert reports[0]["n_clones"] == reports[1]["n_clones"]
    np.testing.assert_allclose(reports[0]["correlation"], reports[1]["correlation"])
