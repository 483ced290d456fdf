"""What is written back to the cells is the learned energy at each of them, whatever their order."""

import errno
import inspect
import shutil
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import load_energy, load_pretrained
from data_generation import __main__ as data_generation
from data_generation.populations.cells import read_cells, write_cells
from data_generation.populations.datasets import load_dataset
from experiments import annotate, train
from jkonet_star.cells import kept, tl
from jkonet_star.cells.annotation import annotate_cells
from jkonet_star.cells.fields import cell_fields, evaluation_time
from jkonet_star.settings import SCHEMES

anndata = pytest.importorskip("anndata")
pandas = pytest.importorskip("pandas")

COUNTS = {0.0: 40, 1.0: 25, 2.5: 31}


def cells(seed=0):
    """Cells that contract, in a random order, with times as categories."""
    rng = np.random.default_rng(seed)
    points = [
        np.exp(-0.3 * t) * rng.normal(size=(n, 3)) * [2.0, 1.0, 5.0] + 1 for t, n in COUNTS.items()
    ]
    times = np.repeat(list(COUNTS), list(COUNTS.values()))
    order = rng.permutation(len(times))
    names = [f"cell{i}" for i in order]
    obs = pandas.DataFrame(
        {"day": pandas.Categorical([f"{t:g}" for t in times[order]])}, index=names
    )
    data = anndata.AnnData(X=rng.poisson(2.0, (len(times), 4)).astype(np.float32), obs=obs)
    data.obsm["X_lsi"] = np.concatenate(points)[order].astype(np.float32)
    return data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of cells, the run that learned from it, and the cells annotated by the script."""
    path = tmp_path_factory.mktemp("cells")
    cells().write_h5ad(path / "cells.h5ad")
    read = ["--time-key=day", "--representation=X_lsi", "--n-components=2"]
    source = [f"--load-from-file={path / 'cells.h5ad'}", "--n-gmm-components=0"]
    places = [f"--data-dir={path / 'data'}"]
    assert data_generation.run([*source, *read, *places, "--dataset-name=cells"]) == 0
    learn = ["--solver=jkonet-star-linear-interaction", "--degree=2", "--radial-centers=2"]
    where = [f"--dataset={path / 'data' / 'cells'}", f"--runs-dir={path / 'runs'}", "--noplots"]
    assert train.run([*learn, *where, "--run-name=run"]) == 0
    flags = [f"--h5ad={path / 'cells.h5ad'}", f"--run={path / 'runs' / 'run'}"]
    assert annotate.run([*flags, f"--out={path / 'new' / 'annotated.h5ad'}"]) == 0
    return SimpleNamespace(
        path=path,
        flags=flags,
        energy=load_energy(path / "runs" / "run" / "energy").member(0),
        annotated=anndata.read_h5ad(path / "new" / "annotated.h5ad"),
    )


def by_hand(energy, x, others):
    """V(x), mean_j U(x - y_j), in double precision where sums are concerned."""
    pulls = np.asarray(energy.interaction(jnp.asarray(x - others)), np.float64)
    return float(energy.potential(jnp.asarray(x))), pulls.mean()


def test_every_cell_gets_the_energy_at_its_place_among_its_snapshot(made):
    data, energy = made.annotated, made.energy
    x = np.asarray(data.obsm["X_lsi"][:, :2], np.float32)
    drift = data.obsm["jkonet_drift"]
    assert drift.shape == x.shape
    for i in (0, 17, 60, 95):
        others = x[(data.obs["day"] == data.obs["day"].iloc[i]).to_numpy()]
        potential, interaction = by_hand(energy, x[i], others)
        found = {n: data.obs[f"jkonet_{n}"].iloc[i] for n in ("potential", "interaction", "energy")}
        scale = abs(interaction) + 1
        assert found["potential"] == pytest.approx(potential, abs=1e-5)
        assert found["interaction"] == pytest.approx(interaction, abs=1e-4 * scale)
        assert found["energy"] == pytest.approx(potential + interaction, abs=1e-4 * scale)
        # The drift descends that energy, its neighbours held: central differences.
        h = 0.02
        for axis in range(2):
            ahead, behind = x[i].copy(), x[i].copy()
            ahead[axis] += h
            behind[axis] -= h
            slope = (sum(by_hand(energy, ahead, others)) - sum(by_hand(energy, behind, others))) / (
                ahead[axis] - behind[axis]
            )
            assert drift[i, axis] == pytest.approx(
                -slope, abs=5e-3 * float(1 + np.abs(drift[i]).max())
            )
    assert np.abs(drift).max() > 0.1


def test_nothing_else_changes_and_the_file_says_how(made):
    data, before = made.annotated, cells()
    np.testing.assert_array_equal(data.X, before.X)
    assert list(data.obs_names) == list(before.obs_names)
    assert list(data.obs["day"]) == list(before.obs["day"])
    np.testing.assert_array_equal(data.obsm["X_lsi"], before.obsm["X_lsi"])
    about = data.uns["jkonet"]
    assert (about["representation"], about["time_key"]) == ("X_lsi", "day")
    assert (about["dimension"], about["scheme"], about["seed"]) == (2, "explicit", 0)
    assert (about["solver"], about["dataset"]) == ("jkonet-star-linear-interaction", "cells")
    np.testing.assert_array_equal(about["training_times"], list(COUNTS))
    training = np.concatenate(load_dataset(made.path / "data" / "cells").train.arrays())
    x = data.obsm["X_lsi"][:, :2]
    outside = [(row < training.min(0)).any() or (row > training.max(0)).any() for row in x]
    assert about["share_outside_training_range"] == pytest.approx(np.mean(outside))
    assert not list((made.path / "new").glob(".*"))


def test_the_energy_is_kept_for_whoever_asks_more(made):
    data = made.annotated.copy()
    np.testing.assert_array_equal(data.obsm["jkonet_velocity"], data.obsm["jkonet_drift"])
    model = kept(data)
    assert (model.use_rep, model.time_key, model.unit) == ("X_lsi", "day", "")
    x = jnp.asarray(data.obsm["X_lsi"][:5, :2])
    np.testing.assert_array_equal(model.energy.potential(x), made.energy.potential(x))
    before = data.obs["jkonet_energy"].to_numpy()
    tl.potential(data)
    np.testing.assert_allclose(data.obs["jkonet_energy"], before, rtol=1e-5)
    tl.transitions(data)
    np.testing.assert_allclose(data.obsp["jkonet_transitions"].sum(axis=1), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="would be lost: choose another prefix"):
        annotate_cells(data, made.energy, representation="X_lsi", time_key="day")


def test_times_are_those_of_the_training_data(made):
    data = cells()
    data.obs["day"] = data.obs["day"].map({"0": "early", "1": "mid", "2.5": "late"})
    time_map = {"early": 0.0, "mid": 1.0, "late": 2.5}
    given = {"representation": "X_lsi", "time_key": "day"}
    annotate_cells(data, made.energy, **given, time_map=time_map)
    found = data.obs["jkonet_energy"]
    np.testing.assert_allclose(found, made.annotated.obs["jkonet_energy"], rtol=1e-5)
    assert kept(data).time_map == time_map
    with pytest.raises(ValueError, match="in no unit, the energy was learned in day"):
        annotate_cells(cells(), made.energy, **given, unit="day")


def test_chunks_change_nothing(made, monkeypatch):
    x = np.asarray(made.annotated.obsm["X_lsi"][:, :2])
    times = made.annotated.obs["day"].astype(float).to_numpy()
    whole = cell_fields(made.energy, x, times)
    monkeypatch.setattr("jkonet_star.cells.fields.ROWS_AT_ONCE", 13)
    for a, b in zip(whole, cell_fields(made.energy, x, times), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_time_is_where_the_scheme_has_learned():
    times = np.array([1.0, 2.0, 4.0])
    expected = {  # at 0, 1, 1.5, 2, 4, 9
        "explicit": [1.0, 1.0, 1.5, 2.0, 2.0, 2.0],
        "midpoint": [1.5, 1.5, 2.0, 3.0, 3.0, 3.0],
        "implicit": [2.0, 2.0, 2.5, 4.0, 4.0, 4.0],
    }
    assert set(expected) == set(SCHEMES)
    for scheme, values in expected.items():
        energy = SimpleNamespace(time_values=lambda: times, scheme=scheme)
        at = inspect.unwrap(evaluation_time)  # whose type the double has not
        found = [at(energy, t) for t in (0.0, 1.0, 1.5, 2.0, 4.0, 9.0)]
        assert found == values


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run={path}"], "{path} is not the folder of a run"),
        (["--h5ad={path}/none.h5ad"], "{path}/none.h5ad: no such file"),
        (["--h5ad={path}/damaged.h5ad"], "not an AnnData file, or damaged"),
        (["--out={path}/cells.h5ad"], "{path}/cells.h5ad already exists"),
        (
            ["--representation=X_pca"],
            "cells.h5ad: no 'X_pca' in obsm (--representation); available",
        ),
        (["--time-key=week"], "no 'week' in obs (--time-key); available: day"),
        (["--seed-index=1"], "no member 1 in a stack of 1"),
        (["--h5ad={path}/narrow.h5ad"], "has shape (96, 1); 2 coordinates are asked for"),
        (["--h5ad={path}/hole.h5ad"], "1 of 96 cells have NaN or inf in obsm['X_lsi']"),
        (["--run={path}/runs/unfinished"], "holds no energy"),
        (
            ["--run={path}/runs/simulated"],
            "read from x.npy, which says nothing of an entry of obsm",
        ),
        (["--prefix=a b"], "prefix must be a name"),
        (["--time-map=early"], "time_map must be like early=0,late=2.5, got 'early'"),
        (["--time-map=0=0,1=1"], "--time-map says nothing of '2.5' in obs['day']"),
        (["--h5ad={path}/x.zarr"], "{path}/x.zarr: is of zarr; anndata.read_zarr"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(made, flags, message, capsys):
    path = made.path
    (path / "damaged.h5ad").write_bytes(b"no HDF5")
    for name, change in (
        ("narrow", lambda x: x[:, :1].copy()),
        ("hole", lambda x: np.where(np.arange(len(x))[:, None] == 5, np.nan, x)),
    ):
        data = cells()
        data.obsm["X_lsi"] = change(data.obsm["X_lsi"])
        data.write_h5ad(path / f"{name}.h5ad")
    for name in ("unfinished", "simulated"):
        shutil.copytree(path / "runs" / "run", path / "runs" / name, dirs_exist_ok=True)
    shutil.rmtree(path / "runs" / "unfinished" / "energy")
    if "simulated" in flags[0]:
        foreign = path / "data" / "foreign"
        shutil.copytree(path / "data" / "cells", foreign, dirs_exist_ok=True)
        for file in (foreign / "metadata.json", path / "runs" / "simulated" / "config.json"):
            text = file.read_text().replace("data/cells", "data/foreign")
            file.write_text(text.replace("cells.h5ad", "x.npy"))
    out = path / "out" / "new.h5ad"
    given = [*made.flags, f"--out={out}", *(flag.format(path=path) for flag in flags)]
    assert annotate.run(given) == 2
    error = capsys.readouterr().err
    assert message.format(path=path) in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_without_anndata_the_extra_is_named(made, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "anndata", None)
    assert annotate.run([*made.flags, f"--out={made.path / 'x.h5ad'}"]) == 2
    assert "pip install 'jkonet-diffusions[bio]'" in capsys.readouterr().err


def test_times_are_needed_only_where_they_matter(made):
    data = cells()
    with pytest.raises(ValueError, match="no 'time' in obs"):
        annotate_cells(data, made.energy, representation="X_lsi")
    assert not [name for name in data.obs if name.startswith("jkonet")]
    alone = load_pretrained("styblinski_tang")
    annotate_cells(data, alone, representation="X_lsi", prefix="alone")
    x = jnp.asarray(data.obsm["X_lsi"][:, :2])
    np.testing.assert_allclose(data.obs["alone_potential"], alone.potential(x), rtol=1e-4)
    np.testing.assert_array_equal(data.obs["alone_energy"], data.obs["alone_potential"])
    np.testing.assert_allclose(data.obsm["alone_drift"], alone.drift(x), rtol=1e-3, atol=1e-4)
    assert "alone_interaction" not in data.obs


def test_the_room_for_cells_is_looked_for_before(tmp_path, monkeypatch):
    """HDF5 on a full disk prints tracebacks, and has ended the process."""
    names = np.arange(20_000).astype(str)
    cells = anndata.AnnData(
        obs=pandas.DataFrame(index=names), obsm={"X_pca": np.zeros((20_000, 3))}
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=700_000))
    with pytest.raises(OSError, match="No space left on device") as full:
        write_cells(cells, tmp_path / "x.h5ad")
    assert full.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    write_cells(cells[:10], tmp_path / "x.h5ad")
    assert read_cells(tmp_path / "x.h5ad").n_obs == 10
