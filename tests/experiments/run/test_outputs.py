"""Flags that name an output replace an earlier output of the same kind, and nothing else."""

import json
import os
from unittest import mock

import pytest

from data_generation.scripts.files import write_json
from experiments import report
from experiments.run.folder import RunFolder, open_run
from experiments.run.outputs import (
    ABOUT,
    about,
    check_figures,
    check_output,
    check_results,
    check_sweep_folder,
    is_evaluation,
)
from experiments.run.tables import write_table
from experiments.sparse_pixels import training as sparse_pixels_training
from experiments.sweeps.table import COLUMNS

EVALUATION = {
    **{"schema_version": 1, "run": "runs/demo", "solver": "jkonet-star-potential"},
    **{"dataset": "demo", "eval": "test_data", "seconds": 0.5},
}


@pytest.fixture
def run(tmp_path):
    made = open_run(str(tmp_path), "demo", "", {"seed": 0}, resume=False, overwrite=False)
    made.finish({"solver": "x", "dataset": "y", "eval": "test_data", "seconds": {}})
    return made.path


def test_a_page_replaces_a_page(run, tmp_path):
    out = tmp_path / "page.html"
    for _ in range(2):
        assert report.run([f"--run={run}", f"--out={out}"]) == 0
    assert out.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["config.json", "summary.json", "thesis.html"])
def test_a_page_replaces_nothing_else(name, run, capsys):
    if not (run / name).exists():
        (run / name).write_text("<!DOCTYPE html>\n<p>by jkonet-diffusions 1.0</p>\n")
    before = (run / name).read_bytes()
    assert report.run([f"--run={run}", f"--out={run / name}"]) == 2
    error = capsys.readouterr().err
    assert f"{name} exists and is not a page of experiments.report, so it is left alone" in error
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.symlink_to("/dev/null"), os.mkdir])
def test_what_is_no_file_is_refused(make, run, tmp_path, capsys):
    make(tmp_path / "x")
    assert report.run([f"--run={run}", f"--out={tmp_path / 'x'}"]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_an_evaluation_is_told_from_the_other_files_of_a_run(run, tmp_path):
    write_json(tmp_path / "x.json", EVALUATION)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "list").write_text("[]")
    check_output(tmp_path / "x.json", is_evaluation, "one")
    check_output(tmp_path / "new.json", is_evaluation, "one")
    for other in (run / "config.json", run / "summary.json", tmp_path / "bytes", tmp_path / "list"):
        with pytest.raises(ValueError, match="exists and is not one, so it is left alone"):
            check_output(other, is_evaluation, "one")


def test_figures_go_beside_a_result_or_to_a_new_place(tmp_path):
    check_figures(tmp_path / "x_plots", tmp_path / "x.json")
    (tmp_path / "x_plots").mkdir()
    with pytest.raises(ValueError, match=r"exists without x\.json, so it is left alone"):
        check_figures(tmp_path / "x_plots", tmp_path / "x.json")
    write_json(tmp_path / "x.json", EVALUATION)
    check_figures(tmp_path / "x_plots", tmp_path / "x.json")


def test_a_folder_of_results_is_replaced_only_where_it_is_nothing_more(tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "samples.npz").write_text("x")
    (tmp_path / "plots" / "samples.png").write_text("x")
    with pytest.raises(ValueError, match="is not a folder of results of experiments.sparse_pixels"):
        check_results(tmp_path, "experiments.sparse_pixels")
    write_json(tmp_path / ABOUT, about(tmp_path, "experiments.sparse_pixels"))
    assert json.loads((tmp_path / ABOUT).read_text())["files"][-1] == "samples.npz"
    check_results(tmp_path, "experiments.sparse_pixels")
    with pytest.raises(ValueError, match="is not a folder of results of experiments.other"):
        check_results(tmp_path, "experiments.other")
    (tmp_path / "plots" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"also holds plots/thesis\.txt, so --overwrite leaves"):
        check_results(tmp_path, "experiments.sparse_pixels")
    (tmp_path / "plots" / "thesis.txt").unlink()
    (tmp_path / "plots" / "elsewhere").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="also holds plots/elsewhere, so --overwrite leaves"):
        check_results(tmp_path, "experiments.sparse_pixels")


def test_a_sweep_replaces_the_table_of_a_sweep_and_no_other(tmp_path):
    check_sweep_folder(tmp_path / "nowhere")
    (tmp_path / "table.md").write_text("precious")
    with pytest.raises(ValueError, match=r"table\.md exists without a sweep's table\.csv"):
        check_sweep_folder(tmp_path)
    write_table(tmp_path / "table.csv", [dict.fromkeys(COLUMNS)], COLUMNS)
    check_sweep_folder(tmp_path)
    (tmp_path / "table.csv").write_text("time,x\n0,1\n")
    with pytest.raises(ValueError, match=r"table\.csv exists and is not the table of a sweep"):
        check_sweep_folder(tmp_path)


def test_sampling_again_replaces_its_own_results_alone(run, tmp_path, monkeypatch):
    """The folder's part of `reuse`; what is drawn is tested with the networks."""
    for name in ("SparseTask", "load_network", "Reconstruction"):
        monkeypatch.setattr(sparse_pixels_training, name, mock.MagicMock())
    drawn = iter("abc")

    def sample(results, *_):
        (results.path / "samples.npz").write_text(next(drawn))

    monkeypatch.setattr(sparse_pixels_training, "_sample", sample)
    folder = tmp_path / "deep" / "samples"
    for expected in "ab":
        sparse_pixels_training.reuse("sample", RunFolder(run), folder, mock.MagicMock())
        assert (folder / "samples.npz").read_text() == expected
        assert [p.name for p in folder.parent.iterdir()] == ["samples"]
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"also holds thesis\.txt"):
        sparse_pixels_training.reuse("sample", RunFolder(run), folder, mock.MagicMock())
    assert (folder / "thesis.txt").read_text() == "precious"
    assert (folder / "samples.npz").read_text() == "b"
    assert [p.name for p in folder.parent.iterdir()] == ["samples"]
