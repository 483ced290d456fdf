"""An energy that is kept with its cells, read again from their file, and used on others."""

import warnings

import anndata
import jax
import numpy as np
import pandas
import pytest

from jkonet_star import cells, fit, snapshots_from_arrays
from jkonet_star.cells.model import kept
from jkonet_star.fitted import FittedEnergy

LINEAR = "jkonet-star-linear-potential"


def quick(data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cells.fit(data, time_key="day", n_components=2, solver=LINEAR, **options)


def same(one, two):
    leaves = (jax.tree.leaves(one), jax.tree.leaves(two))
    assert len(leaves[0]) == len(leaves[1])
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_it_is_what_fit_learns_of_the_same_points(simulated):
    data = simulated.copy()
    model = quick(data)
    own = {"d0": 0.0, "d2": 2.0, "d4.5": 4.5, "d7": 7.0}
    arrays = [data.obsm["X_pca"][(data.obs["day"] == day).to_numpy(), :2] for day in own]
    snapshots = snapshots_from_arrays(arrays, times=list(own.values()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        energy = fit(snapshots, LINEAR, key=jax.random.key(1))
    x = arrays[1][:5]
    np.testing.assert_allclose(model.energy.drift(x), energy.drift(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.energy.time_values(), list(own.values()))
    assert model.unit == "day"
    assert isinstance(model.energy, FittedEnergy)
    assert model.report is model.energy.report
    high, low = data.obsm["X_pca"][:, :2].std(axis=0)
    assert model.scale == pytest.approx((high, low), rel=1e-5)
    scale = f"in its own scale, deviations {high:.3g} to {low:.3g}"
    assert f"obsm['X_pca'][:, :2] {scale}, obs['day'] (days)" in repr(model)
    with pytest.raises(AttributeError):
        model.nothing  # noqa: B018


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_it_comes_back_from_its_file(learned, kind, tmp_path):
    model, data = kept(learned), learned
    if kind == "zarr":
        pytest.importorskip("zarr")
    if kind != "memory":
        path = tmp_path / f"cells.{kind}"
        getattr(learned, f"write_{kind}")(path)
        data = getattr(anndata, f"read_{kind}")(path)
    again = kept(data)
    assert (again.use_rep, again.time_key, again.unit) == ("X_pca", "day", "day")
    same(again.energy, model.energy)
    same(again.energy.replicates, model.energy.replicates)
    assert again.energy.growth_rate.absolute
    assert again.report == model.report
    assert again.scale == model.scale
    x = again.coordinates(data)[:5]
    np.testing.assert_array_equal(again.drift(x), model.drift(x))
    assert data.uns["jkonet"]["use_rep"] == "X_pca"
    assert float(data.uns["jkonet"]["beta"]) == float(model.beta)
    assert str(data.uns["jkonet"]["report"]) == str(model.report)


def test_labels_that_say_no_time_are_mapped_and_the_map_is_kept(simulated):
    data = simulated.copy()
    data.obs["stage"] = data.obs["day"].map(
        dict(zip(["d0", "d2", "d4.5", "d7"], "abcd", strict=True))
    )
    with pytest.raises(ValueError, match="'a', .*time_map"):
        cells.fit(data, time_key="stage", solver=LINEAR)
    time_map = {"a": 0, "b": 2, "c": 4.5, "d": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.fit(data, time_key="stage", n_components=2, solver=LINEAR, time_map=time_map)
    np.testing.assert_array_equal(np.unique(kept(data).times(data).values), [0, 2, 4.5, 7])


def test_what_cannot_be_learned_from_is_refused(simulated):
    data = simulated.copy()
    with pytest.raises(ValueError, match="no 'dya' in obs.*did you mean 'day'"):
        cells.fit(data, time_key="dya")
    data.obs["pseudo"] = np.random.default_rng(0).uniform(size=len(data))
    with pytest.raises(ValueError, match="pseudotime"):
        cells.fit(data, time_key="pseudo")
    with pytest.raises(ValueError, match="no energy: learn one first"):
        cells.tl.potential(data)
    data.obsm["flat"] = np.concatenate([data.obsm["X_pca"][:, :2], np.zeros((len(data), 1))], 1)
    with pytest.warns(UserWarning, match="hardly vary"):
        cells.fit(data, time_key="day", use_rep="flat", solver=LINEAR)


def test_what_is_kept_is_checked(adata):
    whole = adata.uns["jkonet"]["energy"]
    adata.uns["jkonet"]["energy"] = {**whole, "schema_version": 99}
    with pytest.raises(ValueError, match="newer release"):
        kept(adata)
    adata.uns["jkonet"]["energy"] = {**whole, "description": "{}"}
    with pytest.raises(ValueError, match=r"uns\['jkonet'\] is damaged"):
        kept(adata)
    arrays = {**whole["arrays"], "times": np.zeros(2, np.float32)}
    adata.uns["jkonet"]["energy"] = {**whole, "arrays": arrays}
    with pytest.raises(ValueError, match="damaged"):
        kept(adata)


def test_single_numbers_that_a_file_widens_do_not_change_the_precision(adata, double_precision):
    held = adata.uns["jkonet"]["energy"]
    wide = jax.tree.map(lambda a: float(a) if a.ndim == 0 else a, held["arrays"])
    assert wide["constants"]["units"]["beta"] == 0.0
    adata.uns["jkonet"]["energy"] = {**held, "arrays": wide}
    assert {leaf.dtype for leaf in jax.tree.leaves(kept(adata).energy)} == {np.dtype("float32")}


def test_cells_of_other_times_belong_to_the_snapshot_before_them(adata):
    model = kept(adata)
    adata.obs["day"] = np.resize([0.0, 1.0, 2.0, 6.9, 7.0, 9.0], adata.n_obs)
    with pytest.raises(ValueError, match="in no unit, the energy was learned in day"):
        model.snapshot(adata)
    adata.obs["day"] = [f"d{t:g}" for t in adata.obs["day"]]
    assert model.snapshot(adata)[1][:6].tolist() == [0, 0, 1, 2, 3, 3]
    adata.obs["day"] = "d-1"
    with pytest.raises(ValueError, match="from before 0, the first time"):
        model.snapshot(adata)


def test_a_backed_object_is_enough(simulated, tmp_path):
    simulated.write_h5ad(tmp_path / "cells.h5ad")
    data = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model, whole = quick(data), simulated.copy()
    same(model.energy.params, quick(whole).energy.params)


def test_an_object_that_is_read_later_is_enough(simulated, tmp_path):
    for name in ("xarray", "dask"):
        pytest.importorskip(name, reason=f"anndata.experimental.read_lazy needs {name}")
    pytest.importorskip("zarr")
    simulated.write_zarr(tmp_path / "cells.zarr")
    data = anndata.experimental.read_lazy(tmp_path / "cells.zarr")
    whole = simulated.copy()
    same(quick(data).energy.params, quick(whole).energy.params)
    for one in (data, whole):
        cells.tl.potential(one)
    np.testing.assert_array_equal(data.obs["jkonet_potential"], whole.obs["jkonet_potential"])


def test_times_close_to_each_other_and_units_of_fewer_cells(simulated):
    data = simulated.copy()
    hours = data.obs["day"].map({"d0": 0.3, "d2": 0.7, "d4.5": 60.1, "d7": 96.0}).astype(float)
    data.obs["span"] = pandas.to_timedelta(hours, unit="h")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cells.fit(data, time_key="span", n_components=2, solver=LINEAR)
    assert model.unit == "day"
    early = data[(data.obs["day"] == "d2").to_numpy()].copy()
    np.testing.assert_allclose(model.times(early).values, 0.7 / 24)
    assert set(model.snapshot(early)[1]) == {1}
    future = cells.tl.predict(data, time=0.7 / 24)
    assert future.n_obs == (data.obs["day"] == "d0").sum()  # not those of .7 h themselves
