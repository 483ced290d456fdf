"""A run does not go on, and is not judged, on other data than it learned from."""

import json
import shutil

import pytest

from experiments.run.folder import RunFolder

SOLVER = ("--solver=jkonet-star-linear-potential", "--radial=none")


def make(place, name, seed, *flags):
    place.generate(
        name,
        "--potential=styblinski_tang",
        "--n-gmm-components=0",
        "--n-particles=60",
        "--n-timesteps=2",
        f"--seed={seed}",
        *flags,
    )


@pytest.fixture
def said(capfd):
    """The one line of an error."""

    def read():
        lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1
        return lines[0]

    capfd.readouterr()
    return read


def test_a_run_keeps_its_data(place, monkeypatch, said):
    make(place, "changing", 0)
    shutil.copytree(place.data / "changing", place.path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        run = place.train("on-changing", "--dataset=changing", *SOLVER, status=130)
    assert said() == "interrupted"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    make(place, "changing", 1, "--overwrite")
    said_of_files = "train.npz, test.npz, couplings.npz changed since, by checksum"
    place.train("on-changing", "--dataset=changing", *SOLVER, "--resume", status=2)
    assert said().endswith(f"learned from other data: {said_of_files}")
    place.evaluate(run, status=2)
    assert said_of_files in said()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    # As another dataset, they may be.
    place.evaluate(run, "--dataset=changing")
    shutil.rmtree(place.data / "changing")
    shutil.copytree(place.path / "kept", place.data / "changing")
    place.evaluate(run)
    place.train("on-changing", "--dataset=changing", *SOLVER, "--resume")
    assert (run / "summary.json").is_file()


def test_a_run_of_an_older_release_recorded_no_data(place):
    make(place, "older", 0)
    run = place.train("on-older", "--dataset=older", *SOLVER)
    config = json.loads((run / "config.json").read_text())
    assert set(config.pop("data")) == {"train.npz", "test.npz", "couplings.npz"}
    (run / "config.json").write_text(json.dumps(config))
    make(place, "older", 1, "--overwrite")
    place.train("on-older", "--dataset=older", *SOLVER, "--resume")
    place.evaluate(run)
