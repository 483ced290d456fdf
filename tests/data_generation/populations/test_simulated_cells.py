"""The simulated experiment is what its equations say."""

import inspect

import numpy as np
import pytest

from data_generation.populations.simulated_cells import (
    BRANCHES,
    DAYS,
    DEPTH,
    ETA,
    GAMMA,
    KAPPA,
    LABELS,
    SPEED,
    branch,
    difference,
    drift,
    growth,
    simulated_cells,
    true_fates,
)


@pytest.fixture(scope="module")
def made():
    return simulated_cells(0, n_cells=600, n_genes=250)


def potential(z):
    """Equation (1), written again."""
    p, q = z[0], z[1:]
    s, r = 1 / (1 + np.exp(-4 * (p - 1))), q @ q
    cubic = np.real((q[0] + 1j * q[1]) ** 3)
    return -SPEED * p + DEPTH * (r**2 / 4 + r / 2 - s * (r + cubic / 3))


def test_cells_move_down_the_potential():
    rng, h = np.random.default_rng(0), 1e-5
    for z in rng.normal(size=(5, 3)) + [1.0, 0.0, 0.0]:
        slope = [(potential(z + h * e) - potential(z - h * e)) / (2 * h) for e in np.eye(3)]
        np.testing.assert_allclose(drift(z[None])[0], -np.array(slope), atol=1e-7)


def test_branches_are_valleys_with_their_own_growth():
    angle = 2 * np.pi * np.arange(3) / 3
    far = np.stack([np.full(3, 3.0), 1.6 * np.cos(angle), 1.6 * np.sin(angle)], axis=1)
    assert branch(far).tolist() == [0, 1, 2]
    assert branch(np.zeros((1, 3))).tolist() == [-1]
    np.testing.assert_allclose(growth(far), GAMMA, atol=0.01)
    across = drift(far)[:, 1:] @ np.stack([-np.sin(angle), np.cos(angle)])
    np.testing.assert_allclose(np.diag(across), 0.0, atol=1e-12)


def test_what_the_object_holds(made):
    assert made.shape == (600, 250)
    assert list(made.obs["day"].cat.categories) == list(LABELS)
    assert set(made.obs["cell_type"]) == {"progenitor", *BRANCHES}
    assert set(made.var["true_driver"]) == {"", *BRANCHES}
    first = made.obs["day"] == "d0"
    assert (made.obs["cell_type"][first] == "progenitor").mean() > 0.95
    assert (made.obs["cell_type"][made.obs["day"] == "d7"] != "progenitor").mean() > 0.95
    back = made.obsm["X_pca"] @ made.varm["PCs"].T + made.X.mean(axis=0)
    assert np.mean((back - made.X) ** 2) < np.mean((made.X - made.X.mean(axis=0)) ** 2)
    totals = made.layers["counts"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.expm1(made.X).sum(axis=1), 1e4, rtol=1e-3)
    assert (totals > 500).all()


def test_drivers_are_high_on_their_branch(made):
    kind = made.obs["cell_type"].to_numpy()
    for name in BRANCHES:
        own = made.X[:, (made.var["true_driver"] == name).to_numpy()]
        assert own[kind == name].mean() > own[kind != name].mean() + 0.5


def test_clones_are_seen_on_several_days_and_end_as_their_fates_say(made):
    days = made.obs.groupby("clone", observed=True)["day"].nunique()
    assert (days > 1).any()
    fates = made.obsm["true_fates"]
    np.testing.assert_allclose(fates.sum(axis=1), 1.0)
    late = (made.obs["day"] == "d7").to_numpy()
    kinds = made.obs["cell_type"].to_numpy()[late]
    committed = kinds != "progenitor"
    own = np.array(BRANCHES)[fates[late].argmax(axis=1)]
    assert (own[committed] == kinds[committed]).all()


