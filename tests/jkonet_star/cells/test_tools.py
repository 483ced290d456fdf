"""What is written into an AnnData object is what the energy says."""

import dataclasses
import inspect
import warnings

import anndata
import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from scipy import sparse

from jkonet_star import cells
from jkonet_star.cells.model import kept
from jkonet_star.settings import FeatureSettings


def test_potential_and_velocity_are_those_of_the_energy(adata):
    model = kept(adata)
    x = model.coordinates(adata)
    cells.tl.potential(adata)
    cells.tl.velocity(adata, basis="umap")
    np.testing.assert_allclose(
        adata.obs["jkonet_potential"], model.potential(x), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(adata.obsm["jkonet_velocity"], model.drift(x), rtol=1e-3, atol=1e-3)
    genes = adata.obsm["jkonet_velocity"] @ adata.varm["PCs"][:, :4].T
    np.testing.assert_allclose(adata.layers["jkonet"], genes, rtol=1e-4, atol=1e-5)
    assert adata.obsm["jkonet_umap"].shape == (adata.n_obs, 2)


def test_an_embedding_that_is_the_coordinates_shows_their_directions(adata):
    adata.obsm["X_own"] = adata.obsm["X_pca"][:, :4]
    cells.tl.velocity(adata, basis="X_own", genes=False)
    shown, drift = adata.obsm["jkonet_own"], adata.obsm["jkonet_velocity"]
    cosine = (shown * drift).sum(1) / np.linalg.norm(shown, axis=1) / np.linalg.norm(drift, axis=1)
    assert np.median(cosine) > 0.8
    assert "jkonet" not in adata.layers


def test_growth_and_its_deviation_are_those_of_the_energy_and_its_replicates(adata):
    model = kept(adata)
    cells.tl.growth(adata)
    late = (adata.obs["day"] == "d4.5").to_numpy()
    x = model.coordinates(adata)[late]
    np.testing.assert_allclose(
        adata.obs["jkonet_growth"][late], model.energy.growth(x, 4.5), rtol=1e-4
    )
    each = [model.energy.replicates.member(i).growth(x, 4.5) for i in range(19)]
    deviation = np.std(np.asarray(each), axis=0, ddof=1)
    np.testing.assert_allclose(adata.obs["jkonet_growth_sd"][late], deviation, rtol=1e-3, atol=1e-6)


def test_growth_is_told_from_motion_along_the_branches(adata):
    """By the rates that every cell was simulated with: .75, and .40 by the settings of any fit."""
    cells.tl.growth(adata)
    found, true = adata.obs["jkonet_growth"], adata.obs["true_growth"]
    assert np.corrcoef(found, true)[0, 1] > 0.65


def test_fates_sum_to_one_and_know_the_terminal_cells(adata):
    cells.tl.fates(adata, groups="cell_type", terminal=["C", "A", "B"])
    fates, kind = adata.obsm["jkonet_fates"], adata.obs["cell_type"].to_numpy()
    assert adata.uns["jkonet"]["fates"].tolist() == ["C", "A", "B"]
    np.testing.assert_allclose(fates.sum(axis=1), 1.0, rtol=1e-5)
    for column, name in enumerate("CAB"):
        assert (fates[kind == name].argmax(axis=1) == column).all()
    assert adata.uns["jkonet"]["fates_sd"].shape == fates.shape
    assert np.abs(fates - adata.obsm["true_fates"][:, [2, 0, 1]]).mean() < 0.15


def test_the_transitions_are_a_chain_forward_in_time(adata):
    cells.tl.transitions(adata)
    chain = adata.obsp["jkonet_transitions"]
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, rtol=1e-5)
    days = adata.obs["day"].cat.codes.to_numpy()
    rows, columns = chain.nonzero()
    assert (days[columns] == np.minimum(days[rows] + 1, 3)).all()


