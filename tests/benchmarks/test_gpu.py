"""The campaign for a GPU: nothing is done twice, and what is measured is what it says, at tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # the benchmarks are no installed package

from benchmarks import gpu, gpu_measurements  # noqa: E402


@pytest.fixture
def campaign(tmp_path, monkeypatch, capsys):
    """Runs the command with measurements in place of the real ones; gives exit code, output, report."""
    report = tmp_path / "report.json"
    monkeypatch.setattr(gpu, "describe_machine", lambda: "a machine")

    def run(measure, *flags):
        asked = []

        def measured(script, request, timeout, **more):
            asked.append(request["measure"])
            return {"device": "A card"} if request["measure"] == "device" else measure(request)

        monkeypatch.setattr(gpu, "measure_apart", measured)
        monkeypatch.setattr(sys, "argv", ["gpu", f"--output={report}", *flags])
        code = gpu.main()
        kept = json.loads(report.read_text()) if report.exists() else None
        return code, capsys.readouterr(), kept, asked

    return run


def found(request):
    return {"rows": [gpu_measurements.row(request["measure"], 1.0, "s")]}


def test_what_is_done_is_not_done_again_and_what_failed_is(campaign):
    def fails(request):
        return {"failed": "no time"} if request["measure"] == "messages" else found(request)

    code, said, report, _ = campaign(fails, "--only=parity,messages")
    assert code == 1
    assert "messages" in said.out.splitlines()[-1]
    assert report["device"] == "A card"
    assert report["size"] == "full"
    assert report["items"]["messages"] == {"failed": "no time"}
    code, said, report, asked = campaign(found, "--only=parity,messages,populations")
    assert code == 0
    assert asked == ["device", "messages", "populations"]
    assert list(report["items"]) == ["parity", "messages", "populations"]
    assert "not done" not in said.out


def test_the_report_of_another_card_or_size_is_left_alone(campaign):
    *_, report, _ = campaign(found, "--only=parity")
    code, said, kept, asked = campaign(found, "--size=tiny")
    assert code == 2
    assert "is of A card at full size, not of A card at tiny size" in said.err
    assert asked == ["device"]
    assert kept == report


def test_no_item_begins_that_cannot_end(campaign):
    _, said, report, asked = campaign(found, "--minutes=0.4")
    assert asked == ["device"]
    assert report is None
    assert "not done: parity" in said.out


def test_an_unknown_item_is_named(campaign):
    code, said, *_ = campaign(found, "--only=parity,speed")
    assert (code, said.err) == (2, "error: no item speed\n")


def test_a_training_goes_on_where_there_is_a_run(tmp_path):
    first = gpu.training_command("likelihood", None, tmp_path, 3, full=True)
    assert "--dataset=synthetic" in first
    assert "--epochs=3" in first
    assert "--resume" not in first
    (tmp_path / "likelihood").mkdir()
    again = gpu.training_command("likelihood", None, tmp_path, 3, full=True)
    assert [flag for flag in again if flag not in first] == ["--resume"]


def test_parity_tells_what_is_beyond_its_tolerance(monkeypatch):
    calls = []

    def drifting(full):
        def function(x):  # another number every time that it is traced
            calls.append(None)
            return x * (1.0 + 0.25 * (len(calls) > 1))

        return jnp.ones(3), function, 0.1

    monkeypatch.setattr(gpu_measurements, "PARITY", {"a": drifting})
    (row,) = gpu_measurements.measure_parity({"size": "tiny"})
    assert row["value"] == pytest.approx(0.25)
    assert "BEYOND" in row["beside"]


def test_the_shipped_systems_agree_with_themselves(monkeypatch):
    cheap = {k: v for k, v in gpu_measurements.PARITY.items() if "pixels" not in k}
    monkeypatch.setattr(gpu_measurements, "PARITY", cheap)
    rows = gpu_measurements.measure_parity({"size": "tiny"})
    assert len(rows) == len(cheap) == 4
    assert all(row["value"] == 0.0 and "within" in row["beside"] for row in rows)


def test_the_command_on_a_processor_is_dry(tmp_path):
    report = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.gpu",
            f"--output={report}",
            "--only=messages,populations",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "on cpu at tiny size: for trying out, no results" in done.stdout
    items = json.loads(report.read_text())["items"]
    values = {row["what"]: row["value"] for item in items.values() for row in item["rows"]}
    assert 0.02 < values["JKOnet*, distance one step ahead"] < 0.3  # no motion: 0.17
    assert all(value > 0 for value in values.values())
