"""Names of datasets, and settings that contradict themselves."""

from dataclasses import fields

import pytest

from data_generation.populations.settings import DataSettings
from jkonet_star.settings import CouplingSettings, DensitySettings


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (
            {"potential": "styblinski_tang"},
            "potential_styblinski_tang_internal_none_beta_0.0_interaction_none_dt_0.01_T_5_dim_2"
            "_N_1000_gmm_10_seed_0",
        ),
        (
            {
                "potential": "flat",
                "internal": "wiener",
                "beta": 0.2,
                "unpaired": True,
                "substeps": 10,
                "sinkhorn": 0.1,
                "batch_size": -1,
                "test_ratio": 0.2,
                "dt": 1,
            },
            "potential_flat_internal_wiener_beta_0.2_interaction_none_dt_1.0_T_5_dim_2_N_1000"
            "_gmm_10_seed_0_batch_-1_test_0.2_sinkhorn_0.1_unpaired_substeps_10",
        ),
        ({"load_from_file": "some/where/my cells.npz"}, "my-cells"),
        (
            {"load_from_file": "eb.npz", "split_population": True, "seed": 3, "density": "kde"},
            "eb_seed_3_split_population_density_kde",
        ),
        ({"dataset_name": "mine", "seed": 3}, "mine"),
    ],
)
def test_names(changes, name):
    assert DataSettings(**changes).name == name


def test_every_argument_that_matters_changes_the_name():
    """Otherwise two different datasets would meet in one folder."""
    base = {"potential": "flat", "internal": "wiener"}
    changes = {
        "potential": "sphere", "n_timesteps": 4, "dt": 0.02, "internal": "none", "beta": 0.1,
        "interaction": "flat", "dimension": 3, "n_particles": 10, "batch_size": 10,
        "n_gmm_components": 3, "seed": 1, "test_ratio": 0.1, "split_population": True,
        "leave_one_out": 1, "sinkhorn": 0.1, "unpaired": True, "substeps": 2,
        "coupling": "sinkhorn", "density": "kde", "bandwidth_scale": 2.0,
        "tau_a": 0.9, "tau_b": 0.9, "rank": 5, "passes": 9, "max_iterations": 7, "threshold": 0.1,
    }  # fmt: skip
    file_only = {"time_key", "time_map", "representation", "n_components", "mass_key"}
    assert set(changes) == set(DataSettings().content) - file_only
    needed = {
        "rank": {"coupling": "low-rank"},
        "passes": {"coupling": "semidiscrete"},
        "bandwidth_scale": {"density": "kde"},
    }
    names = {DataSettings(**(base | needed.get(k, {}) | {k: v})).name for k, v in changes.items()}
    assert len(names | {DataSettings(**base).name}) == len(changes) + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"potential": "spere"}, "unknown potential 'spere'; did you mean sphere"),
        ({"interaction": "flatt"}, "unknown interaction 'flatt'; did you mean flat"),
        ({"internal": "weiner"}, "unknown internal energy 'weiner'; did you mean wiener"),
        ({"beta": 0.1}, "beta 0.1 needs --internal=wiener"),
        ({"internal": "wiener", "beta": -0.1}, "beta must be at least 0, got -0.1"),
        ({"internal": "wiener", "beta": float("nan")}, "beta must be at least 0, got nan"),
        ({"dt": 0.0}, "dt must be positive, got 0.0"),
        ({"dt": float("inf")}, "dt must be positive, got inf"),
        ({"n_timesteps": 0}, "n_timesteps must be at least 1, got 0"),
        ({"n_particles": 0}, "n_particles must be at least 1, got 0"),
        ({"dimension": -2}, "dimension must be at least 1, got -2"),
        ({"substeps": 0}, "substeps must be at least 1, got 0"),
        ({"test_ratio": 1.0}, r"test_ratio must lie in \[0, 1\), got 1.0"),
        ({"test_ratio": -0.2}, r"test_ratio must lie in \[0, 1\), got -0.2"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"n_gmm_components": -1}, "n_gmm_components must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be positive, or negative for one block, got 0"),
        ({"sinkhorn": 0.0}, "sinkhorn must be positive"),
        ({"sinkhorn": 0.1, "coupling": "exact"}, "--coupling=exact excludes it"),
        ({"sinkhorn": 0.1, "coupling": "semidiscrete"}, "--coupling=semidiscrete excludes it"),
        ({"coupling": "semidiscrete", "passes": 0}, "passes must be at least 1, got 0"),
        ({"coupling": "exakt"}, "did you mean exact"),
        ({"density": "kd"}, "did you mean kde"),
        ({"leave_one_out": 5}, "inner snapshot, 1 to 4, got 5"),
        ({"time_key": "day"}, "--time-key needs --load-from-file"),
        ({"n_components": 5}, "--n-components needs --load-from-file"),
        ({"load_from_file": "x.npy", "unpaired": True}, "--unpaired excludes --load-from-file"),
        ({"load_from_file": "x.npy", "n_particles": 7}, "--n-particles excludes"),
        ({"load_from_file": "x.npy", "n_components": 0}, "n_components must be at least 1"),
        ({"dataset_name": "../elsewhere"}, "dataset_name must be"),
        ({"dataset_name": ""}, "dataset_name must be"),
        ({"dataset_name": ".hidden"}, "dataset_name must be"),
    ],
)
def test_settings_name_what_is_wrong(changes, reason):
    with pytest.raises(ValueError, match=reason):
        DataSettings(**changes)