def test_drivers_are_the_genes_of_the_branches(adata):
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    cells.tl.drivers(adata)
    table, truth = adata.varm["jkonet_drivers"], adata.var["true_driver"]
    for name in "ABC":
        top = table[f"{name}_correlation"].nlargest(20).index
        assert (truth[top] == name).mean() >= 0.8
    fate = adata.obsm["jkonet_fates"][:, 0]
    r = np.corrcoef(adata.X[:, 120], fate)[0, 1]
    assert table["A_correlation"].iloc[120] == pytest.approx(r, rel=1e-4)
    assert table["A_error"].iloc[120] == pytest.approx(
        (1 - r**2) / np.sqrt(adata.n_obs - 3), rel=1e-3
    )
    adata.X[:, 3] = 2.0
    cells.tl.drivers(adata)
    assert adata.varm["jkonet_drivers"]["A_correlation"].iloc[3] == 0.0


def test_sparse_expression_gives_the_same_drivers(adata):
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    cells.tl.drivers(adata)
    dense = adata.varm["jkonet_drivers"].copy()
    adata.X = sparse.csr_matrix(adata.X)
    cells.tl.drivers(adata)
    np.testing.assert_allclose(adata.varm["jkonet_drivers"], dense, rtol=1e-3, atol=1e-5)


def test_predicted_cells_are_those_of_the_energy_with_their_genes(adata):
    model = kept(adata)
    future = cells.tl.predict(adata, time=7.0)
    now = (adata.obs["day"] == "d4.5").to_numpy()
    moved = model.energy.predict_weighted(model.coordinates(adata)[now], 1, start=2)
    np.testing.assert_allclose(future.obsm["X_pca"], moved.points[1], rtol=1e-3, atol=1e-3)
    grown = np.asarray(moved.weights[1] / moved.weights[0])
    np.testing.assert_allclose(future.obs["jkonet_weight"], grown, rtol=1e-4)
    # The genes do not depend on which other cells are there.
    alone = cells.tl.predict(adata[now].copy(), time=7.0)
    assert np.abs(alone.X - future.X).mean() < 0.03
    assert abs(adata[now].X.mean(axis=0) - adata.X.mean(axis=0)).max() > 0.2
    mean = np.average(future.X, axis=0, weights=future.obs["jkonet_weight"])
    late = adata.X[(adata.obs["day"] == "d7").to_numpy()].mean(axis=0)
    assert np.corrcoef(mean, late)[0, 1] > 0.9
    assert list(future.var_names) == list(adata.var_names)
    last = (adata.obs["day"] == "d7").sum()
    assert [cells.tl.predict(adata, time=t).n_obs for t in (5.0, 9.0)] == [now.sum(), last]
    with pytest.raises(ValueError, match="after the first, 0, and finite, got 'd5'"):
        inspect.unwrap(cells.tl.predict)(adata, time="d5")
    with pytest.raises(ValueError, match="after the first, 0"):
        cells.tl.predict(adata, time=0.0)


PLACES = {
    "obs": {"potential", "energy", "growth", "growth_sd"},
    "obsm": {"velocity", "umap", "fates", "fates_sd"},
    "varm": {"drivers"},
    "obsp": {"transitions"},
}


