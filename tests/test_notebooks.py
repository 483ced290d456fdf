"""Every notebook is committed clean, installs itself, runs from an empty folder, and draws."""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from data_generation.images import downloads

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BADGE = re.compile(
    r"\[!\[Open In Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
    r"\(https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/notebooks/(\w+)\.ipynb\)"
)
REPOSITORY = re.compile(r"\bgithub(?:\.com)?/([\w.-]+/jkonet-diffusions)\b")
DRAWS = re.compile(r"plt\.show\(\)|plt\.subplots\(|^Image\(", re.MULTILINE)
OF_SOME_MACHINE = re.compile(
    r"(?<![\w.:/}])/(?:home|root|tmp|work|mnt|opt|Users|content)\b|[A-Z]:\\"
)

TINIEST = """from diffusions.networks.presets import UNET_PRESETS
UNET_PRESETS["tiny"] |= {"width": 4, "multipliers": (1,), "groups": 2}
from experiments.sparse_pixels.__main__ import run"""
# The same lines with smaller numbers: what is written in the notebook, and what the tests run.
SMALLER = {
    "cells": {
        "n_cells=5000, n_genes=2000": "n_cells=400, n_genes=200",
        'use_rep="X_pca",': 'use_rep="X_pca", solver="jkonet-star-time-potential", network=NETWORK,',
        "growth=True,": "growth=GROWTH,",
        'TERMINAL = ["A", "B", "C"]': """TERMINAL = ["A", "B", "C"]
from jkonet_star import GrowthSettings
NETWORK = NetworkSettings(epochs=100, hidden=(16,), batch_size=100)
GROWTH = GrowthSettings(growth_prices=(0.65,), growth_rounds=2, growth_inducing=10)""",
        "SHORT = NetworkSettings(epochs=50)": "SHORT = NETWORK",
        "n_cells=2000, n_genes=300": "n_cells=300, n_genes=200",
    },
    "information_theoretic": {
        "n_log_snr=100": "n_log_snr=8",
        "n_samples=8": "n_samples=1",
        "N, LEFT, BOTTOM, SIZE = 60,": "N, LEFT, BOTTOM, SIZE = 12,",
        "n_log_snr=128": "n_log_snr=8",
        "uniform_times(low, high, 150)": "uniform_times(low, high, 8)",
        "n_log_snr=4096": "n_log_snr=64",
    },
    "jkonet_star": {
        "n_particles=250": "n_particles=60",
        "n_particles=1000, dt=DT, **TRUTH": "n_particles=300, dt=DT, **TRUTH",
        '"n_particles": 1000': '"n_particles": 100',
        "epochs=60": "epochs=2",
    },
    "linear_denoiser": {
        "REPETITIONS = 20": "REPETITIONS = 2",
        "(50, 90, 110, 150, 300, 1000)": "(50, 90, 200)",
        "jax.random.key(7), 1000, DIMENSION": "jax.random.key(7), 100, DIMENSION",
    },
    "quick_start": {
        "n_particles=1000": "n_particles=120",
        "epochs=100": "epochs=4",
    },
    "single_cells": {
        "n=600": "n=60",
        "epochs=60": "epochs=2",
        "eval-every=60": "eval-every=2",
        "hidden=128,128": "hidden=8,8",
    },
    "sparse_localization": {
        "n_samples=150": "n_samples=8",
        "uniform_times(2.0, 3.0 * N)": "uniform_times(24.0, 3.0 * N)",
        "n_samples=100": "n_samples=8",
        "uniform_times(0.25, horizon)": "uniform_times(10.0, horizon)",
        "0, 300))": "0, 20))",
    },
    "sparse_pixels": {
        "from experiments.sparse_pixels.__main__ import run": TINIEST,
        "--n-train=512": "--n-train=16",
        "--epochs=4": "--epochs=1",
        "--panel-every=4": "--panel-every=1",
        "--n-test=24": "--n-test=8",
        "--n-panel=24": "--n-panel=8",
        "--draws=4": "--draws=2",
        "--steps=10": "--steps=2",
    },
    "your_own_diffusion": {
        "ring(4000), ring(1000)": "ring(400), ring(20)",
        "fit(x, key=0)": "fit(x, NETWORK, key=0, settings=QUICK)",
        "rng = np.random": """from diffusions import TrainingSettings
from diffusions.networks.mlp import DenoisingMLP
NETWORK = DenoisingMLP(width=8, n_layers=0, embedding=4)
QUICK = TrainingSettings(epochs=10, learning_rate=1e-30)
rng = np.random""",
        "fit(x, key=0, settings": "fit(x, NETWORK, key=0, settings",
        "epochs=200": "epochs=10, learning_rate=1e-30",
        "sample(1, 4000)": "sample(1, 40, n_steps=4)",
    },
}

