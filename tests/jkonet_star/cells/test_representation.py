"""Coordinates of cells, whatever holds them, and what is odd about them."""

import inspect
from types import SimpleNamespace

import anndata
import numpy as np
import pandas
import pytest
from scipy import sparse

from jkonet_star.cells.representation import coordinates, leading_coordinates, remarks

POINTS = np.random.default_rng(0).normal(size=(6, 3))
HELD = {
    "dense": POINTS,
    "half": POINTS.astype(np.float16),
    "integers": (10 * POINTS).astype(int),
    "sparse": sparse.csr_matrix(POINTS),
    "sparse array": sparse.csr_array(POINTS),
    "table": pandas.DataFrame(POINTS, columns=list("abc")),
}


def object_of(points):
    data = anndata.AnnData(obs=pandas.DataFrame(index=[f"cell{i}" for i in range(6)]))
    if isinstance(points, pandas.DataFrame):
        points = points.set_index(data.obs_names)
    data.obsm["X_pca"] = points
    return data


@pytest.mark.parametrize("name", HELD)
def test_any_container_holds_coordinates(name):
    held = HELD[name]
    expected = held.toarray() if sparse.issparse(held) else np.asarray(held)
    found = leading_coordinates(object_of(held), None, 2)
    np.testing.assert_array_equal(found, expected[:, :2].astype(np.float64))
    assert found.dtype == np.float64


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files_that_stay_on_disk(kind, tmp_path):
    data, path = object_of(POINTS), tmp_path / f"cells.{kind}"
    if kind == "zarr":
        pytest.importorskip("zarr")
        data.write_zarr(path)
        back = anndata.read_zarr(path)
    else:
        data.write_h5ad(path)
        back = anndata.read_h5ad(path, backed="r")
    np.testing.assert_array_equal(leading_coordinates(back, "X_pca"), POINTS)


def test_what_is_read_later_is_read():
    class Later:
        def __init__(self, held):
            self.held = held

    class Lazy(Later):
        def compute(self):
            return self.held

    class OnDisk(Later):
        def to_memory(self):
            return self.held

    for held in (Lazy(POINTS), OnDisk(POINTS), OnDisk(Lazy(sparse.csr_matrix(POINTS)))):
        np.testing.assert_array_equal(coordinates(SimpleNamespace(obsm={"X_pca": held})), POINTS)


def test_cells_without_coordinates_are_named():
    bad = POINTS.copy()
    bad[[1, 4], [0, 2]] = np.nan, np.inf
    with pytest.raises(
        ValueError, match=r"2 of 6 cells have NaN or inf in .*X_pca.*: cell1, cell4$"
    ):
        leading_coordinates(object_of(bad), None)
    assert np.isfinite(leading_coordinates(object_of(bad[[0, 2, 3, 5] + [0, 2]]), None)).all()


def test_what_is_missing_is_named_with_what_is_there():
    with pytest.raises(
        ValueError, match="no 'X_pcs' in obsm.*available: X_pca; did you mean 'X_pca'"
    ):
        coordinates(object_of(POINTS), "X_pcs")
    with pytest.raises(ValueError, match=r"shape \(6, 3\); 4 coordinates are asked for"):
        leading_coordinates(object_of(POINTS), None, 4)
    for wrong in (2.0, True, "2"):
        with pytest.raises(ValueError, match="n_components must be an integer, got"):
            inspect.unwrap(leading_coordinates)(object_of(POINTS), None, wrong)
    with pytest.raises(ValueError, match="0 coordinates are asked for"):
        leading_coordinates(object_of(POINTS), None, 0)


def test_what_makes_coordinates_is_said():
    data = object_of(POINTS)
    data.obsm["own"] = data.obsm.pop("X_pca")
    with pytest.raises(ValueError, match=r"no 'X_pca' in obsm \(use_rep\).*scanpy.pp.pca makes it"):
        coordinates(data)
    with pytest.raises(ValueError, match=r"X is the expression, of which scanpy.pp.pca"):
        coordinates(data, "X")


def test_what_is_odd_is_said():
    rng = np.random.default_rng(0)
    points, counts = rng.normal(size=(200, 3)), np.array([100, 100])
    assert remarks(points, counts, "it") == []
    (even,) = remarks(points / points.std(axis=0), counts, "obsm['X_pca']")
    assert "the same variance, as standardised components have" in even
    assert remarks(points / points.std(axis=0), counts, "obsm['X_scvi']") == []
    idle, few = remarks(points * [1, 1, 1e-6], np.array([190, 10]), "it")
    assert "1 of 3 coordinates of it hardly vary, the first of them 2" in idle
    assert "a time has 10 cells for 3 coordinates" in few