def assert_same(found, expected, where):
    """Of every container that a file has, with its type of numbers."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for name in expected:
            assert_same(found[name], expected[name], f"{where}/{name}")
    elif sparse.issparse(expected):
        assert found.dtype == expected.dtype, where
        assert (found != expected).nnz == 0, where
    elif isinstance(expected, pandas.DataFrame):
        pandas.testing.assert_frame_equal(found, expected)
    elif isinstance(expected, pandas.Series):
        pandas.testing.assert_series_equal(found, expected)
    else:
        a, b = np.asarray(found), np.asarray(expected)
        np.testing.assert_array_equal(a, b, err_msg=where)
        assert a.dtype.kind == b.dtype.kind or {a.dtype.kind, b.dtype.kind} <= set("OUT"), where
        assert a.dtype.kind not in "fiu" or a.dtype == b.dtype, where


def assert_same_energy(found, expected):
    for one, two in ((found, expected), (found.replicates, expected.replicates)):
        assert jax.tree.structure(one) == jax.tree.structure(two)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_all_of_it_survives_its_file(adata, kind, tmp_path):
    if kind == "zarr":
        pytest.importorskip("zarr")
    cells.tl.potential(adata)
    cells.tl.velocity(adata, basis="umap")
    cells.tl.growth(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    cells.tl.drivers(adata)
    cells.tl.transitions(adata)
    for data in (adata, cells.tl.predict(adata, time=5.0)):
        path = tmp_path / f"cells.{kind}"
        getattr(data, f"write_{kind}")(path)
        back = getattr(anndata, f"read_{kind}")(path)
        assert_same(back.X, data.X, "X")
        for place in ("obs", "obsm", "varm", "obsp", "layers", "uns"):
            before, after = getattr(data, place), getattr(back, place)
            assert set(before) == set(after)
            if "jkonet" in before and place == "uns":
                one, two = (kept(whole) for whole in (data, back))
                assert_same_energy(two.energy, one.energy)
                before, after = ({**p, "jkonet": {**p["jkonet"]}} for p in (before, after))
                del before["jkonet"]["energy"], after["jkonet"]["energy"]
            for name in before:
                assert_same(after[name], before[name], f"{place}/{name}")
        if data is adata:
            for place, names in PLACES.items():
                own = {name for name in getattr(back, place) if str(name).startswith("jkonet_")}
                assert own == {f"jkonet_{name}" for name in names}
            assert "jkonet" in back.layers
            assert {"fates", "fates_sd", "times", "time_unit"} <= set(back.uns["jkonet"])
            cells.tl.potential(back)  # by the energy that was read
            assert_same(back.obs["jkonet_potential"], adata.obs["jkonet_potential"], "again")


def test_a_copy_leaves_the_cells_as_they_are(adata):
    copied = cells.tl.potential(adata, copy=True)
    assert "jkonet_potential" in copied.obs
    assert "jkonet_potential" not in adata.obs
    assert cells.tl.potential(adata) is None


def without(data, day):
    return data[(data.obs["day"] != day).to_numpy()].copy()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda a: cells.tl.velocity(a, basis="umpa"),
            "no 'X_umpa' in obsm.*did you mean 'X_umap'",
        ),
        (lambda a: cells.tl.fates(a, groups="type"), "no 'type' in obs.*available"),
        (
            lambda a: cells.tl.fates(a, groups="cell_type", terminal=["A", "D"]),
            "no cell of the last time is of D; its groups are A, B, C",
        ),
        (lambda a: cells.tl.drivers(a), "ask for cells.tl.fates first"),
        (lambda a: cells.tl.fates(without(a, "d2"), groups="cell_type"), "no cells at 2"),
    ],
)
def test_what_is_missing_is_named(adata, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(adata)


@pytest.mark.parametrize("kind", ["int16", "uint16", "float16", "float64", "csr", "csc"])
def test_expression_of_any_kind_correlates_alike(adata, kind):
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B", "C"])
    counts = np.round(50 * adata.X)
    fate = adata.obsm["jkonet_fates"][:, 0]
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num([np.corrcoef(gene, fate)[0, 1] for gene in counts.T])
    held = getattr(sparse, f"{kind}_matrix")(counts) if kind[:2] == "cs" else counts.astype(kind)
    adata.X = held
    cells.tl.drivers(adata)
    np.testing.assert_allclose(adata.varm["jkonet_drivers"]["A_correlation"], expected, atol=1e-6)


def test_a_gene_that_is_not_finite_is_named(adata):
    cells.tl.fates(adata, groups="cell_type", terminal=["A"])
    adata.X[3, 7] = np.nan
    with pytest.raises(ValueError, match="X has NaN or inf in gene7"):
        cells.tl.drivers(adata)


def test_loadings_of_other_coordinates_are_not_used(adata, no_warning):
    with no_warning():
        cells.tl.velocity(adata[::2].copy())
    few = adata[:, :50].copy()
    adata.X = np.expm1(adata.X)
    for data in (adata, few):
        with pytest.warns(UserWarning, match="X is not the expression of which they make"):
            cells.tl.velocity(data)
        assert "jkonet" not in data.layers
        with pytest.warns(UserWarning, match="set X to what scanpy.pp.pca was given"):
            assert cells.tl.predict(data, time=5.0).X is None
    del adata.varm["PCs"]
    with pytest.warns(UserWarning, match="the cells have no genes"):
        cells.tl.predict(adata, time=5.0)


def test_terminal_groups_are_those_that_come_later(adata):
    labels = adata.obs["cell_type"].astype(str)
    late = np.flatnonzero(adata.obs["day"] == "d7")
    first = np.flatnonzero(adata.obs["day"] == "d0")
    labels.iloc[first], labels.iloc[late[0]], labels.iloc[late[1]] = (
        "progenitor",
        "progenitor",
        None,
    )
    adata.obs["kind"] = labels
    cells.tl.fates(adata, groups="kind")
    assert list(adata.uns["jkonet"]["fates"]) == ["A", "B", "C"]
    with pytest.raises(ValueError, match="names a group twice: A, A"):
        cells.tl.fates(adata, groups="kind", terminal=["A", "A"])
    adata.obs["kind"] = "one"
    with pytest.raises(ValueError, match="name terminal: one of the last time"):
        cells.tl.fates(adata, groups="kind")


def test_a_fate_with_a_slash_is_written_to_files(adata, tmp_path):
    pytest.importorskip("zarr")
    adata.obs["kind"] = adata.obs["cell_type"].astype(str).replace({"A": "Mono/Neu"})
    cells.tl.fates(adata, groups="kind", terminal=["Mono/Neu", "B"])
    cells.tl.drivers(adata)
    adata.write_zarr(tmp_path / "cells.zarr")
    back = anndata.read_zarr(tmp_path / "cells.zarr")
    assert list(back.uns["jkonet"]["fates"]) == ["Mono/Neu", "B"]
    assert "Mono_Neu_correlation" in back.varm["jkonet_drivers"]


def test_another_energy_leaves_nothing_of_the_first(adata):
    cells.tl.potential(adata)
    cells.tl.growth(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    cells.tl.drivers(adata)
    cells.keep(adata, kept(adata))
    left = [*adata.obs, *adata.obsm, *adata.varm, *adata.layers, *adata.obsp]
    assert not [name for name in left if str(name).startswith("jkonet")]
    with pytest.raises(ValueError, match="ask for cells.tl.fates first"):
        cells.tl.drivers(adata)
    with pytest.raises(ValueError, match="has a /"):
        cells.keep(adata, kept(adata), "a/b")


def test_another_energy_leaves_those_whose_names_begin_alike(adata):
    model = kept(adata)
    cells.keep(adata, model, "jkonet_b")
    adata.obsm["jkonet_own"] = np.zeros((adata.n_obs, 2))
    for key in ("jkonet", "jkonet_b"):
        cells.tl.velocity(adata, basis="umap", key=key)
        cells.tl.fates(adata, groups="cell_type", terminal="A", key=key)
    cells.keep(adata, model)
    left = {name for name in adata.obsm if name.startswith("jkonet")}
    expected = {"jkonet_own", "jkonet_b_velocity", "jkonet_b_umap", "jkonet_b_fates"}
    assert left - {"jkonet_b_fates_sd"} == expected


def test_deviations_of_fates_go_with_the_cells(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    deviation = adata.uns["jkonet"]["fates_sd"]
    some = adata[::-2]
    np.testing.assert_array_equal(some.obsm["jkonet_fates_sd"], deviation[::-2])
    assert deviation.std() > 0


def test_one_terminal_group_is_its_name_and_not_its_letters(adata):
    labels = adata.obs["cell_type"].astype(str)
    adata.obs["kind"] = labels.where(labels != "C", "AB")
    cells.tl.fates(adata, groups="kind", terminal="AB")
    assert list(adata.uns["jkonet"]["fates"]) == ["AB"]


def test_cells_to_come_keep_nothing_that_was_said_of_where_they_were(adata):
    cells.tl.potential(adata)
    cells.tl.growth(adata)
    adata.obs["jkonet_effect_treated"] = 1.0
    future = cells.tl.predict(adata, time=5.0)
    own = {name for name in future.obs if name.startswith("jkonet")}
    assert own == {"jkonet_weight", "jkonet_time"}
    assert {"day", "cell_type"} <= set(future.obs)


def test_what_is_on_disk_is_said(learned, tmp_path):
    learned.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"give adata.to_memory\(\)"):
        cells.tl.predict(backed, time=5.0)


def test_noise_is_drawn_from_the_seed(simulated):
    data = simulated.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.fit(
            data,
            time_key="day",
            n_components=2,
            solver="jkonet-star-linear-potential-internal",
            features=FeatureSettings(degree=2, total_degree=2, radial="none"),
            key_added="noisy",
        )
    given = {"groups": "cell_type", "terminal": ["A", "B", "C"], "key": "noisy"}
    one, two, other = (
        cells.tl.fates(data, **given, n_futures=2, seed=seed, copy=True).obsm["noisy_fates"]
        for seed in (0, 0, 1)
    )
    assert float(kept(data, "noisy").beta) > 0
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="n_futures must be at least 1, got 0"):
        cells.tl.fates(data, **given, n_futures=0)
    # By replicates that differ in nothing the deviation would be zero, and the fates vary by seed.
    model = kept(data, "noisy")
    model = dataclasses.replace(model, energy=with_replicates(model.energy, 2))
    with pytest.warns(UserWarning, match="fates_sd is not written: of 2 noisy futures"):
        cells.tl.fates(data, **given, n_futures=2, model=model)
    assert "fates_sd" not in data.uns["noisy"]
    cells.tl.fates(data, **given, n_futures=3, model=model)
    assert data.uns["noisy"]["fates_sd"].max() < 1e-6


def with_replicates(energy, n):
    """N times itself."""
    alone = energy.with_report(None).with_replicates(None)
    return energy.with_replicates(jax.tree.map(lambda leaf: jnp.stack([leaf] * n), alone))


def test_one_replicate_has_no_deviation(adata):
    model = kept(adata)
    alone = jax.tree.map(lambda leaf: leaf[:1], model.energy.replicates)
    model = dataclasses.replace(model, energy=model.energy.with_replicates(alone))
    cells.tl.growth(adata)
    with pytest.warns(UserWarning, match="growth_sd is not written: the energy has one replicate"):
        cells.tl.growth(adata, model=model)
    assert "jkonet_growth_sd" not in adata.obs
    with pytest.warns(UserWarning, match="fates_sd is not written: the energy has one"):
        cells.tl.fates(adata, groups="cell_type", terminal=["A"], model=model)
    assert "fates_sd" not in adata.uns["jkonet"]


def test_a_fate_that_no_cell_has_drives_nothing(adata, no_warning):
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    adata.obsm["jkonet_fates"][:, 0], adata.obsm["jkonet_fates"][:, 1] = 0.0, 1.0
    with no_warning():
        cells.tl.drivers(adata)
    table = adata.varm["jkonet_drivers"]
    assert table["A_velocity"].isna().all()
    assert not table["A_correlation"].any()
    np.testing.assert_allclose(table["B_velocity"], 0.0, atol=1e-5)
