"""Dataset folders: what they hold, and that they are complete or absent."""

import dataclasses
import hashlib
import json
import os
import shutil
import tracemalloc

import jax
import numpy as np
import pytest

import data_generation.populations.datasets as datasets
from data_generation.populations.dataset_checks import check_archives_content
from data_generation.populations.dataset_metadata import identity
from data_generation.populations.datasets import find_dataset, generate_dataset, load_dataset
from data_generation.populations.settings import DataSettings
from diffusions.keys import named_key
from jkonet_star.densities import GaussianMixtures, fit_densities, to_arrays
from jkonet_star.transport.couplings import couple

SMALL = {"potential": "sphere", "n_particles": 30, "n_gmm_components": 2, "n_timesteps": 3}


def settings(folder, **changes):
    return DataSettings(**{**SMALL, "data_dir": str(folder), **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate_dataset(settings(tmp_path_factory.mktemp("made")))


def edit(folder, change):
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))


def rewritten(folder, archive, change):
    """The folder with changed arrays, and metadata that agree with them."""
    with np.load(folder / f"{archive}.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(folder / f"{archive}.npz", **arrays)
    checksum = hashlib.sha256((folder / f"{archive}.npz").read_bytes()).hexdigest()

    def agree(metadata):
        metadata["shapes"][archive] = {name: list(a.shape) for name, a in arrays.items()}
        metadata["checksums"][f"{archive}.npz"] = checksum

    edit(folder, agree)


@pytest.fixture
def copy(made, tmp_path):
    """A dataset of its own to damage, and the settings that describe it.

    Of an older release: it holds densities.
    """
    folder = tmp_path / made.name
    shutil.copytree(made.path, folder)
    np.savez(folder / "densities.npz", **to_arrays(made.densities))
    rewritten(folder, "densities", lambda arrays: None)
    return folder, settings(tmp_path)


def entries(folder):
    """Every file below a folder, with its content."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def assert_same_arrays(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


def test_round_trip(made):
    loaded = load_dataset(made.path)
    for part in ("train", "test", "couplings", "densities"):
        assert_same_arrays(getattr(loaded, part), getattr(made, part))
    assert loaded.metadata == made.metadata
    assert loaded.name == made.name
    assert loaded.truth == {"potential": "sphere", "interaction": "none", "beta": 0.0}


def test_the_folder_describes_itself(made):
    files = sorted(p.name for p in made.path.iterdir())
    assert files == [
        "couplings.npz",
        "metadata.json",
        "snapshots.png",
        "test.npz",
        "train.npz",
    ]
    metadata = json.loads((made.path / "metadata.json").read_text())
    assert metadata["schema_version"] == 2
    assert metadata["arguments"] == dataclasses.asdict(settings(made.path.parent))
    assert metadata["shapes"]["train"]["points"] == [4, 30, 2]
    assert metadata["created_by"].startswith("jkonet-diffusions")
    for name, checksum in metadata["checksums"].items():
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == checksum
    assert [report["step"] for report in metadata["couplings"]] == [0, 1, 2]
    np.testing.assert_allclose(metadata["times"]["train"], [0, 0.01, 0.02, 0.03], rtol=1e-6)


def test_the_picture_is_an_image_of_the_snapshots(made):
    from matplotlib.image import imread

    image = imread(made.path / "snapshots.png")[..., :3]
    assert image.shape[0] > 300
    colours = np.unique(np.round(image.reshape(-1, 3), 1), axis=0)
    assert len(colours) > 10  # not an empty page


def test_simulated_particles_follow_the_potential(made):
    train, test = np.asarray(made.train.points), np.asarray(made.test.points)
    np.testing.assert_allclose(train[1:], 1.2 * train[:-1], rtol=1e-5)
    np.testing.assert_allclose(test[1:], 1.2 * test[:-1], rtol=1e-5)
    assert not np.isclose(train[0], test[0]).all(axis=1).any()


def test_couplings_and_densities_are_those_of_the_training_population(made):
    assert int(made.couplings.step.max()) == 2
    moved = np.asarray(made.train.points)
    step, source, target = (
        np.asarray(getattr(made.couplings, f)) for f in ("step", "source", "target")
    )
    # A gradient flow of a quadratic moves every particle to its own image optimally.
    np.testing.assert_array_equal(source, target)
    cost = ((moved[step + 1, target] - moved[step, source]) ** 2).sum(axis=1)
    weight = np.asarray(made.couplings.weight)
    for report in made.metadata["couplings"]:
        mine = step == report["step"]
        np.testing.assert_allclose(cost[mine] @ weight[mine], report["cost"], rtol=1e-4)


def test_an_existing_dataset_is_reused(copy, monkeypatch):
    folder, same = copy
    before = entries(folder)
    monkeypatch.setattr(datasets, "simulate", lambda *a, **k: pytest.fail("simulated again"))
    assert generate_dataset(same).path == folder
    assert entries(folder) == before


def test_the_same_seed_makes_the_same_bytes(made, tmp_path):
    again = generate_dataset(settings(tmp_path))
    for name, checksum in made.metadata["checksums"].items():
        assert again.metadata["checksums"][name] == checksum
    other = generate_dataset(settings(tmp_path, seed=1))
    for name, checksum in made.metadata["checksums"].items():
        assert other.metadata["checksums"][name] != checksum


def test_overwriting_replaces_a_damaged_dataset(copy):
    folder, same = copy
    (folder / "train.npz").write_bytes(b"damage")
    generate_dataset(dataclasses.replace(same, overwrite=True))
    assert find_dataset(same) is not None
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]


def test_overwriting_leaves_a_foreign_folder_alone(tmp_path):
    same = settings(tmp_path, overwrite=True)
    folder = tmp_path / same.name
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="--overwrite leaves it alone"):
        generate_dataset(same)
    assert (folder / "thesis.txt").read_text() == "precious"


def with_a_thesis(folder):
    (folder / "thesis.txt").write_text("precious")


def with_a_folder_for_an_archive(folder):
    (folder / "densities.npz").unlink()
    (folder / "densities.npz").mkdir()
    with_a_thesis(folder / "densities.npz")


def with_other_metadata(folder):
    (folder / "metadata.json").write_text('{"schema_version": 1, "title": "my photographs"}')


def with_damaged_metadata(folder):
    (folder / "metadata.json").write_text('{"schema_ver')


def behind_a_link(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_a_thesis, "also holds thesis.txt, which no dataset has"),
        (with_a_folder_for_an_archive, "also holds densities.npz"),
        (with_other_metadata, "is not a dataset's metadata"),
        (with_damaged_metadata, "metadata.json is damaged"),
        (behind_a_link, "is not a dataset folder"),
    ],
)
def test_overwriting_replaces_nothing_but_a_dataset(change, reason, copy, monkeypatch):
    folder, same = copy
    change(folder)
    before = {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}
    monkeypatch.setattr(datasets, "simulate", lambda *a, **k: pytest.fail("worked in vain"))
    with pytest.raises(ValueError, match=f"{reason}.*--overwrite.*leaves"):
        generate_dataset(dataclasses.replace(same, overwrite=True))
    assert {p: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()} == before


def test_what_came_while_a_dataset_was_made_stays(copy, monkeypatch):
    folder, same = copy
    monkeypatch.setattr(datasets, "_draw", lambda *a, **k: with_a_thesis(folder))
    with pytest.raises(ValueError, match="also holds thesis.txt"):
        generate_dataset(dataclasses.replace(same, overwrite=True))
    assert (folder / "thesis.txt").read_text() == "precious"
    assert load_dataset(folder) is not None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


ARCHIVES = ("train", "test", "couplings", "densities")


@pytest.mark.parametrize("name", [f"{name}.npz" for name in ARCHIVES])
def test_a_missing_archive_is_named(copy, name):
    folder, same = copy
    (folder / name).unlink()
    for read in (lambda: generate_dataset(same), lambda: load_dataset(folder)):
        with pytest.raises(ValueError, match=f"incomplete: {name} is missing"):
            read()


@pytest.mark.parametrize("name", [f"{name}.npz" for name in ARCHIVES])
def test_a_damaged_archive_is_named(copy, name):
    folder, same = copy
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    for read in (lambda: generate_dataset(same), lambda: load_dataset(folder)):
        with pytest.raises(ValueError, match=f"{name} is damaged: its checksum"):
            read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(schema_version=3), "schema version 3; this release reads up to 2"),
        (lambda m: m.pop("schema_version"), "no schema_version"),
        (lambda m: m.pop("checksums"), "damaged: it has no checksums"),
        (lambda m: m.pop("truth"), "damaged: it has no truth"),
        (lambda m: m.update(truth={"potential": "sphere"}), "truth has no interaction"),
        (lambda m: m["truth"].update(potential="spere"), "'spere'; did you mean sphere"),
        (lambda m: m["truth"].update(beta="much"), "beta must be a number, got 'much'"),
        (
            lambda m: m["arguments"].update(dt=-1.0),
            "arguments make no dataset: dt must be positive",
        ),
        (lambda m: m.update(split=3), "split must be an object"),
        (lambda m: m["couplings"].pop(), "metadata.json describes 2 couplings of 3 steps"),
        (lambda m: m["couplings"][0].pop("cost"), "has no cost"),
        (lambda m: m["counts"].update(train=[30, 30, 30, 29]), "train holds .* says"),
        (lambda m: m["times"].update(test=[0.0]), "other times than those of test"),
        (lambda m: m["times"].update(test=0.0), "test must be a list"),
        (lambda m: m["checksums"].update({"../x.npz": "0" * 64}), "of other archives"),
        (lambda m: m["shapes"].update({"../x": {}}), "unknown archive '../x'"),
        (lambda m: m["checksums"].update({"train.npz": "x"}), "checksum of train.npz is none"),
        (lambda m: m["shapes"]["train"].update(points=[4, 31, 2]), "metadata.json says"),
    ],
)
def test_metadata_is_checked(copy, change, reason):
    edit(copy[0], change)
    with pytest.raises(ValueError, match=reason):
        load_dataset(copy[0])


@pytest.mark.parametrize("content", ["[" * 10_000, "9" * 400, '{"a": 1, "a": 1}', "NaN", "[]", "3"])
def test_hostile_metadata(copy, content):
    (copy[0] / "metadata.json").write_text(content)
    with pytest.raises(ValueError, match=r"metadata\.json is ") as error:
        load_dataset(copy[0])
    assert "\n" not in str(error.value)


def assign(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


def convert(name, function):
    def change(arrays):
        arrays[name] = function(arrays[name])

    return change


WRONG = [
    ("train", assign("points", (1, 2, 0), np.nan), "points of train has 1 NaN or infinite"),
    ("test", assign("points", (0, 0), np.inf), "points of test has 2 NaN or infinite"),
    ("train", convert("points", lambda a: a * np.float32(1e25)), "do not fit single precision"),
    ("train", convert("points", lambda a: a.astype(np.float64)), "must be float32, got float64"),
    ("train", convert("points", lambda a: a[..., 0]), "must have 3 axes"),
    ("train", convert("points", lambda a: a[:, :20]), "where n is 20 elsewhere"),
    ("test", convert("points", lambda a: a[..., :1]), "where d is 2 elsewhere"),
    ("train", convert("times", lambda a: a[::-1].copy()), "strictly increasing"),
    ("train", convert("times", lambda a: a * 3), "test has no snapshot at the training time 0.06"),
    ("train", assign("times", 2, np.nan), "times of train has 1 NaN"),
    ("train", assign("weights", (0, 0), -1.0), "weights of train has negative"),
    ("train", convert("weights", lambda a: a / 2), "must sum to 1, got 0.5"),
    ("train", lambda a: a.pop("times"), "train has no times"),
    ("train", lambda a: a.update(more=np.zeros(3)), "train has the unknown entry 'more'"),
    ("couplings", assign("weight", 3, np.nan), "weight of couplings has 1 NaN"),
    ("couplings", assign("weight", 3, -1.0), "weight of couplings has negative"),
    ("couplings", convert("weight", lambda a: a * 2), "of one step, must sum to 1, got 2"),
    ("couplings", assign("step", 0, 3), "step of couplings must lie between 0 and 2, got 3"),
    ("couplings", assign("source", 0, 30), "source of couplings must lie between 0 and 29, got 30"),
    ("couplings", assign("target", 0, -1), "target of couplings must lie between 0 and 29, got -1"),
    ("couplings", convert("step", lambda a: a.astype(np.float32)), "must be int32, got float32"),
    ("couplings", convert("step", np.zeros_like), "of one step, must sum to 1"),
    ("couplings", convert("source", lambda a: a[:-1]), "elsewhere"),
    ("densities", lambda a: a.update(kind=np.array("spline")), "unknown kind 'spline'"),
    ("densities", convert("means", lambda a: a[:2]), "where t is 4 elsewhere"),
    ("densities", convert("means", lambda a: a[..., :1]), "where d is 2 elsewhere"),
    ("densities", assign("means", (0, 0, 0), np.nan), "means of densities has 1 NaN"),
    ("densities", convert("log_weights", lambda a: a + 1), "the weights of densities"),
    ("densities", convert("precision_factors", lambda a: -a), "lower triangular and positive"),
    ("densities", lambda a: a.pop("means"), "densities has no means"),
]


@pytest.mark.parametrize(("archive", "change", "reason"), WRONG)
def test_what_is_read_is_what_could_have_been_made(copy, archive, change, reason):
    """With valid checksums: those say only that a file is what somebody wrote."""
    rewritten(copy[0], archive, change)
    with pytest.raises(ValueError, match=reason) as error:
        load_dataset(copy[0])
    assert str(copy[0]) in str(error.value)
    assert "\n" not in str(error.value)


def test_couplings_of_padding(tmp_path, cells):
    data = generate_dataset(
        DataSettings(load_from_file=str(cells), data_dir=str(tmp_path), n_gmm_components=2)
    )
    load_dataset(data.path)
    rewritten(data.path, "couplings", assign("source", 0, 18))  # of 12 in the first snapshot
    with pytest.raises(ValueError, match="source of couplings names particles that are padding"):
        load_dataset(data.path)


def test_what_is_made_is_checked_as_what_is_read(tmp_path, monkeypatch):
    def broken(*args, **options):
        couplings, reports = couple(*args, **options)
        return couplings.replace(weight=-couplings.weight), reports

    monkeypatch.setattr(datasets, "couple", broken)
    with pytest.raises(ValueError, match="weight of couplings has negative"):
        generate_dataset(settings(tmp_path))
    assert not list(tmp_path.iterdir())


def test_checks_need_no_more_memory_than_the_data():
    """Not a row of every particle for each pair, which a hundred thousand cells have no room for."""
    n = 20_000
    points = np.random.default_rng(0).normal(size=(3, n, 2)).astype(np.float32)
    snapshots = {
        "points": points,
        "weights": np.full((3, n), 1 / n, np.float32),
        "times": np.arange(3, dtype=np.float32),
    }
    couplings = {
        "step": np.repeat(np.arange(2, dtype=np.int32), n),
        "source": np.tile(np.arange(n, dtype=np.int32), 2),
        "target": np.tile(np.arange(n, dtype=np.int32), 2),
        "weight": np.full(2 * n, 1 / n, np.float32),
    }
    tracemalloc.start()
    check_archives_content({"train": snapshots, "test": snapshots, "couplings": couplings})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_the_projection_of_reduced_columns_is_kept(tmp_path):
    genes = np.random.default_rng(0).normal(size=(3, 20, 6)) * [1, 1, 1, 1, 1, 5] + 3
    np.save(tmp_path / "x.npy", genes)
    wanted = DataSettings(
        load_from_file=str(tmp_path / "x.npy"),
        data_dir=str(tmp_path),
        n_components=2,
        n_gmm_components=2,
    )
    with pytest.warns(UserWarning, match="principal components"):
        made = generate_dataset(wanted)
    loaded = load_dataset(made.path)
    assert abs(loaded.projection.loadings[5, 0]) > 0.95
    mapped = loaded.projection(genes)
    for snapshot, points in zip(loaded.train.arrays(), mapped, strict=True):
        for x in snapshot:  # each particle of the file, in the order of none
            assert np.abs(points - x).sum(axis=1).min() < 1e-4
    rewritten(made.path, "projection", assign("loadings", (0, 0), np.nan))
    with pytest.raises(ValueError, match="loadings of projection has 1 NaN"):
        load_dataset(made.path)


def test_truncated_metadata(copy):
    path = copy[0] / "metadata.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"metadata\.json is damaged"):
        load_dataset(copy[0])


def test_other_arguments_under_the_same_name_are_refused(copy):
    folder, same = copy
    before = entries(folder)
    other = dataclasses.replace(same, dataset_name=folder.name, n_particles=31)
    with pytest.raises(ValueError, match="with --n-particles=30 instead of 31.*--dataset-name"):
        generate_dataset(other)
    assert entries(folder) == before


def test_a_dataset_that_knew_fewer_arguments_is_found(copy):
    folder, same = copy
    file = folder / "metadata.json"
    metadata = json.loads(file.read_text())
    for name in (
        "tau_a",
        "tau_b",
        "rank",
        "passes",
        "max_iterations",
        "threshold",
        "bandwidth_scale",
    ):
        del metadata["arguments"][name]
    file.write_text(json.dumps(metadata))
    assert generate_dataset(same).path == folder
    other = dataclasses.replace(same, dataset_name=folder.name, threshold=0.5)
    with pytest.raises(ValueError, match="exists with --threshold=0.001 instead of 0.5"):
        generate_dataset(other)


def test_a_dataset_is_found_by_name_or_path_and_near_misses_are_named(made):
    data_dir = made.path.parent
    assert load_dataset(made.name, data_dir).path == made.path
    assert load_dataset(str(made.path)).path == made.path
    with pytest.raises(ValueError, match=f"did you mean {made.name}"):
        load_dataset(made.name.replace("sphere", "spere"), data_dir)
    with pytest.raises(ValueError, match=r"no dataset 'x'; .* holds potential_sphere"):
        load_dataset("x", data_dir)
    with pytest.raises(ValueError, match="holds no dataset"):
        load_dataset("x", data_dir / "nowhere")


@pytest.mark.parametrize("failing", ["couple", "_draw"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path, made, monkeypatch, failing, error, overwrite):
    wanted = settings(tmp_path / "deep" / "data", overwrite=overwrite)
    if overwrite:
        shutil.copytree(made.path, tmp_path / "deep" / "data" / made.name)
    before = entries(tmp_path)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, failing, fail)
    with pytest.raises((KeyboardInterrupt, OSError, ValueError)):
        generate_dataset(wanted)
    assert entries(tmp_path) == before


def test_a_failing_rename_puts_the_old_dataset_back(copy, monkeypatch):
    folder, same = copy
    before = entries(folder.parent)
    rename = os.rename

    def fail_for_new(source, target, *args, **kwargs):
        if ".new-" in str(source):
            raise OSError(5, "Input/output error")
        return rename(source, target, *args, **kwargs)

    monkeypatch.setattr(os, "rename", fail_for_new)
    with pytest.raises(ValueError, match="Input/output error"):
        generate_dataset(dataclasses.replace(same, overwrite=True))
    assert entries(folder.parent) == before


def test_a_dataset_that_a_kill_left_aside_comes_back(copy):
    folder, same = copy
    before = entries(folder.parent)
    aside = folder.with_name(f".{folder.name}.old-0123456789abcdef")
    folder.rename(aside)
    assert load_dataset(folder).name == folder.name
    assert entries(folder.parent) == before
    folder.rename(aside)
    assert find_dataset(same) is not None
    assert entries(folder.parent) == before


def test_what_a_killed_generation_left_is_swept_by_the_next(tmp_path):
    left = tmp_path / ".killed.new-0123456789abcdef"
    left.mkdir()
    (left / "train.npz").write_bytes(b"half")
    for path in (left / "train.npz", left):
        os.utime(path, (0, 0))
    generate_dataset(settings(tmp_path, n_gmm_components=0, dataset_name="next"))
    assert [p.name for p in tmp_path.iterdir()] == ["next"]


def test_an_unwritable_place_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(datasets, "simulate", lambda *a, **k: pytest.fail("worked in vain"))
    with pytest.raises(ValueError, match="is not a folder"):
        generate_dataset(settings(tmp_path / "file" / "data"))
    monkeypatch.setattr(os, "access", lambda *a: False)
    with pytest.raises(ValueError, match="no permission"):
        generate_dataset(settings(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_no_components_mean_no_densities(tmp_path):
    generate_dataset(settings(tmp_path, n_gmm_components=0, dataset_name="x"))
    assert not (tmp_path / "x" / "densities.npz").exists()
    assert load_dataset("x", tmp_path).densities is None


def test_densities_are_fitted_when_asked_for_and_always_the_same(made, copy, monkeypatch):
    monkeypatch.setattr(datasets, "fit_densities", lambda *a, **k: pytest.fail("fitted"))
    loaded, older = load_dataset(made.path), load_dataset(copy[0])
    # Those that an older release kept are read.
    assert_same_arrays(older.densities, made.densities)
    monkeypatch.setattr(datasets, "fit_densities", fit_densities)
    assert isinstance(loaded.densities, GaussianMixtures)
    assert loaded.densities is loaded.densities
    key = named_key(jax.random.key(0), "densities")
    expected = fit_densities(made.train, DataSettings(**SMALL).density_settings, key=key)
    assert_same_arrays(loaded.densities, expected)


def test_densities_that_do_not_fit_into_memory_are_refused(made, monkeypatch):
    monkeypatch.setattr("diffusions.memory.available_bytes", lambda: 0)
    monkeypatch.setattr(DataSettings, "density_memory_needs", lambda *_: {"the densities": 1e9})
    with pytest.raises(ValueError, match="not enough memory: the densities would take"):
        load_dataset(made.path).densities  # noqa: B018


def test_data_are_others_where_densities_are(made, copy, tmp_path):
    own = identity(made.metadata)
    assert own.items() > made.metadata["checksums"].items()
    for change in ({"n_gmm_components": 3}, {"density": "kde"}):
        other = generate_dataset(settings(tmp_path, dataset_name="other", overwrite=True, **change))
        assert {k for k, v in identity(other.metadata).items() if own[k] != v} == {"densities"}
    without = generate_dataset(settings(tmp_path, dataset_name="without", n_gmm_components=0))
    older = load_dataset(copy[0])
    for data in (without, older):
        assert identity(data.metadata) == data.metadata["checksums"]


def test_held_out_fraction_of_a_simulation(tmp_path):
    data = generate_dataset(settings(tmp_path, test_ratio=0.2))
    train, test = np.asarray(data.train.points), np.asarray(data.test.points)
    assert (train.shape[1], test.shape[1]) == (24, 6)
    np.testing.assert_allclose(test[1:], 1.2 * test[:-1], rtol=1e-5)  # the same rows through time
    assert data.metadata["split"] == {"test": "held out along particles", "test_ratio": 0.2}


def test_no_held_out_set(tmp_path):
    data = generate_dataset(settings(tmp_path, test_ratio=0.0))
    np.testing.assert_array_equal(data.train.points, data.test.points)
    assert data.metadata["split"]["test"] == "the training particles"


def test_leave_one_out_couples_across_the_gap(tmp_path):
    data = generate_dataset(settings(tmp_path, leave_one_out=2))
    np.testing.assert_allclose(data.train.dt, [0.01, 0.02], rtol=1e-5)
    assert data.test.n_snapshots == 4
    assert int(data.couplings.step.max()) == 1
    assert data.metadata["left_out"] == 2
    # Across the gap the flow moved every particle by a factor 1.2^2.
    gap = np.asarray(data.couplings.step) == 1
    source = np.asarray(data.train.points)[1][np.asarray(data.couplings.source)[gap]]
    target = np.asarray(data.train.points)[2][np.asarray(data.couplings.target)[gap]]
    np.testing.assert_allclose(target, 1.44 * source, rtol=1e-5)


@pytest.fixture
def cells(tmp_path):
    generator = np.random.default_rng(0)
    times = np.repeat([0.0, 1.0, 2.5], [20, 31, 25])
    np.savez(tmp_path / "cells.npz", points=generator.normal(size=(76, 3)), times=times)
    return tmp_path / "cells.npz"


def test_loaded_snapshots_of_unequal_counts(tmp_path, cells):
    data = generate_dataset(
        DataSettings(load_from_file=str(cells), data_dir=str(tmp_path), n_gmm_components=2)
    )
    assert data.metadata["counts"] == {"train": [12, 19, 15], "test": [8, 12, 10]}
    assert data.metadata["split"] == {"test": "held out inside every snapshot", "test_ratio": 0.4}
    assert data.truth is None
    # Couplings know nothing of padding or of the test cells.
    expected, _ = couple(
        data.train,
        DataSettings().coupling_settings,
        key=named_key(jax.random.key(0), "couplings"),
    )
    assert_same_arrays(data.couplings, expected)
    target = np.bincount(np.asarray(data.couplings.target), minlength=19)
    assert len(target) == 19
    assert_same_arrays(load_dataset(data.path).densities, data.densities)
    assert all(np.isfinite(a).all() for a in to_arrays(data.densities).values() if a.dtype == "f")


def test_a_file_with_its_own_test_population(tmp_path):
    train, test = np.random.default_rng(0).normal(size=(2, 3, 12, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", train=train, test=test, dt=0.5)
    common = {"load_from_file": str(tmp_path / "x.npz"), "data_dir": str(tmp_path / "data")}
    common |= {"n_gmm_components": 0, "potential": "sphere"}
    data = generate_dataset(DataSettings(**common))
    np.testing.assert_array_equal(data.train.points, train)
    np.testing.assert_array_equal(data.test.points, test)
    assert data.truth == {"potential": "sphere", "interaction": "none", "beta": 0.0}
    split = generate_dataset(DataSettings(**common, test_ratio=0.25))
    assert split.train.points.shape[1] == 9


def test_another_file_of_the_same_name_is_noticed(tmp_path, cells):
    wanted = DataSettings(load_from_file=str(cells), data_dir=str(tmp_path), n_gmm_components=0)
    generate_dataset(wanted)
    moved = tmp_path / "moved" / "cells.npz"
    moved.parent.mkdir()
    shutil.copy(cells, moved)
    assert find_dataset(dataclasses.replace(wanted, load_from_file=str(moved))) is not None
    np.savez(moved, points=np.random.default_rng(1).normal(size=(8, 3)), times=[0] * 4 + [1] * 4)
    with pytest.raises(ValueError, match="was read from other data"):
        find_dataset(dataclasses.replace(wanted, load_from_file=str(moved)))


def test_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(ValueError, match="batch_size 31 is more than the 30 particles"):
        generate_dataset(settings(tmp_path, batch_size=31))
    assert not list(tmp_path.iterdir())


def test_sinkhorn_takes_its_epsilon(tmp_path):
    data = generate_dataset(settings(tmp_path, sinkhorn=0.5, n_timesteps=1))
    assert {r["method"] for r in data.metadata["couplings"]} == {"sinkhorn"}
    assert len(data.couplings.step) > 30  # an entropic plan spreads its mass


@pytest.mark.parametrize("dimension", [1, 3])
def test_other_dimensions(tmp_path, dimension):
    data = generate_dataset(
        settings(tmp_path, dimension=dimension, potential="flat", n_timesteps=1)
    )
    assert (data.path / "snapshots.png").stat().st_size > 5000
    np.testing.assert_array_equal(data.train.points[0], data.train.points[1])
