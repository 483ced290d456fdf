"""A run's folder: complete rows, exact resumption, and nothing of anybody else's lost."""

import json
import math

import numpy as np
import pytest

from data_generation.formats.json_file import read_json
from data_generation.scripts.files import plain, write_json
from experiments.run.folder import RunFolder, check_run, open_run
from experiments.run.lock import release_all_but

CONFIG = {"script": "experiments.train", "seeds": (0, 1), "learning_rate": 0.1, "plots": True}


def opened(
    folder, name="demo", config=CONFIG, *, resume=False, overwrite=False, default="auto", data=None
):
    return open_run(
        str(folder), name, default, config, resume=resume, overwrite=overwrite, data=data
    )


def contents(folder):
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return files, sorted(p for p in folder.rglob("*") if p.is_dir())


def test_json_holds_no_nan_and_is_replaced_whole(tmp_path):
    content = {"a": [math.nan, (math.inf, -math.inf), 1.5], "b": {"c": None, "d": "x", "e": 3}}
    assert plain(content) == {
        "a": ["nan", ["inf", "-inf"], 1.5],
        "b": {"c": None, "d": "x", "e": 3},
    }
    write_json(tmp_path / "x.json", {"old": 1})
    write_json(tmp_path / "x.json", content)
    strict = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert strict == plain(content)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_failed_write_leaves_the_old_json(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"new": object()})
    assert read_json(tmp_path / "x.json") == {"old": 1}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"y\.json is missing"):
        read_json(tmp_path / "y.json")


def test_rows_come_back_bit_for_bit(tmp_path):
    run = opened(tmp_path)
    losses = np.float32(np.random.default_rng(0).normal(size=5)).tolist()
    run.log([{"epoch": 1, "loss": losses}])
    run.log([{"epoch": 2, "loss": [math.nan, 1.0]}, {"epoch": 2, "emd": [math.inf]}])
    assert run.rows() == [
        {"epoch": 1, "loss": losses},
        {"epoch": 2, "loss": ["nan", 1.0]},
        {"epoch": 2, "emd": ["inf"]},
    ]
    before = (run.path / "metrics.jsonl").read_bytes()
    run.keep_rows(2)
    assert (run.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 8, 20])
def test_a_row_cut_by_a_kill_is_dropped_and_made_again(cut, tmp_path):
    run = opened(tmp_path)
    run.log([{"epoch": e, "loss": [0.1 * e, 0.2]} for e in range(1, 5)])
    file = run.path / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    # Only the line's end is missing: the row itself is whole.
    expected = [1, 2, 3, 4] if cut == 1 else [1, 2, 3]
    assert [row["epoch"] for row in run.rows()] == expected
    run.keep_rows(3)
    RunFolder(run.path).log([{"epoch": 4, "loss": [0.4, 0.2]}])
    assert file.read_bytes() == whole


@pytest.mark.parametrize(("last", "kept"), [(0, []), (2, [1, 2, 2]), (3, [1, 2, 2, 3])])
def test_rows_after_an_epoch_are_dropped(last, kept, tmp_path):
    run = opened(tmp_path)
    run.log([{"epoch": e, "loss": [1.0]} for e in (1, 2)] + [{"epoch": 2, "emd": [0.5]}])
    run.log([{"epoch": 3, "loss": [1.0]}])
    run.keep_rows(last)
    assert [row["epoch"] for row in run.rows()] == kept


def test_rows_of_a_run_without_metrics(tmp_path):
    run = opened(tmp_path)
    assert run.rows() == []
    run.keep_rows(5)
    assert run.rows() == []


def test_the_scalars_go_to_tensorboard_too(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import struct

    run = opened(tmp_path)
    run.log([{"epoch": 3, "loss": [1.0, 2.0]}, {"epoch": 4, "loss": [math.nan, 1.0]}])
    run.finish({})
    (file,) = (run.path / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + length :]
    assert found == [("loss", 3, 1.5)]


def test_a_new_run_records_its_settings_and_versions(tmp_path):
    run = opened(tmp_path / "deep" / "runs")
    assert run.path == tmp_path / "deep" / "runs" / "demo"
    config = run.config()
    assert config["settings"] == {**CONFIG, "seeds": [0, 1]}
    assert {"python", "jax", "numpy"} <= config["versions"].keys()
    assert not run.finished
    assert [p.name for p in run.path.parent.iterdir()] == ["demo"]


def test_default_names_are_numbered(tmp_path):
    names = [opened(tmp_path, None, default="solver__data").path.name for _ in range(3)]
    assert names == ["solver__data", "solver__data-2", "solver__data-3"]
    (tmp_path / "solver__data-4").write_text("in the way")
    assert opened(tmp_path, None, default="solver__data").path.name == "solver__data-5"


def test_an_existing_run_is_refused_without_overwrite(tmp_path):
    run = opened(tmp_path)
    run.log([{"epoch": 1, "loss": [1.0]}])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="demo already exists; give --resume, --overwrite or anot"):
        opened(tmp_path)
    assert contents(tmp_path) == before


def test_overwrite_starts_from_nothing(tmp_path):
    opened(tmp_path).log([{"epoch": 1, "loss": [1.0]}])
    run = opened(tmp_path, config={**CONFIG, "seeds": (5,)}, overwrite=True)
    assert {p.name for p in run.path.iterdir()} == {".lock", "config.json"}
    assert run.config()["settings"]["seeds"] == [5]
    assert opened(tmp_path, "other", overwrite=True).path.is_dir()


