"""Every entry of every file of a run, a sweep, an energy and a network, edited in every way.

Whoever reads it says what is wrong, or reads something else that makes sense. An exception of another
kind than ValueError, or exit status 70, is a failure of these tests.
"""

import copy
import json
import shutil

import pytest

from checkpoints import load_energy, load_network, pretrained_models
from checkpoints.message_passing import load_denoiser
from data_generation import __main__ as data_generation
from experiments import evaluate, report, train
from experiments.populations import evaluation as reporting
from experiments.populations.training import divergences
from experiments.run.folder import RunFolder, open_run
from experiments.run.records import Failure, Summary, TrainSummary, read_entries
from experiments.sweeps.table import result_columns

ODD = (None, True, -1, 2**31, 2**62, 10**30, 1e300, "x", "nan", "", [], [[]], {}, {"a": {}})
GONE = object()
DEEP = json.loads("[" * 40 + "]" * 40)


def paths(content, most=3):
    """Every entry of JSON by its path; of a list the first one."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield (name,)
            yield from ((name, *rest) for rest in (paths(value, most - 1) if most else ()))
    elif isinstance(content, list) and content:
        yield (0,)
        yield from ((0, *rest) for rest in (paths(content[0], most - 1) if most else ()))


def edited(content, path, value):
    """A copy with another value at a path, or with none."""
    made = copy.deepcopy(content)
    *outer, last = path
    inside = made
    for name in outer:
        inside = inside[name]
    if value is GONE:
        del inside[last]
    else:
        inside[last] = value
    return made


def walk(file, read, values=(*ODD, GONE, DEEP), most=3):
    """Reads the file after every edit of every entry; returns how often it was refused and accepted.

    A file of lines has every line edited as a whole, and the entries of the first.
    """
    text = file.read_text("utf-8")
    lines = file.suffix == ".jsonl"
    content = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    messages, accepted = [], 0
    for path in [(), *paths(content, most)]:
        for value in values:
            if path == ():
                made = [value] if lines else value
                if value is GONE:
                    continue
            else:
                made = edited(content, path, value)
            if lines:
                file.write_text("".join(json.dumps(row) + "\n" for row in made), "utf-8")
            else:
                file.write_text(json.dumps(made), "utf-8")
            try:
                read()
                accepted += 1
            except ValueError as error:
                messages.append(str(error))
            except Exception as error:
                raise AssertionError(f"{file.name}: {path} = {value!r}") from error
    file.write_text(text, "utf-8")
    read()
    assert not any("\n" in message for message in messages)
    return len(messages), accepted


def script(module, *arguments):
    """Runs a script, whose refusal is a ValueError here."""

    def read():
        status = module.run(list(arguments))
        assert status in (0, 2), status
        if status == 2:
            raise ValueError("refused")

    return read


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run of a closed form, with its data, and rows of a network."""
    place = tmp_path_factory.mktemp("edited")
    data = [f"--data-dir={place / 'data'}", "--dataset-name=small", "--n-particles=30"]
    assert data_generation.run([*data, "--n-timesteps=2", "--n-gmm-components=0"]) == 0
    flags = ["--solver=jkonet-star-linear-potential", "--radial-centers=2", "--degree=2"]
    flags += [f"--dataset={place / 'data' / 'small'}", f"--runs-dir={place / 'runs'}"]
    assert train.run([*flags, "--run-name=run", "--noplots", "--seeds=0,1"]) == 0
    run = place / "runs" / "run"
    assert evaluate.run([f"--run={run}", "--noplots"]) == 0
    rows = [{"epoch": e, "loss": [0.5, 0.25 / e], "emd_one_step_ahead": ["nan", 1]} for e in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture
def run(place, tmp_path):
    """A copy of the run that may be edited."""
    shutil.copytree(place / "runs" / "run", tmp_path / "run")
    return RunFolder(tmp_path / "run")


class Fit:
    absurd = 100.0


def test_config(run, tmp_path):
    file = run.path / "config.json"
    config = json.loads(file.read_text())["settings"]

    def read():
        run.config()
        open_run(str(tmp_path), "run", "", config, resume=True, overwrite=False)

    refused, accepted = walk(file, read)
    assert refused > 5 * accepted > 0


def test_config_as_the_scripts_read_it(run, tmp_path, monkeypatch, capsys):
    def reached(*_):
        raise ValueError("reached")

    monkeypatch.setattr(reporting, "assess", reached)
    file = run.path / "config.json"
    content = json.loads(file.read_text())
    named = ("script", "solver", "dataset", "seeds", "degree")
    content["settings"] = {name: content["settings"][name] for name in named}
    file.write_text(json.dumps(content))
    refused, accepted = walk(
        file, script(report, f"--run={run.path}", f"--out={tmp_path / 'x.html'}")
    )
    assert refused > 0 < accepted
    with pytest.raises(ValueError, match="refused"):
        walk(file, script(evaluate, f"--run={run.path}", "--noplots"))
    assert "error: reached\n" in capsys.readouterr().err


def test_summary(run, tmp_path):
    file = run.path / "summary.json"

    def read():
        run.summary()
        result_columns(read_entries(file, Summary, TrainSummary))

    refused, accepted = walk(file, read)
    assert refused > 0 < accepted
    walk(
        file,
        script(report, f"--run={run.path}", f"--out={tmp_path / 'x.html'}"),
        (None, 2**62, "x", [[]], {"a": {}}, GONE),
        most=1,
    )


def test_evaluation(run, tmp_path):
    read = script(report, f"--run={run.path}", f"--out={tmp_path / 'x.html'}")
    refused, accepted = walk(
        run.path / "evaluation.json", read, (None, 10**30, "", [], {}, GONE), 1
    )
    assert refused > 0 < accepted


def test_metrics(run, tmp_path):
    def read():
        rows = run.rows("loss")
        assert all(0 <= row["epoch"] < 2**31 for row in rows)
        run.keep_rows(1)
        divergences(rows, Fit)

    file = run.path / "metrics.jsonl"
    text = file.read_text()
    refused, accepted = walk(file, lambda: (read(), None))
    assert refused > 2 * accepted > 0
    file.write_text(text)
    walk(file, script(report, f"--run={run.path}", f"--out={tmp_path / 'x.html'}"))


def test_a_run_of_another_script(run, capsys):
    config = json.loads((run.path / "config.json").read_text())
    config["settings"] = {"script": "experiments.linear_denoiser", "n_pixels": 10}
    (run.path / "config.json").write_text(json.dumps(config))
    assert evaluate.run([f"--run={run.path}"]) == 2
    assert "is not a run of experiments.train" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_energies(kind, run, tmp_path):
    if kind == "linear":
        folder = run.energy
    else:
        folder = tmp_path / "network"
        shutil.copytree(pretrained_models.FOLDER / "styblinski_tang", folder)
    file = folder / "energy.json"
    description = json.loads(file.read_text())
    # What a report says may be any number of its kind; without it an energy is whole.
    report = description.pop("report", None)
    file.write_text(json.dumps(description))
    refused, accepted = walk(file, lambda: load_energy(folder))
    assert refused > 10 * accepted
    if report is not None:
        file.write_text(json.dumps({"report": report} | description))
        with_report, _ = walk(file, lambda: load_energy(folder))
        assert with_report > refused


@pytest.mark.parametrize("name", ["dino", "sparse_n64_k6", "sparse_pixels"])
def test_networks(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(pretrained_models.FOLDER / name, folder)
    load = load_denoiser if name == "sparse_n64_k6" else load_network
    # What is within bounds is traced, which takes a while.
    if name != "sparse_pixels":
        values = (None, -1, 2**31, "x", [], {}, GONE)
        refused, accepted = walk(folder / "network.json", lambda: load(folder), values)
        assert refused > accepted
    description = json.loads((folder / "network.json").read_text())
    description["module"]["hidden" if name == "sparse_n64_k6" else "width"] += 4
    (folder / "network.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"is damaged: .* has shape \["):
        load(folder)


def test_cards(tmp_path, monkeypatch):
    shutil.copytree(pretrained_models.FOLDER / "dino", tmp_path / "dino")
    monkeypatch.setattr(pretrained_models, "FOLDER", tmp_path)
    card = tmp_path / "dino" / "card.json"
    refused, accepted = walk(card, lambda: str(pretrained_models.pretrained_card("dino")))
    assert refused > accepted > 0


def test_sweeps(run, tmp_path):
    sweep = tmp_path / "sweep"
    shutil.copytree(run.path, sweep / "runs" / "one")
    (sweep / "failures").mkdir()
    failure = sweep / "failures" / "two.json"
    failure.write_text(json.dumps({"attempts": 1, "reason": "x", "details": "y"}))
    read = script(report, f"--run={sweep}", f"--out={tmp_path / 'x.html'}")
    refused, _ = walk(failure, read, (None, 5, "", [], GONE))
    assert refused > 5
    failure.write_text('{"attempts": 1, "reason": []}')
    with pytest.raises(ValueError, match=r"two\.json is damaged: reason must be text"):
        read_entries(failure, Failure)
    failure.unlink()
    tables = [
        "",
        "\n",
        "status",
        "status\n",
        "a,status\n1\n1,finished,3\n",
        'a\n"x',
        "a,b\n\x00,1\n",
    ]
    tables += ["a\n" + "x" * 200_000, "status,status\nfinished,x\n"]
    for text in tables:
        (sweep / "table.csv").write_text(text)
        script(report, f"--run={sweep}", f"--out={tmp_path / 'x.html'}")
        assert report.run([f"--run={sweep}", f"--out={tmp_path / 'x.html'}"]) in (0, 2)
    (sweep / "table.csv").unlink()
    for text in ("", "\n\n", "#", "|", "|\n|", "| a |\n|---|", "# a\n| b |\n\n\n|x", "`", "\x00"):
        (sweep / "table.md").write_text(text)
        assert report.run([f"--run={sweep}", f"--out={tmp_path / 'x.html'}"]) == 0
    (sweep / "table.md").write_bytes(b"\xff\xfe")
    assert report.run([f"--run={sweep}", f"--out={tmp_path / 'x.html'}"]) == 2