def test_what_grows_has_more_descendants():
    """From the fork's middle the shares of the branches are those of exp(integral of g)."""
    z = np.tile([[1.5, 0.0, 0.0]], (400, 1))
    share = true_fates(z, np.full(400, DAYS[1])).mean(axis=0)
    assert share[0] > share[1] > share[2]
    odds = share[0] / share[2]
    assert 2.0 < odds < np.exp((GAMMA[0] - GAMMA[2]) * (DAYS[-1] - DAYS[1]))


def test_numbers_are_those_of_a_population_that_grows(made):
    masses = made.uns["masses"]
    assert masses[0] < masses[2] < masses[3]


def test_the_seed_decides(made):
    again = simulated_cells(0, n_cells=600, n_genes=250)
    np.testing.assert_array_equal(again.X, made.X)
    np.testing.assert_array_equal(again.obsm["true_state"], made.obsm["true_state"])
    other = simulated_cells(1, n_cells=600, n_genes=250)
    assert not np.array_equal(other.obsm["true_state"], made.obsm["true_state"])


def test_a_treatment_changes_what_it_says():
    start, branched, entered = (
        simulated_cells(0, n_cells=500, n_genes=200, treatment=treatment)
        for treatment in ("start", "branch", "entry")
    )
    treated = (start.obs["treatment"] == "treated").to_numpy()
    assert treated.sum() == 250
    early = (start.obs["day"] == "d0").to_numpy()

    def progress(data, some):
        return data.obsm["true_state"][some, 0].mean()

    assert progress(start, early & treated) > progress(start, early & ~treated) + 0.1
    assert not start.obsm["true_difference"].any()
    a = (branched.obs["cell_type"] == "A").to_numpy()
    own = (branched.obs["treatment"] == "treated").to_numpy()
    late = (branched.obs["day"] == "d7").to_numpy()
    assert progress(branched, own & late & a) < progress(branched, ~own & late & a) - 0.3
    far = np.array([[3.0, 1.5, 0.0], [3.0, -0.75, 1.3]])
    expected = [[-KAPPA * SPEED, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(difference(far, "branch"), expected, atol=2e-3)
    np.testing.assert_allclose(difference(np.array([[1.0, 0.3, 0.2]]), "entry"), [[0, ETA, 0]])
    own = (entered.obs["treatment"] == "treated").to_numpy()
    last = (entered.obs["day"] == "d7").to_numpy()
    shares = [(entered.obs["cell_type"][last & some] == "A").mean() for some in (own, ~own)]
    assert shares[0] > shares[1] + 0.1
    first = (entered.obs["day"] == "d0").to_numpy()
    fates = entered.obsm["true_fates"][:, 0]
    assert fates[own & first].mean() > fates[~own & first].mean() + 0.1
    moved = entered.obsm["true_velocity"] - drift(entered.obsm["true_state"])
    np.testing.assert_allclose(moved[own], entered.obsm["true_difference"][own], atol=1e-12)
    assert not moved[~own].any()
    assert not set(entered.obs["clone"][own]) & set(entered.obs["clone"][~own])


def test_cells_of_a_clone_go_alike_with_kinship():
    apart, kin = (
        simulated_cells(0, n_cells=600, n_genes=200, kinship=rho).obs for rho in (0.0, 0.95)
    )

    def alike(obs):
        late = obs[(obs["day"] == "d7") & (obs["cell_type"] != "progenitor")]
        each = late.groupby("clone", observed=True)["cell_type"].agg(["size", "nunique"])
        return (each["nunique"][each["size"] > 1] == 1).mean()

    assert alike(kin) > alike(apart) + 0.15


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_genes": 199}, "at least 200, got 199"),
        ({"n_cells": 99}, "at least 100, got 99"),
        ({"treatment": "brnch"}, "one of none, start, branch, entry, or None, got 'brnch'"),
        ({"kinship": 1.0}, "below 1, got 1"),
    ],
)
def test_what_cannot_be_simulated(given, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(simulated_cells)(0, **given)