def foreign(folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")


def with_a_config_of_its_own(folder):
    foreign(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')


def with_a_damaged_config(folder):
    foreign(folder)
    (folder / "config.json").write_text('{"schema_version": 1, "sett')


def a_file(folder):
    folder.write_text("precious")


@pytest.mark.parametrize(
    "make", [foreign, with_a_config_of_its_own, with_a_damaged_config, a_file, lambda f: f.mkdir()]
)
def test_overwrite_leaves_foreign_folders_alone(make, tmp_path):
    make(tmp_path / "demo")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="not the folder of a run, so --overwrite leaves it alone"):
        opened(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="already exists"):
        opened(tmp_path)
    assert contents(tmp_path) == before


def test_resume_finds_the_run_and_changes_nothing(tmp_path):
    opened(tmp_path).log([{"epoch": 1, "loss": [1.0]}])
    before = contents(tmp_path)
    assert opened(tmp_path, resume=True).rows() == [{"epoch": 1, "loss": [1.0]}]
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 2)}, r"was started with --seeds=\[0, 1\], not \[0, 2\]"),
        ({"learning_rate": 0.2}, "was started with --learning-rate=0.1, not 0.2"),
        ({"plots": False}, "was started with --plots=True, not False"),
        (
            {"new_flag": 1},
            "was started without --new-flag, which is 1 now; .*older release, --overwrite",
        ),
    ],
)
def test_other_settings_on_resume_name_the_flag(changes, message, tmp_path):
    opened(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, config={**CONFIG, **changes}, resume=True)
    assert contents(tmp_path) == before


def test_settings_that_are_not_finite_can_be_resumed(tmp_path):
    config = {**CONFIG, "learning_rate": math.inf}
    opened(tmp_path, config=config)
    assert opened(tmp_path, config=config, resume=True).path.is_dir()


def test_a_run_that_is_not_there_names_those_that_are(tmp_path):
    for name in ("demon", "cells", "other"):
        opened(tmp_path, name)
    with pytest.raises(ValueError, match="no run .*demo to resume; .* holds demon$"):
        opened(tmp_path, "demo", resume=True)
    with pytest.raises(ValueError, match="to resume; .* holds cells, demon, other$"):
        opened(tmp_path, "xyz", resume=True)
    with pytest.raises(ValueError, match="missing/demo to resume$"):
        opened(tmp_path / "missing", resume=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json is damaged"),
        ("[]", r"config\.json is damaged: it is not the config of a run"),
        ('{"schema_version": 1}', "not the config of a run"),
        ('{"settings": {}}', "not the config of a run"),
        ('{"schema_version": 1, "settings": []}', "not the config of a run"),
        ('{"schema_version": 3, "settings": {}}', "schema version 3; this release reads up to 2"),
    ],
)
def test_a_damaged_config_is_named(content, message, tmp_path):
    run = opened(tmp_path)
    (run.path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        run.config()
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, resume=True)


@pytest.mark.parametrize("where", ["file", "file/deeper", "file/deeper/still"])
def test_a_file_in_the_way_of_the_runs(where, tmp_path):
    (tmp_path / "file").write_text("precious")
    for attempt in (opened, lambda f: check_run(str(f), None, resume=False, overwrite=False)):
        with pytest.raises(ValueError, match="cannot write to .*file is not a folder"):
            attempt(tmp_path / where)
    assert (tmp_path / "file").read_text() == "precious"


def test_the_check_before_the_work_makes_nothing(tmp_path):
    check_run(str(tmp_path / "runs"), "demo", resume=False, overwrite=False)
    check_run(str(tmp_path / "runs"), None, resume=False, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_finishing_writes_the_summary_and_removes_the_training_state(tmp_path):
    run = opened(tmp_path)
    (run.checkpoints / "3").mkdir(parents=True)
    run.finish({"emd": math.nan})
    assert run.finished
    assert not run.checkpoints.exists()
    assert read_json(run.path / "summary.json") == {"schema_version": 2, "emd": "nan"}


def test_a_resumed_run_keeps_its_data(tmp_path):
    data = {"train.npz": "12", "test.npz": "34"}
    opened(tmp_path, data=data)
    opened(tmp_path, resume=True, data=data)
    for other, named in (
        ({**data, "test.npz": "35"}, "test.npz"),
        ({"train.npz": "12"}, "test.npz"),
        ({**data, "more.npz": "56"}, "more.npz"),
    ):
        with pytest.raises(ValueError, match=rf"learned from other data: {named} changed"):
            opened(tmp_path, resume=True, data=other)
    # Data that are gone, and runs of a release that recorded none, cannot be compared.
    opened(tmp_path, resume=True)
    opened(tmp_path, "older")
    opened(tmp_path, "older", resume=True, data=data)


def test_only_finished_runs_of_an_earlier_schema_are_taken_as_they_are(tmp_path):
    run = opened(tmp_path)
    config = read_json(run.path / "config.json")
    write_json(run.path / "config.json", {**config, "schema_version": 1})
    release_all_but([])
    before = contents(run.path)
    with pytest.raises(
        ValueError, match="unfinished run of an earlier release, whose random numbers"
    ):
        opened(tmp_path, resume=True)
    assert contents(run.path) == before
    run.finish({"emd": 1.0})
    again = opened(tmp_path, resume=True)
    assert again.finished
    assert again.summary()["emd"] == 1.0
