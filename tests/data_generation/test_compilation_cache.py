"""Where compiled programs are kept, and that the next run finds them there."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from data_generation import compilation_cache as module
from data_generation.command_line import define_flags, run_script
from data_generation.compilation_cache import (
    compilation_cache,
    keep_cache_from_jobs,
    user_cache,
)
from data_generation.settings import DataSettings

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(module.__file__).parents[1]
JAX_VARIABLES = [name for name in vars(module).values() if str(name).startswith("JAX_")]


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a process that has not imported JAX, with a cache folder of its own."""
    assert len(JAX_VARIABLES) == 3
    for name in JAX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return monkeypatch


def inside(choice):
    """JAX's variables as a script sees them."""
    with compilation_cache(choice):
        return {name: os.environ[name] for name in JAX_VARIABLES if name in os.environ}


def test_the_user_s_cache_folder_of_each_system(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    name = "jkonet-diffusions"
    assert user_cache({}, "linux") == Path("/home/me/.cache", name)
    assert user_cache({"XDG_CACHE_HOME": "/fast"}, "linux") == Path("/fast", name)
    assert user_cache({"XDG_CACHE_HOME": "relative"}, "linux") == Path("/home/me/.cache", name)
    assert user_cache({"XDG_CACHE_HOME": "/fast"}, "darwin") == Path(
        "/home/me/Library/Caches", name
    )
    assert user_cache({"LOCALAPPDATA": "/local"}, "win32") == Path("/local", name)
    assert user_cache({}, "win32") == Path("/home/me/AppData/Local", name)


def test_auto_is_a_private_folder_per_release_and_machine(fresh, tmp_path):
    chosen = Path(inside("auto")["JAX_COMPILATION_CACHE_DIR"])
    assert chosen.parent == tmp_path / "caches" / "jkonet-diffusions"
    assert chosen.name.startswith(f"{jax.__version__}-")
    assert chosen.stat().st_mode & 0o777 == 0o700
    assert not [name for name in JAX_VARIABLES if name in os.environ]  # nothing stays


def test_what_the_user_has_set_wins(fresh, tmp_path):
    fresh.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    fresh.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    set_by_user = {
        "JAX_COMPILATION_CACHE_DIR": "/elsewhere",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7",
    }
    assert inside("auto") == set_by_user
    assert not (tmp_path / "caches").exists()
    # A flag is nearer than a variable.
    named = inside(str(tmp_path / "named"))
    assert named["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "named")
    assert inside("off") == set_by_user | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert {name: os.environ.get(name) for name in set_by_user} == set_by_user


def test_without_a_folder_to_write_to(fresh, tmp_path, capsys):
    (tmp_path / "caches").write_text("in the way")
    assert inside("auto") == {}
    flag = f"--compilation-cache={tmp_path / 'caches' / 'mine'}"
    ran = []
    assert run_script(lambda: ran.append(1), define_flags(DataSettings), argv=[flag]) == 2
    assert capsys.readouterr().err.startswith("error: --compilation-cache=")
    assert not ran


def test_a_process_with_jax_keeps_its_own_unless_told_otherwise(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache")
    before = [getattr(jax.config, name) for name in names]
    with compilation_cache("auto"):
        assert [getattr(jax.config, name) for name in names] == before
    with compilation_cache(str(tmp_path)):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    with compilation_cache("off"):
        assert not jax.config.jax_enable_compilation_cache
    assert [getattr(jax.config, name) for name in names] == before


def test_jobs_choose_their_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for folder, kept in ((user_cache() / "0.10-abc", False), (tmp_path / "mine", True)):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        keep_cache_from_jobs()
        assert ("JAX_COMPILATION_CACHE_DIR" in os.environ) == kept


def test_the_oldest_programs_go_first(tmp_path):
    files = [tmp_path / release / f"program{i}-cache" for i, release in enumerate("aabb")]
    for age, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1e9 - age, 1e9 - age))
    stranger = tmp_path / "a" / "notes.txt"
    stranger.write_bytes(bytes(1000))
    module._prune(tmp_path, 350)
    assert [file.exists() for file in files] == [True, True, True, False]
    module._prune(tmp_path, 350, 2)
    assert [file.exists() for file in files] == [True, True, False, False]
    assert stranger.exists()


PROGRAM = """
import sys
from data_generation.command_line import define_flags, run_script, say
from data_generation.settings import DataSettings

def main():
    import jax
    events = []
    jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
    value = jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((3, 3)))
    say(f"{float(value)} {events.count('cache_hits')} {events.count('cache_misses')}")

sys.exit(run_script(main, define_flags(DataSettings), argv=sys.argv[1:]))
"""


def test_a_second_run_compiles_nothing(tmp_path):
    """By the default flags; and a damaged program is compiled again."""
    environment = {
        **{name: value for name, value in os.environ.items() if name not in JAX_VARIABLES},
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path),
    }

    def run(*flags):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *flags],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        value, hits, misses = done.stdout.split()
        assert float(value) == 27.0
        return int(hits), int(misses), done.stderr

    hits, compiled, _ = run()
    assert hits == 0
    assert compiled > 0
    assert run() == (compiled, 0, "")
    for file in tmp_path.glob("jkonet-diffusions/*/*-cache"):
        file.write_bytes(file.read_bytes()[:50])
    hits, _, errors = run()
    assert hits == 0
    assert "Traceback" not in errors
