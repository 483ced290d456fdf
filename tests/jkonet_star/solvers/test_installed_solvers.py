"""Solvers of installed packages, as the contributors' page declares them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def blocks(language):
    page = (ROOT / "docs/contributing.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages: one whose solver is that of the page, and two that are broken."""
    folder = tmp_path_factory.mktemp("site")
    (declared,) = blocks("toml")
    header, line = declared.strip().splitlines()
    assert header == '[project.entry-points."jkonet_star.solvers"]'
    wrong = "absent = my_package.nowhere:X\nnumber = my_package.names:NUMBER\n"
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jkonet_star.solvers]\n" + line.replace('"', "") + "\n" + wrong
    )
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (names,) = (block for block in blocks("python") if "RegisteredSolver(" in block)
    (package / "names.py").write_text(names + "NUMBER = 3\n")
    (algorithm,) = (block for block in blocks("python") if "class UniformField" in block)
    imports = "import jax.numpy as jnp\n"
    (package / "fields.py").write_text(imports + algorithm.split("\nmoved = ")[0])
    return folder


def run(site, folder, code, *arguments):
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


TRAIN = "import sys; from experiments import train; raise SystemExit(train.run(sys.argv[1:]))"


def test_help_names_it_and_imports_nothing_for_it(site, tmp_path):
    code = (
        "import sys; from experiments import train; train.run(['--help']);"
        "print([m for m in sys.modules if m in ('jax', 'my_package')])"
    )
    done = run(site, tmp_path, code)
    assert done.stdout.endswith("\n[]\n"), done.stderr
    assert "jkonet-monge-gap, uniform-field, absent, number}" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("absent", "'absent' at my_package.nowhere:X cannot be loaded: No module named"),
        ("number", "'number' at my_package.names:NUMBER must be a RegisteredSolver, got 3"),
        ("uniform-fields", "did you mean uniform-field?"),
    ],
)
def test_one_that_is_broken_is_named_when_it_is_asked_for(site, tmp_path, solver, message):
    done = run(site, tmp_path, TRAIN, f"--solver={solver}")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_script_trains_with_it(site, tmp_path):
    make = "from data_generation.__main__ import run; raise SystemExit(run())"
    data = ("--n-particles=50", "--n-timesteps=2", "--n-gmm-components=0")
    done = run(site, tmp_path, make, *data, "--dataset-name=few")
    assert done.returncode == 0, done.stderr
    wanted = ("--solver=uniform-field", "--dataset=few", "--run-name=own", "--noplots")
    done = run(site, tmp_path, TRAIN, *wanted)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/own/summary.json").read_text())
    assert summary["solver"] == "uniform-field"
    still = run(
        site,
        tmp_path,
        "from checkpoints import load_energy; import numpy as np;"
        "e = load_energy('runs/own/energy');"
        "print(np.ptp(np.asarray(e.member(0).drift(3.0 * np.eye(2))), axis=-2).max())",
    )
    assert still.returncode == 0, still.stderr
    assert float(still.stdout) == 0.0
