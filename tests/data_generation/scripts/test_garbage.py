"""No search for cyclic garbage among imports; elsewhere, and in others' processes, all as before."""

import ast
import gc
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from data_generation.scripts import garbage
from data_generation.scripts.garbage import importing, own_process
from experiments import train

ROOT = Path(__file__).parents[3]


def run(*arguments, cwd, path=()):
    """Another process, with more folders on Python's path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
    )


def test_a_search_waits_for_the_imports():
    frozen = gc.get_freeze_count()
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
        with importing():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen  # in another's process; what dies is gone


def test_what_others_have_decided_stays():
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("spec", "file", "own"),
    [
        ("experiments.train", "train.py", True),
        ("experiments.sparse_pixels.__main__", "__main__.py", True),
        ("checkpoints.export", "export.py", True),
        (None, "/usr/bin/jkonet", True),
        (None, "/usr/bin/data_generation", True),
        (None, "/usr/bin/ipython", False),
        (None, None, False),  # a notebook, python -c
        ("pytest.__main__", "__main__.py", False),
        ("experimental.thing", "thing.py", False),
    ],
)
def test_whose_process_it_is(monkeypatch, spec, file, own):
    main = types.ModuleType("__main__")
    main.__spec__ = None if spec is None else types.SimpleNamespace(name=spec)
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert own_process() == own


def test_a_script_in_anothers_process_leaves_the_collector_as_it_is(tmp_path):
    before, frozen = (gc.get_threshold(), gc.isenabled()), gc.get_freeze_count()
    (tmp_path / "data" / "empty").mkdir(parents=True)
    arguments = ["--dataset=empty", "--solver=jkonet-star-linear", f"--data-dir={tmp_path}/data"]
    assert train.run([*arguments, f"--runs-dir={tmp_path}/runs"]) == 2
    assert (gc.get_threshold(), gc.isenabled()) == before
    assert gc.get_freeze_count() <= frozen
    code = (
        "import gc, runpy\n"
        "try:\n"
        "    runpy.run_module('experiments.train', run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    print(ended.code, gc.get_freeze_count())\n"
    )
    done = run("-c", code, "--dataset=empty", "--solver=jkonet-star-linear", cwd=tmp_path)
    assert done.stdout.split() == ["2", "0"], done.stderr


def test_a_script_of_its_own_searches_nothing_until_its_work_begins(tmp_path):
    (tmp_path / "data" / "empty").mkdir(parents=True)
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc, sys\n"
        "found = []\n"
        "def called(phase, info):\n"
        "    if 'jax' in sys.modules and phase == 'start':\n"
        "        found.append(gc.get_freeze_count())\n"
        "gc.callbacks.append(called)\n"
        "atexit.register(lambda: print('first', (found or [10**9])[0]))\n"
    )
    code = ("-m", "experiments.train", "--dataset=empty", "--solver=jkonet-star-linear")
    done = run(*code, cwd=tmp_path, path=[tmp_path])
    assert done.returncode == 2, done.stderr
    words = done.stdout.split()
    # The first search after JAX began to load found all imports frozen, where there was one.
    assert int(words[words.index("first") + 1]) > 100_000


def test_nothing_is_searched_at_the_end_of_a_process():
    code = (
        "import atexit, gc\n"
        "from data_generation.scripts import garbage\n"
        "garbage.own_process = lambda: True\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 20_000 + first))\n"
        "with garbage.importing():\n"
        "    pass\n"
        "first = gc.get_freeze_count()\n"
        "kept = [[] for _ in range(30_000)]\n"
    )
    assert run("-c", code, cwd=ROOT).stdout.split() == ["True"]


def test_garbage_of_a_run_is_not_kept():
    """Only the first imports of a process are: a sweep runs scripts by the hundred."""
    code = (
        "import gc\n"
        "from data_generation.scripts import garbage\n"
        "garbage.own_process = lambda: True\n"
        "for _ in range(3):\n"
        "    with garbage.importing():\n"
        "        pass\n"
        "    kept = [[] for _ in range(10_000)]\n"
        "    print(gc.get_freeze_count())\n"
    )
    first, *others = map(int, run("-c", code, cwd=ROOT).stdout.split())
    assert first > 1000
    assert all(count <= first for count in others)


def test_every_script_imports_its_work_so():
    """By its text: what `main` imports, it imports there."""
    found = 0
    for package in garbage._PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            mains = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main"]
            if not mains or "run_script(" not in file.read_text(encoding="utf-8"):
                continue
            inside = {
                id(child)
                for node in ast.walk(mains[0])
                if isinstance(node, ast.With)
                and ast.unparse(node.items[0].context_expr) == "importing()"
                for child in ast.walk(node)
            }
            imports = [n for n in ast.walk(mains[0]) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert imports, file
            assert all(id(n) in inside for n in imports), file
            found += 1
    assert found >= 14