@pytest.mark.parametrize("name", ["load_from_file", "data_dir"])
def test_paths_have_no_control_characters(name):
    with pytest.raises(ValueError, match=f"{name} must be a path without control characters"):
        DataSettings(**{name: "cells\n.csv"})


def test_every_setting_of_couplings_and_densities_can_be_given():
    transport = {"tau_a": 0.9, "tau_b": 0.8, "max_iterations": 7, "threshold": 0.1}
    settings = DataSettings(
        coupling="sinkhorn",
        sinkhorn=0.2,
        batch_size=9,
        density="kde",
        bandwidth_scale=2.0,
        **transport,
    )
    assert settings.coupling_settings == CouplingSettings(
        method="sinkhorn", epsilon=0.2, batch_size=9, **transport
    )
    assert settings.density_settings == DensitySettings(method="kde", bandwidth_scale=2.0)
    low_rank = DataSettings(coupling="low-rank", rank=5, threshold=0.1).coupling_settings
    assert low_rank == CouplingSettings(method="low-rank", rank=5, threshold=0.1)
    potentials = DataSettings(coupling="semidiscrete", passes=9).coupling_settings
    assert potentials == CouplingSettings(method="semidiscrete", passes=9)
    declared = {f.name for kind in (CouplingSettings, DensitySettings) for f in fields(kind)}
    renamed = {"method", "epsilon"}
    assert declared - renamed <= {f.name for f in fields(DataSettings)}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 7}, "--rank needs --coupling=low-rank"),
        ({"passes": 7}, "--passes needs --coupling=semidiscrete"),
        ({"coupling": "semidiscrete", "batch_size": 7}, "--batch-size is of blocks"),
        ({"coupling": "semidiscrete", "max_iterations": 7}, "--max-iterations excludes"),
        ({"bandwidth_scale": 2.0}, "--bandwidth-scale needs --density=kde"),
        ({"coupling": "exact", "threshold": 0.1}, "--threshold excludes --coupling=exact"),
    ],
)
def test_what_would_do_nothing_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        DataSettings(**changes)


@pytest.mark.parametrize("method", ["exact", "low-rank", "semidiscrete"])
def test_what_is_balanced_is_refused_before_anything_is_made(method):
    with pytest.raises(ValueError, match="is balanced, but tau_a is 0.5"):
        DataSettings(coupling=method, tau_a=0.5)
