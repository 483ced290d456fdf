"""No search for cyclic garbage before the work begins, and all as before from then on."""

import gc
import subprocess
import sys

import pytest

from data_generation.scripts.garbage import PATIENCE, imports_over, imports_unsearched


@pytest.fixture(autouse=True)
def usual():
    """Python's own thresholds, in a process that has frozen nothing of ours."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def test_thresholds_come_back_when_the_work_begins():
    frozen = gc.get_freeze_count()
    with imports_unsearched(lasting=False):
        assert gc.get_threshold()[0] == PATIENCE
        imports_over()
        assert gc.get_threshold() == (700, 10, 10)
        gc.set_threshold(800, 10, 10)  # the script's own wish
    assert gc.get_threshold() == (800, 10, 10)
    assert gc.get_freeze_count() == frozen  # another's process


def test_thresholds_come_back_at_the_end():
    with pytest.raises(ValueError, match="bad"), imports_unsearched(lasting=False):
        raise ValueError("bad")
    assert gc.get_threshold() == (700, 10, 10)


def test_a_script_within_a_script_changes_nothing():
    with imports_unsearched(lasting=False):
        with imports_unsearched(lasting=False):
            pass
        assert gc.get_threshold()[0] == PATIENCE


def test_what_others_have_decided_stays():
    for decided in ((0, 10, 10), (2 * PATIENCE, 10, 10)):
        gc.set_threshold(*decided)
        with imports_unsearched(lasting=False):
            assert gc.get_threshold() == decided
        assert gc.get_threshold() == decided


def test_nothing_happens_without_a_script():
    imports_over()
    assert gc.get_threshold() == (700, 10, 10)


def test_a_process_of_its_own_forgets_its_imports():
    code = (
        "import gc, sys\n"
        "from data_generation.scripts.garbage import imports_over, imports_unsearched\n"
        "before = gc.get_threshold()\n"
        "with imports_unsearched(lasting=True):\n"
        "    kept = [[] for _ in range(10_000)]\n"
        "    imports_over()\n"
        "    assert gc.get_freeze_count() > 10_000\n"
        "    assert gc.get_threshold() == before\n"
        "    loop = []\n"
        "    loop.append(loop)\n"
        "    del loop\n"
        "    assert gc.collect() == 1\n"
        "    later = [[] for _ in range(10_000)]\n"
        "assert gc.get_freeze_count() > 20_000\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_training_searches_nothing_while_it_loads(tmp_path):
    """By the script itself: no collection until its data are asked for, which are missing here."""
    (tmp_path / "data" / "empty").mkdir(parents=True)
    code = (
        "import gc, sys\n"
        "from experiments import train\n"
        "counts = lambda: [s['collections'] for s in gc.get_stats()]\n"
        "sys.argv = ['train', '--dataset=empty', '--solver=jkonet-star-linear']\n"
        "before = counts()\n"
        "status = train.run()\n"
        "assert 'jax' in sys.modules\n"
        "print(status, gc.get_freeze_count() > 100_000, counts()[2] - before[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["2", "True", "0"], done.stderr
