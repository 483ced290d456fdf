"""Bad input: exit status 2, one line that says what is wrong, nothing written or overwritten."""

import json
import shutil
import sys

import numpy as np
import pytest

from experiments import evaluate, train

LINEAR = "--solver=jkonet-star-linear-potential"


@pytest.fixture(scope="module")
def desk(place, tmp_path_factory):
    """A folder with good and bad datasets and runs."""
    desk = tmp_path_factory.mktemp("desk")
    data, runs = desk / "data", desk / "runs"
    shutil.copytree(place.data / "plain", data / "plain")
    shutil.copytree(place.data / "file", data / "line")
    for name in ("truncated", "flipped", "incomplete", "newer", "nonsense"):
        shutil.copytree(data / "plain", data / name)
    (data / "truncated" / "train.npz").write_bytes((data / "plain/train.npz").read_bytes()[:-50])
    content = bytearray((data / "plain" / "train.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (data / "flipped" / "train.npz").write_bytes(bytes(content))
    (data / "incomplete" / "test.npz").unlink()
    metadata = json.loads((data / "plain" / "metadata.json").read_text())
    (data / "newer" / "metadata.json").write_text(json.dumps({**metadata, "schema_version": 9}))
    (data / "nonsense" / "metadata.json").write_text("{")
    (data / "thesis").mkdir()
    (data / "thesis" / "thesis.txt").write_text("precious")

    place.train("good", LINEAR, "--dataset=plain")
    shutil.copytree(place.runs / "good", runs / "good")
    config = json.loads((runs / "good" / "config.json").read_text())
    config["settings"]["dataset"] = "plain"
    (runs / "good" / "config.json").write_text(json.dumps(config))
    for name in ("damaged", "foreign", "elsewhere", "no-energy", "bad-energy", "lost"):
        shutil.copytree(runs / "good", runs / name)
    (runs / "damaged" / "config.json").write_text('{"schema_version": 1, "sett')
    (runs / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    other = {**config, "settings": {"script": "experiments.sparse"}}
    (runs / "elsewhere" / "config.json").write_text(json.dumps(other))
    shutil.rmtree(runs / "no-energy" / "energy")
    for file in (runs / "bad-energy" / "energy" / "arrays" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:20])
    config["settings"]["dataset"] = "gone"
    (runs / "lost" / "config.json").write_text(json.dumps(config))
    (runs / "thesis").mkdir()
    (runs / "thesis" / "thesis.txt").write_text("precious")
    (desk / "blocked").write_text("a file where a folder is wanted")
    np.save(desk / "points.npy", np.zeros((3, 4, 2)))
    return desk


def refused(script, arguments, desk, monkeypatch, capfd):
    """Runs the script at the desk; returns the error."""
    monkeypatch.chdir(desk)
    before = {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()}
    folders = sorted(p for p in desk.rglob("*") if p.is_dir())
    assert script.run(arguments) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()} == before
    assert sorted(p for p in desk.rglob("*") if p.is_dir()) == folders
    return err


BAD_TRAINING = [
    (["--solver=jkonet-star-potental"], "unknown solver 'jkonet-star-potental'; did you mean"),
    (["--solver=sinkhorn"], "unknown solver 'sinkhorn'"),
    (["--scheme=explict"], "unknown scheme 'explict'; did you mean explicit"),
    (["--dataset=plane"], "no dataset 'plane'; did you mean plain"),
    (["--dataset=xyzzy"], "no dataset 'xyzzy'; data holds"),
    (["--dataset=data/plan"], "no dataset 'data/plan'"),
    (["--dataset=thesis"], "data/thesis is not a dataset folder: it has no metadata.json"),
    (["--dataset=points.npy"], "no dataset 'points.npy'"),
    (["--dataset=truncated"], "train.npz is damaged"),
    (["--dataset=flipped"], "train.npz is damaged: its checksum"),
    (["--dataset=incomplete"], "data/incomplete is incomplete: test.npz is missing"),
    (["--dataset=newer"], "data/newer has schema version 9; this release reads up to 2"),
    (["--dataset=nonsense"], "data/nonsense/metadata.json is damaged"),
    (["--dataset=plain", "--data-dir=blocked"], "no dataset 'plain'"),
    (["--batch-size=0", "--dataset=plain"], "batch_size must be at least 1, got 0"),
    (["--dataset=plain", "--runs-dir=blocked"], "cannot write to blocked: blocked is not a folder"),
    (["--dataset=plain", "--runs-dir=blocked/deeper"], "blocked is not a folder"),
    (["--runs-dir=blocked"], "blocked is not a folder"),
    (["--run-name=good"], "runs/good already exists; give --resume, --overwrite or another name"),
    (["--dataset=plain", "--run-name=good", LINEAR], "runs/good already exists"),
    (
        ["--run-name=thesis", "--overwrite"],
        "runs/thesis is not the folder of a run, so --overwrite",
    ),
    (["--run-name=foreign", "--overwrite"], "not the folder of a run, so --overwrite leaves it"),
    (["--run-name=thesis"], "runs/thesis already exists"),
    (["--run-name=goood", "--resume"], "no run runs/goood to resume; runs holds good"),
    (["--run-name=thesis", "--resume"], "no run runs/thesis to resume"),
    (["--run-name=damaged", "--resume"], "runs/damaged/config.json is damaged"),
    (["--run-name=foreign", "--resume"], "runs/foreign/config.json is damaged"),
    (["--run-name=good", "--resume", "--overwrite"], "give one of them"),
    (["--resume"], "resume needs run_name"),
    (["--run-name=../x"], "run_name must name one folder, got '../x'"),
    (["--seeds=0,0"], "seeds must be different, got (0, 0)"),
    (["--seeds=-1"], "each of seeds must be at least 0, got -1"),
    (["--seeds="], "seeds must have at least 1 entry, got ()"),
    (["--seeds=5000000000"], "each of seeds must be at most 4294967295, got 5000000000"),
    (["--seeds=a"], "each of 'a' must be int"),
    (["--eval=train"], "unknown eval 'train'; did you mean train_data"),
    (["--epochs=0"], "epochs must be at least 1, got 0"),
    (["--learning-rate=-1"], "learning_rate must be positive, got -1.0"),
    (["--learning-rate=nan"], "learning_rate must be positive, got nan"),
    (["--hidden=0"], "each of hidden must be at least 1, got 0"),
    (["--activation=relu"], "unknown activation 'relu'"),
    (["--radial-domain=1,0"], "radial_domain must be two rising numbers"),
    (["--interaction-samples=1"], "interaction_samples must be 0 or at least 2"),
    (
        ["--dataset=plain", "--solver=jkonet-star"],
        "learns an internal energy, but the dataset plain was made with --n-gmm-components=0",
    ),
    (
        ["--dataset=plain", "--solver=jkonet-star-linear-potential-internal"],
        "was made with --n-gmm-components=0",
    ),
    (["--dataset=plain", "--wandb"], "needs the extra `track`: pip install 'jkonet-diffusions[tra"),
    (["--solvr=jkonet-star"], "unknown flag --solvr; did you mean --solver"),
    (["plain"], "unexpected argument 'plain'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_TRAINING)
def test_bad_training(arguments, message, desk, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert message in refused(train, ["--noplots", *arguments], desk, monkeypatch, capfd)


BAD_EVALUATION = [
    ([], "--run is required"),
    (["--run=runs/xyz"], "runs/xyz is not the folder of a run"),
    (["--run=blocked"], "blocked is not the folder of a run"),
    (["--run=runs/thesis"], "runs/thesis is not the folder of a run"),
    (["--run=runs/damaged"], "runs/damaged/config.json is damaged"),
    (["--run=runs/foreign"], "runs/foreign/config.json is damaged: it is not the config of a run"),
    (["--run=runs/elsewhere"], "runs/elsewhere is not a run of experiments.train"),
    (["--run=runs/no-energy"], "is not finished; continue it with experiments.train --resume"),
    (["--run=runs/bad-energy"], "the energy in"),
    (["--run=runs/lost"], "no dataset 'gone'"),
    (["--run=runs/good", "--dataset=plian"], "no dataset 'plian'; did you mean plain"),
    (["--run=runs/good", "--dataset=truncated"], "train.npz is damaged"),
    (
        ["--run=runs/good", "--dataset=line"],
        "runs/good was learned in dimension 2, the dataset line has dimension 1",
    ),
    (["--run=runs/good", "--eval=both"], "unknown eval 'both'"),
    (["--run=runs/good", "--wasserstein-order=3"], "wasserstein_order must be at most 2, got 3"),
    (["--run=runs/good", "--output=blocked/x.json"], "blocked is not a folder"),
    (["--run=runs/good", "--output=data"], "cannot write to data: it is a folder"),
    (["--run=runs/good", "--solver=jkonet-star"], "unknown flag --solver"),
    (["runs/good"], "unexpected argument 'runs/good'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_EVALUATION)
def test_bad_evaluation(arguments, message, desk, monkeypatch, capfd):
    assert message in refused(evaluate, arguments, desk, monkeypatch, capfd)


def test_the_desk_is_fit_for_work(desk, monkeypatch, tmp_path):
    """So that what is refused is refused for its own fault."""
    monkeypatch.chdir(desk)
    output = tmp_path / "x.json"
    assert evaluate.run(["--run=runs/good", "--noplots", f"--output={output}"]) == 0
    flags = [LINEAR, "--radial-centers=3", "--noplots", f"--runs-dir={tmp_path / 'runs'}"]
    assert train.run(["--dataset=plain", *flags]) == 0
    assert train.run(["--dataset=line", *flags]) == 0


def test_an_error_in_a_process_of_its_own(desk, place):
    """Nothing but the line: no warning of a library, no traceback."""
    process = place.apart(
        "experiments.evaluate", f"--run={desk / 'runs/bad-energy'}", f"--data-dir={desk / 'data'}"
    )
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: the energy in ")
    assert err.count("\n") == 1