OURS = ["jkonet_star", "anndata"]
EXTRAS = {"cells": ["cells"], "single_cells": ["bio"]}
notebooks = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def read(file):
    return nbformat.read(file, as_version=4)


def code_of(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def smaller(file):
    """The notebook with the numbers of the tests."""
    book = read(file)
    for text, instead in SMALLER[file.stem].items():
        cells = [cell for cell in code_of(book) if text in cell.source]
        assert cells, text
        for cell in cells:
            cell.source = cell.source.replace(text, instead)
    return book


def install_cell(file):
    (cell,) = [cell for cell in code_of(read(file)) if "%pip" in cell.source]
    return cell.source


def test_there_is_one_for_every_system():
    assert {file.stem for file in NOTEBOOKS} >= {
        "quick_start",
        "cells",
        "jkonet_star",
        "information_theoretic",
        "linear_denoiser",
        "sparse_localization",
        "sparse_pixels",
        "single_cells",
        "your_own_diffusion",
    }


@notebooks
def test_notebooks_are_committed_clean(file):
    book = read(file)
    nbformat.validate(book)
    for cell in code_of(book):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert not OF_SOME_MACHINE.search(cell.source), cell.source
    first = book.cells[0].source
    assert first.startswith("# ")
    (badge,) = BADGE.findall(first)
    assert badge[1] == file.stem
    # The folder is read by Colab's users alone: links lead to its own files.
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\((?!https://)([^)]*)\)", text):
        assert (file.parent / link).is_file(), link
    # Prose before every picture or so, never three cells of code in a row.
    kinds = "".join(cell.cell_type[0] for cell in book.cells)
    assert "ccc" not in kinds.replace("mc", "", 1)


@notebooks
def test_what_is_imported_is_there(file):
    """Without running it, so that a name that moved is noticed at once."""
    source = "\n".join(c.source for c in code_of(read(file)) if "%pip" not in c.source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (ROOT / str(node.module).split(".")[0]).is_dir():
            exec(ast.unparse(node), {})


def test_all_notebooks_name_the_same_repository():
    named = {
        name
        for file in [*NOTEBOOKS, ROOT / "README.md", ROOT / "pyproject.toml"]
        if file.is_file()
        for name in REPOSITORY.findall(file.read_text())
    }
    assert len(named) == 1


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The commands that install cells run, of one process that loads IPython once."""
    folder = tmp_path_factory.mktemp("installed")
    clone = folder / "clone"
    for place in ("elsewhere", "clone/jkonet_star", "clone/notebooks"):
        (folder / place).mkdir(parents=True)
    somewhere, first = folder / "elsewhere", install_cell(ROOT / "notebooks" / "quick_start.ipynb")
    cases = {
        **{
            f"{file.stem} {gpu} {jax}": (install_cell(file), somewhere, hidden, gpu)
            for file in NOTEBOOKS
            for gpu in (False, True)
            for jax, hidden in ((True, OURS), (False, [*OURS, "jax"]))
        },
        "found": (first, somewhere, [], True),
        "clone": (first, clone / "notebooks", OURS, False),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(cases, default=str),
        cwd=somewhere,
        env=os.environ | {"IPYTHONDIR": str(folder / ".ipython"), "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        check=True,
    )
    commands = json.loads(done.stdout.splitlines()[-1])
    return lambda case: "\n".join(commands[case]), clone


@notebooks
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("jax", [False, True], ids=["bare", "with_jax"])
def test_the_install_cell_installs_where_nothing_is(file, gpu, jax, installed):
    """From GitHub, with JAX for a GPU where there is one; Colab's own JAX stays as it is."""
    command = installed[0](f"{file.stem} {gpu} {jax}")
    extras = ",".join(EXTRAS.get(file.stem, []) + (["cuda12"] if gpu and not jax else []))
    held = f"'jax=={version('jax')}'" if jax else ""
    wanted = f"jkonet-diffusions{f'[{extras}]' if extras else ''} @ git+https://github.com/"
    assert f'pip install -q {held} "{wanted}' in command
    assert "{" not in command


def test_the_install_cell_does_nothing_where_the_packages_are(installed):
    assert installed[0]("found") == ""


def test_the_install_cell_of_a_clone_installs_the_clone(installed):
    commands, clone = installed
    assert f"jkonet-diffusions @ {clone.as_uri()}" in commands("clone")


PROGRAM = """
import importlib.util, json, os, shutil, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
real = importlib.util.find_spec
ran = {}
for name, (source, folder, hidden, gpu) in json.load(sys.stdin).items():
    commands = ran[name] = []
    shell.reset()
    shell.system = commands.append
    importlib.util.find_spec = lambda name: None if name in hidden else real(name)
    shutil.which = lambda name: "there" if gpu else None
    os.chdir(folder)
    shell.run_cell(source).raise_error()
print(json.dumps(ran))
"""


def python_path():
    """The packages of this tree, installed or not; what is given relative to here means elsewhere."""
    given = [
        str(Path(p).absolute()) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p
    ]
    return os.pathsep.join(given)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of the kernels: no screen, no network, no file outside of a temporary folder."""
    home = tmp_path_factory.mktemp("home")
    nowhere = "http://127.0.0.1:9"
    return os.environ | {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": str(home / "ipython"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TMPDIR": str(tmp_path_factory.mktemp("temporary")),
        "PYTHONPATH": python_path(),
        "https_proxy": nowhere,
        "HTTPS_PROXY": nowhere,
    }


@pytest.mark.slow
@notebooks
def test_notebooks_run_from_an_empty_folder(file, environment, tmp_path):
    client = pytest.importorskip("nbclient").NotebookClient(
        smaller(file),
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    book = client.execute(env=environment)  # raises what a cell raises
    n_pictures = 0
    for cell in code_of(book):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        n_pictures += len(pictures)
        assert pictures or not DRAWS.search(cell.source), cell.source
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        assert "Warning" not in printed
    assert n_pictures >= 3
    assert list(tmp_path.iterdir()) == []  # what is written goes to temporary folders
    if file.stem == "single_cells":
        everything = str(book)
        assert "NO REAL CELLS" in everything
        assert "SIMULATED" in everything


@pytest.mark.parametrize("complete", [True, False], ids=["published", "damaged"])
def test_real_cells_are_checked_and_their_absence_is_said(complete, tmp_path, monkeypatch, capsys):
    """The download of the notebook on single cells, from a file of the published layout."""
    pytest.importorskip("anndata")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (source,) = [
        cell.source
        for cell in code_of(read(ROOT / "notebooks" / "single_cells.ipynb"))
        if "SHA256 = " in cell.source
    ]
    file = tmp_path / "published.npz"
    points = np.random.default_rng(0).normal(3.0, 2.0, (40, 7))
    np.savez(file, pcs=points, sample_labels=np.repeat(np.arange(5), 8))
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(downloads, "open_url", lambda url: urllib.request.urlopen(file.as_uri()))
    source = re.sub(r'SHA256 = ".*"', f'SHA256 = "{checksum if complete else 64 * "0"}"', source)
    names: dict = {}
    exec(source, names)
    cells, said = names["cells"], capsys.readouterr().out
    assert ("delivered another file: SHA-256" in said) is not complete
    if complete:
        assert cells.obsm["X_pca"].shape == (40, 5)
        np.testing.assert_allclose(cells.obsm["X_pca"].std(axis=0), 1.0, rtol=1e-5)
        np.testing.assert_array_equal(np.unique(cells.obs["day"]), [1.5, 7.5, 13.5, 19.5, 25.5])
        again = names["anndata"].read_h5ad(names["work"] / "cells.h5ad")
        np.testing.assert_array_equal(again.obsm["X_pca"], cells.obsm["X_pca"])
    else:
        assert "SIMULATED" in said
        assert len(cells) == 3000
