import csv
import math
import re

import numpy as np
import pytest

from experiments import reproduce
from experiments.reproductions import dimensions, functionals
from experiments.reproductions.settings import EXPERIMENTS, ReproduceSettings

SIMULATED = [name for name in EXPERIMENTS if name != "embryoid-body"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reproductions")


def carry_out(folder, experiment, *flags, status=0):
    arguments = [f"--experiment={experiment}", "--quick", f"--data-dir={folder / 'data'}"]
    arguments += [f"--runs-dir={folder / 'runs'}", "--eval-every=2", *flags]
    assert reproduce.run(arguments) == status
    return folder / "runs" / f"{experiment}-quick"


def tables(text):
    """Rows of all Markdown tables of a page, as dictionaries."""
    rows, header = [], None
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif not set(line) <= set("|-"):
            rows.append(dict(zip(header, cells, strict=True)))
    return rows


@pytest.fixture(scope="module")
def reproduced(folder):
    """The page of every simulated experiment."""
    return {
        name: tables((carry_out(folder, name) / f"{name}.md").read_text()) for name in SIMULATED
    }


def test_every_experiment_leaves_a_figure_and_a_full_table(folder, reproduced):
    for name in SIMULATED:
        place = folder / "runs" / f"{name}-quick"
        assert (place / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with (place / "table.csv").open(newline="") as file:
            assert {row["status"] for row in csv.DictReader(file)} == {"finished"}
        assert reproduced[name]
        assert all(cell != "" for row in reproduced[name] for cell in row.values()), name


def test_a_part_of_a_grid():
    """Only what is named is run."""
    parts = ReproduceSettings(
        experiment="dimensions", potentials=("flat",), dimensions=(4, 7), particle_counts=(50,)
    )
    assert {(c.data.dimension, c.data.n_particles) for c in dimensions.cells(parts)} == {
        (4, 50),
        (7, 50),
    }
    one = ReproduceSettings(experiment="functionals", potentials=("flat",), betas=(0.3,))
    assert {c.data.beta for c in functionals.cells(one)} == {0.3}


def test_the_closed_form_finds_the_sphere(reproduced):
    emd, drift = reproduced["potentials"][0], reproduced["potentials"][2]
    assert emd["potential"] == drift["potential"] == "sphere"
    assert float(emd["jkonet-star-linear-potential"]) < 1e-4 * float(emd["no change"])
    assert float(drift["jkonet-star-linear-potential"]) < 1e-4
    by_dimension = [r for r in reproduced["dimensions"] if "jkonet" not in str(r)]
    assert [r["dimension"] for r in by_dimension] == ["2", "3"] * 2


def test_each_kind_of_data_has_its_scheme(reproduced):
    euler, flow = reproduced["schemes"]
    errors = {s: float(euler[f"drift {s}"]) for s in ("explicit", "implicit", "midpoint")}
    assert errors["explicit"] < 1e-3 * min(errors["implicit"], errors["midpoint"])
    errors = {s: float(flow[f"drift {s}"]) for s in ("explicit", "implicit", "midpoint")}
    assert errors["midpoint"] < 0.1 * min(errors["explicit"], errors["implicit"])


def test_entropy_costs_accuracy(reproduced):
    exact, entropic = reproduced["couplings"]
    column = "jkonet-star-linear-potential: drift"
    assert float(exact["mass kept"]) == pytest.approx(1.0)
    assert float(exact[column]) < 1e-3 < float(entropic[column])


def test_a_reproduction_continues(folder, reproduced, capfd):
    before = {
        p: p.stat().st_mtime_ns for p in (folder / "runs/schemes-quick/runs").rglob("summary.json")
    }
    capfd.readouterr()
    carry_out(folder, "schemes")
    assert "6 runs, 6 finished" in capfd.readouterr().out
    assert all(p.stat().st_mtime_ns == then for p, then in before.items())


def test_reference_snapshots_take_the_place_of_simulated_ones(folder, capfd):
    rng = np.random.default_rng(0)
    start = rng.uniform(-4, 4, (2, 100, 2)).astype(np.float32)
    train, test = (np.stack([x * 1.1**k for k in range(3)]) for x in start)
    (folder / "reference").mkdir()
    np.savez(folder / "reference" / "sphere.npz", train=train, test=test, dt=0.01)
    flags = (
        f"--reference={folder / 'reference'}",
        "--potentials=sphere",
        "--solvers=jkonet-star-linear-potential",
        "--sweep-name=referenced",
    )
    arguments = ["--experiment=potentials", "--quick", f"--data-dir={folder / 'data'}"]
    assert reproduce.run([*arguments, f"--runs-dir={folder / 'runs'}", *flags]) == 0
    row = tables((folder / "runs" / "referenced" / "potentials.md").read_text())[0]
    moved = np.mean([0.1 * np.linalg.norm(x, axis=1).mean() for x in test[:-1]])
    # A radial map that nowhere turns is optimal for W1 too only up to rearrangement.
    assert 0.5 * moved < float(row["no change"]) <= 1.001 * moved


@pytest.fixture(scope="module")
def embryoid_body(folder):
    """Five days of a cloud that drifts by one a day, and the page that is made of it."""
    rng = np.random.default_rng(1)
    days = [rng.normal(size=(60, 2)) + [k, 0.0] for k in range(5)]
    file = folder / "cells.npz"
    points = np.concatenate(days).astype(np.float32)
    np.savez(file, points=points, times=np.repeat(np.arange(5.0), 60))
    place = carry_out(folder, "embryoid-body", f"--embryoid-body={file}", "--epochs=60")
    text = (place / "embryoid-body.md").read_text()
    pages = dict(
        zip(
            re.findall(r"^## (.*)$", text, re.M),
            re.split(r"^## .*$", text, flags=re.M)[1:],
            strict=True,
        )
    )
    return place, {name: tables(page) for name, page in pages.items()}


def test_the_protocols_are_told_apart(embryoid_body):
    place, pages = embryoid_body
    assert list(pages) == [
        "one step ahead",
        "leave one out",
        "leave two out, day 1 from day 0",
        "leave two out, day 3 from day 2",
        "leave two out, day 3 from day 0",
    ]
    metrics = [next(k for k in rows[0] if k != "method") for rows in pages.values()]
    assert metrics == ["W1", "W1", "W2", "W2", "W2"]
    first = {row["method"]: row for row in pages["one step ahead"]}
    ours, still, lookup = (first[name] for name in ("ours, explicit", "no change", "lookup"))
    assert float(ours["energy_distance"]) < float(still["energy_distance"])
    assert 0.4 < float(ours["c2st"]) <= 1
    assert float(lookup["W1"]) > 0
    assert "energy_distance" not in pages["leave one out"][0]
    for name in ("embryoid-body", "embryoid-body-cells"):
        assert (place / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_drifts_evenly_is_predicted_between_floor_and_no_change(embryoid_body):
    _, pages = embryoid_body
    for rows in pages.values():
        values = {r["method"]: r[next(k for k in r if k != "method")] for r in rows}
        floor, still = float(values["sampling floor"]), float(values["no change"])
        ours = float(values["ours, explicit"].split(" ")[0])
        assert math.isfinite(ours)
        assert ours < 0.85 * still
        assert ours > 0.4 * floor


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--experiment is required"),
        (("--experiment=potental",), "did you mean potentials"),
        (("--experiment=embryoid-body",), "needs --embryoid-body=FILE"),
        (("--experiment=schemes", "--reference=x"), "--experiment=potentials"),
        (("--experiment=embryoid-body", "--embryoid-body=none.npz"), "none.npz"),
        (("--experiment=schemes", "--embryoid-body=x"), "--experiment=embryoid-body"),
        (("--experiment=embryoid-body", "--potentials=moon"), "reads a file"),
        (("--experiment=potentials", "--reference=nowhere"), "holds no snapshots"),
        (("--experiment=potentials", "--dimensions=2"), "--experiment=dimensions"),
        (("--experiment=potentials", "--particle-counts=9"), "--experiment=dimensions"),
        (("--experiment=schemes", "--betas=0.1"), "--experiment=functionals"),
    ],
)
def test_bad_input_is_one_line(folder, capfd, flags, message):
    places = [f"--runs-dir={folder / 'bad'}", f"--data-dir={folder / 'bad_data'}"]
    assert reproduce.run([*places, *flags]) in (0, 2)
    captured = capfd.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_quick_and_full_runs_have_folders_of_their_own():
    names = {ReproduceSettings(experiment="schemes", quick=q).name for q in (True, False)}
    assert names == {"schemes", "schemes-quick"}
