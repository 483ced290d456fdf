"""Where compiled programs are kept, and that the next run finds them there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from data_generation.populations.settings import DataSettings
from data_generation.scripts import compilation_cache as module
from data_generation.scripts.command_line import define_flags, run_script
from data_generation.scripts.compilation_cache import (
    compilation_cache,
    keep_cache_from_jobs,
    user_cache,
)

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(module.__file__).parents[2]
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


def test_a_folder_of_other_things_is_refused(fresh, tmp_path):
    folder = made(tmp_path / "mine")
    for name in ("jit_f-0a1b-cache", "jit_f-0a1b-atime", "xla_gpu_kernel_cache_file", ".lockfile"):
        (folder / name).touch()
    assert inside(str(folder))["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    (folder / "config.json").touch()
    with pytest.raises(ValueError, match=r"holds other things, such as .?config.json"):
        inside(str(folder))


def made(folder, mode=0o700):
    folder.mkdir(parents=True)
    folder.chmod(mode)
    return folder


def linked(folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(made(folder.with_name("target")))


def given_away(folder):
    os.chown(made(folder), 4711, 4711)


UNSAFE = {
    "world-writable": (lambda f: made(f, 0o707), "can be written by others"),
    "group-writable": (lambda f: made(f, 0o770), "can be written by others"),
    "world-writable like /tmp": (lambda f: made(f, 0o1777), "can be written by others"),
    "a link": (linked, "is a symbolic link"),
    "another user's": (given_away, "belongs to another user"),
}
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")


@pytest.mark.parametrize(
    "how", [pytest.param(h, marks=[needs_root] if h.startswith("another") else []) for h in UNSAFE]
)
@pytest.mark.parametrize("which", ["all", "own", "variable", "flag"])
def test_a_folder_that_others_can_write_is_refused_with_a_line(fresh, tmp_path, how, which):
    make, reason = UNSAFE[how]
    with compilation_cache("auto"):
        name = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).name
    shutil.rmtree(tmp_path / "caches")
    folder = {
        "all": user_cache(),
        "own": user_cache() / name,
        "variable": tmp_path / "variable",
        "flag": tmp_path / "flag",
    }[which]
    if which == "own":
        made(user_cache())
    make(folder)
    before = sorted(tmp_path.rglob("*"))
    if which == "variable":
        fresh.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
    with pytest.warns(UserWarning, match=f"are not kept: {folder} {reason}") as said:
        variables = inside(str(folder) if which == "flag" else "auto")
    assert [w.category for w in said].count(UserWarning) == 1, [str(w.message) for w in said]
    assert variables["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("error::UserWarning")
def test_what_is_above_decides_as_well(fresh, tmp_path):
    above = made(tmp_path / "above", 0o777)
    folder = made(above / "mine")
    assert f"{above} can be written by others" in module.why_untrusted(folder)
    assert f"{above} can be written by others" in module.why_untrusted(above / "not there yet")
    above.chmod(0o1777)  # as /tmp, where nobody renames what is another's
    assert module.why_untrusted(folder) is None
    # A link on the way is the owner's choice, and its target is what counts.
    (tmp_path / "way").symlink_to(above)
    assert module.why_untrusted(tmp_path / "way" / "mine") is None
    above.chmod(0o777)
    assert "can be written by others" in module.why_untrusted(tmp_path / "way" / "mine")


def test_folders_are_made_for_their_owner_only_whatever_the_umask(fresh, tmp_path):
    before = os.umask(0)
    try:
        chosen = Path(inside("auto")["JAX_COMPILATION_CACHE_DIR"])
        named = Path(inside(str(tmp_path / "named"))["JAX_COMPILATION_CACHE_DIR"])
    finally:
        os.umask(before)
    for folder in (chosen, chosen.parent, named):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_script_goes_on_without(tmp_path, capsys):
    unsafe = made(tmp_path / "unsafe", 0o777)
    ran = []

    def main():
        ran.append(jax.config.jax_enable_compilation_cache)

    flag = f"--compilation-cache={unsafe}"
    assert run_script(main, define_flags(DataSettings), argv=[flag]) == 0
    assert ran == [False]
    error = capsys.readouterr().err
    assert error.startswith(f"warning: compiled programs are not kept: {unsafe} can be written by")
    assert error.count("\n") == 1


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
from data_generation.scripts.command_line import define_flags, run_script, say
from data_generation.populations.settings import DataSettings

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
    assert re.fullmatch(
        r"warning: compiled programs in \S+ cannot be read, .* damaged, delete the folder\n", errors
    )


def test_a_user_without_a_home(tmp_path):
    """A container may run as a user whom nobody knows: everything works, without a cache."""
    program = (
        "import pathlib, sys\n"
        "def home(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = staticmethod(home)\n"
        "from experiments import report\n"
        "sys.exit(report.run(['--run=x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: no run x\n")
