"""Differences between conditions are found where they are, and said not to be where they are not."""

import warnings

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import sparse

from data_generation.populations.simulated_cells import simulated_cells
from jkonet_star import cells
from jkonet_star.cells.condition_differences import NormalEquations, make_basis
from jkonet_star.cells.condition_test import compare, expected_of_first, holm, standardised
from jkonet_star.cells.model import kept

FIT = {"time_key": "day", "n_components": 4, "solver": "jkonet-star-linear-potential"}


def learned(seed, treatment, **options):
    data = simulated_cells(seed, n_cells=700, n_genes=200, treatment=treatment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.fit(data, **FIT, **options)
    return data


@pytest.fixture(scope="module")
def treated():
    return learned(0, "entry", condition_key="treatment")


@pytest.fixture
def adata(treated):
    return treated.copy()


@pytest.mark.parametrize(("treatment", "there"), [("branch", True), ("none", False)])
def test_a_treatment_is_found_where_it_changes_something(treatment, there):
    pvalues = []
    for seed in range(3):
        data = learned(seed, treatment)
        cells.tl.conditions(data, condition_key="treatment", n_permutations=99)
        pvalues.append(data.uns["jkonet"]["conditions"]["pvalue"][0])
    assert (np.array(pvalues) <= 0.05).all() == there
    assert there or max(pvalues) > 0.2


def test_it_is_found_where_and_when_it_is(adata):
    about = adata.uns["jkonet"]["conditions"]
    assert (list(about["names"]), about["reference"]) == (["treated"], "control")
    assert about["pvalue"][0] <= 0.01
    assert about["statistic"][0] > 1.4 * about["expected"][0]
    np.testing.assert_array_equal(about["times"], [2.0, 4.5, 7.0])
    assert about["pvalue_by_time"][0, 1] <= 0.01
    model, true = kept(adata), adata.obsm["true_difference"]
    points = model.coordinates(adata)
    away = np.subtract(*(model.differences.drift(points, name) for name in ("treated", "control")))
    # States are nearly linear in the components.
    shown = true @ np.linalg.lstsq(adata.obsm["true_state"], points - points.mean(axis=0))[0]
    there = np.linalg.norm(true, axis=1) > np.linalg.norm(true, axis=1).max() / 2
    cosine = (away * shown)[there].sum() / np.sqrt(
        (away[there] ** 2).sum() * (shown[there] ** 2).sum()
    )
    assert cosine > 0.4
    effect = adata.obs["jkonet_effect_treated"].to_numpy()
    assert np.median(effect[there]) > 1.3 * np.median(effect[~there])


def test_what_is_written_is_the_models_and_survives_its_file(adata, tmp_path):
    model = kept(adata)
    assert model.differences.names == ("control", "treated")
    points = model.coordinates(adata)
    drift = {name: model.differences.drift(points, name) for name in ("control", "treated")}
    own = (adata.obs["treatment"] == "treated").to_numpy()
    np.testing.assert_array_equal(adata.obsm["jkonet_difference"][own], drift["treated"][own])
    np.testing.assert_array_equal(adata.obsm["jkonet_difference"][~own], drift["control"][~own])
    length = np.linalg.norm(drift["treated"] - drift["control"], axis=1)
    np.testing.assert_allclose(adata.obs["jkonet_effect_treated"], length, rtol=1e-5)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = anndata.read_h5ad(tmp_path / "cells.h5ad")
    again = kept(back).differences
    np.testing.assert_array_equal(again.drift(points, "treated"), drift["treated"])
    assert list(back.uns["jkonet"]["conditions"]["names"]) == ["treated"]
    with pytest.raises(ValueError, match="no condition 'tretaed'; there are control, treated"):
        again.drift(points, "tretaed")
    # Another energy of the same cells leaves nothing of it.
    cells.keep(adata, kept(adata))
    assert "conditions" not in adata.uns["jkonet"]
    assert "jkonet_difference" not in adata.obsm
    assert "jkonet_effect_treated" not in adata.obs
    assert kept(adata).differences is not None


def test_three_conditions_a_reference_and_a_name_with_a_slash(adata, tmp_path):
    kind = adata.obs["treatment"].astype(str)
    other = np.arange(adata.n_obs) % 4 == 0
    kind[(kind == "control") & other] = "1/2 dose"
    adata.obs["arm"] = kind
    copied = cells.tl.conditions(
        adata, condition_key="arm", reference="control", n_permutations=49, copy=True
    )
    about = copied.uns["jkonet"]["conditions"]
    assert list(about["names"]) == ["1/2 dose", "treated"]
    # Some of the controls are no other condition.
    assert about["pvalue"][0] > 0.05 >= about["pvalue"][1]
    np.testing.assert_allclose(about["pvalue_holm"], holm(about["pvalue"]))
    assert "jkonet_effect_1_2 dose" in copied.obs
    copied.write_h5ad(tmp_path / "cells.h5ad")
    assert adata.uns["jkonet"]["conditions"]["condition_key"] == "treatment"


def test_cells_from_before_the_treatment_are_the_beginning_of_all(adata):
    first = (adata.obs["day"] == "d0").to_numpy()
    adata.obs["arm"] = np.where(first, "before", adata.obs["treatment"].astype(str))
    cells.tl.conditions(adata, condition_key="arm", n_permutations=49)
    own = adata.uns["jkonet"]["conditions"]
    assert (own["reference"], list(own["names"])) == ("control", ["treated"])
    assert not adata.obsm["jkonet_difference"][first].any()
    with pytest.raises(ValueError, match="no 'before' in .* available: control, treated"):
        cells.tl.conditions(adata, condition_key="arm", reference="before")
    adata.obs["arm"] = np.where(first, "control", adata.obs["treatment"].astype(str))
    cells.tl.conditions(adata, condition_key="arm", n_permutations=49)
    about = adata.uns["jkonet"]["conditions"]
    assert about["shared_start"]
    assert about["pvalue"][0] <= 0.05
    assert (own["statistic"], own["pvalue"]) == (about["statistic"], about["pvalue"])


def test_a_panel_for_each_condition(adata):
    (ax,) = cells.pl.conditions(adata)
    assert ax.get_title() == "treated against control, p = 0.001"
    shown = np.sort(ax.collections[0].get_array())
    np.testing.assert_allclose(shown, np.sort(adata.obs["jkonet_effect_treated"]))
    plt.close("all")
    del adata.uns["jkonet"]["conditions"]
    with pytest.raises(ValueError, match="ask for cells.tl.conditions first"):
        cells.pl.conditions(adata)


def test_what_a_batch_shifts_is_no_condition():
    data = simulated_cells(1, n_cells=700, n_genes=200, treatment="none")
    late = (data.obs["day"] != "d0").to_numpy()
    treated = (data.obs["treatment"] == "treated").to_numpy()
    rng = np.random.default_rng(0)
    # Most treated cells are of one batch, which is shifted.
    batch = rng.random(len(late)) < np.where(treated, 0.8, 0.2)
    data.obs["run"] = np.where(batch, "one", "two")
    data.obsm["X_pca"][batch & late, :2] += 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells.fit(data, **FIT)
    given = {"condition_key": "treatment", "n_permutations": 49}
    cells.tl.conditions(data, **given)
    assert data.uns["jkonet"]["conditions"]["pvalue"][0] <= 0.05
    cells.tl.conditions(data, **given, batch_key="run")
    assert data.uns["jkonet"]["conditions"]["pvalue"][0] > 0.05
    with pytest.raises(ValueError, match="no batch of obs.'treatment'. has cells of both"):
        cells.tl.conditions(data, **given, batch_key="treatment")


def test_what_cannot_be_compared_is_named(adata):
    adata.obs["one"] = "a"
    adata.obs["gap"] = adata.obs["treatment"].astype(str)
    adata.obs.loc[adata.obs_names[3], "gap"] = None
    late = (adata.obs["day"] == "d7").to_numpy()
    adata.obs["early"] = np.where(late, "control", adata.obs["treatment"].astype(str))
    for given, message in (
        ({"condition_key": "tretment"}, "no 'tretment' in obs .*did you mean 'treatment'"),
        ({"condition_key": "one"}, "one condition only after the first time: a"),
        ({"condition_key": "gap"}, "1 cells have no entry in obs.'gap'.: cell3; remove"),
        ({"condition_key": "early"}, "at 7 obs.'early'. has fewer than 5 cells of treated"),
        ({"condition_key": "treatment", "reference": "contol"}, "did you mean 'control'"),
        ({"condition_key": "treatment", "batch_key": "bacth"}, "did you mean 'batch'"),
        ({"condition_key": "treatment", "n_permutations": 9}, "at least 19, got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            cells.tl.conditions(adata, **given)
    with pytest.raises(ValueError, match="no 'tretment' in obs"):
        cells.fit(adata, **FIT, condition_key="tretment")


def test_descendants_are_expected_along_the_plans_with_their_growth():
    rng = np.random.default_rng(0)
    one, two = (sparse.csr_matrix(rng.dirichlet(np.ones(5), n)) for n in (4, 5))
    w = [rng.uniform(0.5, 2, n) for n in (4, 5)]
    values = [rng.normal(size=(n, 2)) for n in (4, 5, 5)]
    expected, numbers = expected_of_first(values, [one, two], w)
    first = one.toarray() @ values[1]
    np.testing.assert_allclose(expected[0], first)
    np.testing.assert_allclose(numbers[0], w[0])
    grown = w[0][:, None] * one.toarray() * w[1]
    np.testing.assert_allclose(numbers[1], (grown @ two.toarray()).sum(axis=1))
    mass = grown @ two.toarray()
    np.testing.assert_allclose(expected[1], mass @ values[2] / mass.sum(axis=1)[:, None])


def test_the_level_holds_where_first_cells_differ_and_all_go_on_as_predicted():
    rng, pvalues = np.random.default_rng(0), []
    for _ in range(200):
        labels = [np.repeat([0.0, 1.0], [60, 30]) for _ in range(2)]
        # The condition is ahead by 1 and of another variance, at first and later.
        values = [
            (1 + one)[:, None] * rng.normal(size=(90, 2)) + one[:, None] * [1.0, 0.0]
            for one in labels
        ]
        strata = [np.zeros(90, int)] * 2
        found = compare(
            values, [values[0]], [np.ones(90)], labels, strata, n_permutations=39, rng=rng
        )
        pvalues.append(found.pvalue)
    assert np.mean(np.array(pvalues) <= 0.05) < 0.1
    moved = [values[0], values[1] + labels[1][:, None] * [0.0, 3.0]]
    found = compare(moved, [values[0]], [np.ones(90)], labels, strata, n_permutations=39, rng=rng)
    assert found.pvalue <= 0.05


def test_a_small_difference_is_seen_within_batches_that_differ_more():
    rng = np.random.default_rng(0)
    strata = [np.repeat([0, 1], 60)] * 2
    labels = [np.tile(np.repeat([0.0, 1.0], [48, 12]), 2) for _ in range(2)]
    labels[1][60:] = 1 - labels[1][60:]
    first, later = (rng.normal(size=(120, 1)) + 30 * strata[0][:, None] for _ in range(2))
    later -= 2 * labels[1][:, None]  # against what the batches do
    given = {"n_permutations": 99, "rng": rng}
    within = compare([first, later], [first], [np.ones(120)], labels, strata, **given)
    assert within.pvalue <= 0.02


def test_test_functions_are_standard_and_holm_is_his():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    f = standardised(np.concatenate([x, 2 * x[:, :1], np.ones((300, 1))], axis=1))
    assert f.shape == (300, 3)
    np.testing.assert_allclose(f.T @ f / 300, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03])), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])


def test_a_difference_is_found_again_from_displacements():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(800, 3)) * [2.0, 1.0, 1.0]
    basis = make_basis(points)
    sums = NormalEquations(basis, 2)
    shared, own = np.array([0.5, 0.0, 0.3]), np.array([0.0, 1.0, 0.0])
    for condition, half in enumerate((slice(400), slice(400, 800))):
        left = shared + (condition - 0.5) * own + 0.1 * rng.normal(size=(400, 3))
        sums.add(condition, points[half], left / basis.length, np.ones(400))
    found = sums.solved(("a", "b"))
    away = found.drift(points, "b") - found.drift(points, "a")
    np.testing.assert_allclose(away.mean(axis=0), own, atol=0.05)
    np.testing.assert_allclose(away, np.tile(own, (800, 1)), atol=0.4)
