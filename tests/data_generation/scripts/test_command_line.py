"""Flags made from settings, errors of one line, and the data_generation script end to end."""

import dataclasses
import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from absl import flags

from data_generation import __main__ as script
from data_generation.populations.datasets import load_dataset
from data_generation.populations.settings import DataSettings
from data_generation.scripts.command_line import (
    EXIT_BUG,
    Hint,
    attribute_documentation,
    define_flags,
    run_script,
    say,
    settings_from_flags,
)

# The packages under test: of this tree, or of an installed wheel.
ROOT = Path(script.__file__).parents[1]
QUICK = ("--n-particles=25", "--n-gmm-components=2", "--n-timesteps=2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """An example.

    Attributes:
        n_steps: how many `steps`
            there are.
        rate: the rate.
        word: which word.
        seeds: of the runs.
        limit: an optional number.
        is_quick: whether to hurry.

    Not an attribute: this.
    """

    n_steps: int = 5
    rate: float = 0.5
    word: Literal["one", "two"] = "one"
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    is_quick: bool = False

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate must be at least 0,\ngot {self.rate}")


def parsed(*arguments):
    """What the script gets, or the exit status."""
    values = define_flags(Example)
    found = []
    status = run_script(
        lambda: found.append(settings_from_flags(Example, values)), values, argv=arguments
    )
    return found[0] if status == 0 else status


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--n-steps=7"], {"n_steps": 7}),
        (["--n_steps=7"], {"n_steps": 7}),
        (["--n-steps", "7"], {"n_steps": 7}),
        (["-n_steps", "-7"], {"n_steps": -7}),
        (["--rate=1e-3"], {"rate": 1e-3}),
        (["--rate", "2"], {"rate": 2.0}),
        (["--word", "two"], {"word": "two"}),
        (["--word=a-b--c"], {"word": "a-b--c"}),
        (["--word", "--n-steps"], {"word": "--n-steps"}),
        (["--seeds=0,1,2"], {"seeds": (0, 1, 2)}),
        (["--seeds", "4"], {"seeds": (4,)}),
        (["--limit=3"], {"limit": 3}),
        (["--is-quick"], {"is_quick": True}),
        (["--is-quick=false"], {}),
        (["--is-quick", "--nois-quick"], {}),
        (["--is_quick", "--no-is-quick"], {}),
        (["--n-steps=1", "--n_steps=2"], {"n_steps": 2}),
    ],
)
def test_flags_become_settings(arguments, changes):
    assert parsed(*arguments) == Example(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-step=7"], "unknown flag --n-step; did you mean --n-steps?"),
        (["--xyzzy"], "unknown flag --xyzzy (see --help)"),
        (["--n-steps=seven"], "flag --n-steps=seven: 'seven' is not a whole number"),
        (["--n-steps=1.5"], "flag --n-steps=1.5: '1.5' is not a whole number"),
        (["--rate=fast"], "flag --rate=fast: 'fast' is not a number"),
        (["--seeds=0,x"], "flag --seeds=0,x: each of '0,x' must be int"),
        (["--n-steps"], "Missing value for flag --n-steps"),
        (["--nois-quick=1"], "--nois-quick takes no value, got '1'"),
        (["--is-quick=perhaps"], "flag --is-quick=perhaps"),
        (["stray"], "unexpected argument 'stray'"),
        (["--is-quick", "true"], "unexpected argument 'true'"),
        (["--rate=-1"], "rate must be at least 0, got -1.0"),
        (
            ["--word=gr\udcc3\udcb6n"],
            r"'--word=gr\udcc3\udcb6n' is no text in utf-8; names that are",
        ),
        (["--flagfile=/dev/zero"], "--flagfile=/dev/zero is not a file"),
        (["--flagfile=/nonexistent/flags"], "Unable to open flagfile"),
    ],
)
def test_bad_command_lines_are_one_line(arguments, message, capsys):
    assert parsed(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_scripts_do_not_share_flags_nor_runs_their_values():
    values = define_flags(Example)
    seen = []

    def main():
        seen.append(settings_from_flags(Example, values))

    assert run_script(main, values, argv=["--n-steps=9", "--is-quick"]) == 0
    assert run_script(main, values, argv=[]) == 0
    assert seen == [Example(n_steps=9, is_quick=True), Example()]
    assert "n_steps" not in flags.FLAGS


def test_excluded_fields_are_given_in_code():
    values = define_flags(Example, exclude=("n_steps",))
    seen = []

    def main():
        seen.append(settings_from_flags(Example, values, n_steps=4))

    assert run_script(main, values, argv=["--rate=1"]) == 0
    assert seen == [Example(n_steps=4, rate=1.0)]
    assert run_script(main, values, argv=["--n-steps=4"]) == 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("two\nlines"), 2, "error: two lines\n"),
        (
            FileNotFoundError(2, "No such file", "x.npz"),
            2,
            "error: [Errno 2] No such file: 'x.npz'\n",
        ),
        (ImportError("needs [bio]"), 2, "error: needs [bio]\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_a_script(error, status, message, capsys):
    def main():
        raise error

    assert run_script(main, define_flags(Example), argv=[]) == status
    assert capsys.readouterr().err == message


def test_debug_shows_the_traceback(capsys):
    def main():
        raise ValueError("bad input")

    assert run_script(main, define_flags(Example), argv=["--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert 'raise ValueError("bad input")' in err


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("x"), RecursionError("too deep")])
def test_a_bug_is_not_disguised_as_bad_input(error, capsys):
    def main():
        raise error

    assert run_script(main, define_flags(Example), argv=[]) == EXIT_BUG == 70
    err = capsys.readouterr().err
    assert err.startswith(f"error: {type(error).__name__}: ")
    assert err.endswith("this is a bug in jkonet-diffusions, run again with --debug to see where\n")
    assert err.count("\n") == 1
    assert run_script(main, define_flags(Example), argv=["--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


class XlaRuntimeError(RuntimeError):
    """As JAX names it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8. TiB for an array"),
        XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ],
)
def test_too_little_memory_is_no_bug(error, capsys):
    def main():
        raise error

    assert run_script(main, define_flags(Example), argv=[]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: not enough memory for what these settings ask for (")
    assert err.count("\n") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_resume_only_where_the_script_has_it(code, capsys):
    def main():
        raise OSError(code, "no room")

    assert run_script(main, define_flags(Example), argv=[]) == 2
    whole = f"error: [Errno {code}] no room; what was written before is whole"
    assert capsys.readouterr().err == f"{whole}\n"
    values = define_flags(Example)
    flags.DEFINE_boolean("resume", False, "Goes on.", flag_values=values)
    assert run_script(main, values, argv=[]) == 2
    resume = ", and --resume continues a run once there is room\n"
    assert capsys.readouterr().err == whole + resume


def test_of_the_notes_of_an_error_only_our_hints_are_said(capsys):
    def main():
        error = ValueError("x")
        error.add_note("JAX has removed its internal frames")
        error.add_note(Hint("look\nthere"))
        raise error

    assert run_script(main, define_flags(Example), argv=[]) == 2
    assert capsys.readouterr().err == "error: x; look\\nthere\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vectors=maybe"], "flag --vectors=maybe: true or false, not 'maybe'"),
        (["--vectors", "--noplots"], "--vectors is of pictures, of which --noplots draws none"),
    ],
)
def test_pages_of_no_pictures_are_refused(arguments, message, capsys):
    values = define_flags(Example)
    flags.DEFINE_boolean("plots", True, "Draws.", flag_values=values)
    assert run_script(lambda: None, values, argv=arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert run_script(lambda: None, values, argv=["--vectors"]) == 0


def test_messages_are_printable_and_short(capsys):
    def main():
        raise ValueError("no run '\x1b[2Jx\u202e'" + "x" * 10_000)

    assert run_script(main, define_flags(Example), argv=[]) == 2
    err = capsys.readouterr().err
    assert err.startswith(r"error: no run '\x1b[2Jx\u202e'xxx")
    assert len(err) < 1020


def test_documentation_comes_from_the_docstring():
    found = attribute_documentation(Example)
    assert found["n_steps"] == "How many steps there are."
    assert set(found) == {f.name for f in dataclasses.fields(Example)}
    assert set(attribute_documentation(DataSettings)) == {
        f.name for f in dataclasses.fields(DataSettings)
    }


def test_help_names_every_flag_its_default_and_an_example(capsys):
    assert script.run(["--help"]) == 0
    out = capsys.readouterr().out
    for field in dataclasses.fields(DataSettings):
        assert f"{field.name.replace('_', '-')}" in out
    assert "(default: 0.01)" in out
    assert "zigzag_ridge" in out
    assert "data_generation --potential=styblinski_tang" in out
    assert max(map(len, out.splitlines())) <= 106


def test_say_writes_a_line(capsys):
    say("here")
    assert capsys.readouterr().out == "here\n"


def run_apart(*arguments, cwd):
    environment = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        MPLBACKEND="tkagg",
        JAX_ENABLE_COMPILATION_CACHE="false",  # the user's own is no place for tests
    )
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("argument", ["--help", "--potentail=flat", "--potential=spere", "stray"])
def test_help_and_mistakes_are_answered_without_jax(argument, tmp_path):
    code = (
        "import sys; from data_generation.__main__ import run; status = run([sys.argv[1]]); "
        "heavy = {'jax', 'numpy', 'ott', 'sklearn', 'matplotlib', 'flax'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    done = run_apart("-c", code, argument, cwd=tmp_path)
    assert done.returncode == (0 if argument == "--help" else 2), done.stderr
    assert "loaded" not in done.stderr


def test_the_script_in_a_process_of_its_own(tmp_path):
    """The documented command, at a smaller size."""
    done = run_apart(
        "-m", "data_generation", "--potential", "styblinski_tang", *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    name = (
        "potential_styblinski_tang_internal_none_beta_0.0_interaction_none_dt_0.01_T_2_dim_2_N_25"
        "_gmm_2_seed_0"
    )
    assert f"data/{name}" in done.stdout
    assert [p.name for p in (tmp_path / "data").iterdir()] == [name]
    assert load_dataset(name, tmp_path / "data").train.n_snapshots == 3


def test_a_failing_script_in_a_process_of_its_own(tmp_path):
    done = run_apart("-m", "data_generation", "--load-from-file=missing.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout.count("\n") <= 2) == (2, True)
    assert done.stderr == "error: missing.npz: no such file\n"
    assert not list(tmp_path.iterdir())


def test_end_to_end_then_reuse_then_overwrite(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--potential=sphere", "--internal=wiener", "--beta=0.1", "--unpaired", *QUICK]
    assert script.run(arguments) == 0
    out = capsys.readouterr().out
    (folder,) = (tmp_path / "data").iterdir()
    assert folder.name.endswith("_seed_0_unpaired")
    for piece in (folder.name, "exact", "dropped mass", "independent simulation", "cpu"):
        assert piece in out
    stamp = (folder / "train.npz").stat().st_mtime_ns
    assert script.run(arguments) == 0
    assert "already holds this dataset" in capsys.readouterr().out
    assert (folder / "train.npz").stat().st_mtime_ns == stamp
    assert script.run([*arguments, "--overwrite"]) == 0
    assert (folder / "train.npz").stat().st_mtime_ns > stamp


@pytest.mark.parametrize(("substeps", "said"), [(1, True), (20, False)])
def test_particles_that_are_thrown_out_are_told_of(substeps, said, tmp_path, capsys):
    arguments = ["--potential=beale", "--n-gmm-components=0"]
    arguments += [f"--substeps={substeps}", f"--data-dir={tmp_path}"]
    assert script.run(arguments) == 0
    assert ("thrown out" in capsys.readouterr().out) is said


def test_spellings_make_the_same_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script.run(["--n-particles=25", "--n_gmm_components=0", "--n-timesteps", "1"]) == 0
    assert script.run(["--n_particles=25", "--n-gmm-components", "0", "--n_timesteps=1"]) == 0
    assert len(list((tmp_path / "data").iterdir())) == 1


def make_bad_files(folder):
    good = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    np.save(folder / "good.npy", good)
    np.save(folder / "one.npy", good[:1])
    np.save(folder / "flat.npy", good[0])
    bad = good.copy()
    bad[1, 4, 0] = np.nan
    np.save(folder / "nan.npy", bad)
    bad[1, 4, 0] = np.inf
    np.save(folder / "inf.npy", bad)
    (folder / "empty.npz").touch()
    (folder / "foreign.npz").write_text("not an archive")
    (folder / "truncated.npy").write_bytes((folder / "good.npy").read_bytes()[:-40])
    np.savez(folder / "archive.npz", points=good[0], times=np.repeat([0, 1], 10))
    (folder / "truncated.npz").write_bytes((folder / "archive.npz").read_bytes()[:-60])
    (folder / "untimed.csv").write_text("x,y\n0,1\n")
    (folder / "ragged.csv").write_text("time,x\n0,1\n0\n1,1\n")
    (folder / "blocked").write_text("a file where a folder is wanted")
    (folder / "data" / "thesis").mkdir(parents=True)
    (folder / "data" / "thesis" / "thesis.txt").write_text("precious")


BAD_INPUT = [
    (["--potential=styblinski"], "did you mean styblinski_tang?"),
    (["--interaction=shpere"], "did you mean sphere?"),
    (["--internal=brownian"], "unknown internal energy 'brownian' (accepted: none, wiener)"),
    (["--potentail=flat"], "unknown flag --potentail; did you mean --potential?"),
    (["--beta=0.2"], "beta 0.2 needs --internal=wiener"),
    (["--internal=wiener", "--beta=-0.2"], "beta must be at least 0, got -0.2"),
    (["--test-ratio=1"], "test_ratio must lie in [0, 1), got 1.0"),
    (["--test-ratio=-0.1"], "test_ratio must lie in [0, 1), got -0.1"),
    (["--test-ratio=0.001", "--n-particles=25"], "both need at least one"),
    (["--n-particles=many"], "flag --n-particles=many"),
    (["--n-particles=25", "--batch-size=26"], "batch_size 26 is more than the 25 particles"),
    (["--leave-one-out=5"], "inner snapshot, 1 to 4, got 5"),
    (["--data-dir=blocked"], "blocked is not a folder"),
    (["--data-dir=blocked/deeper"], "blocked is not a folder"),
    (["--dataset-name=thesis"], "not a dataset folder"),
    (["--dataset-name=thesis", "--overwrite"], "--overwrite leaves it alone"),
    (["--dataset-name=../x"], "dataset_name must be"),
    (["--potential=styblinski_tang", "--dt=0.7", "--n-timesteps=9"], "the simulation diverged"),
    (["--load-from-file=missing.npy"], "missing.npy: no such file"),
    (["--load-from-file=one.npy"], "one.npy: at least two snapshots"),
    (["--load-from-file=flat.npy"], "flat.npy: the array has shape (20, 2)"),
    (["--load-from-file=nan.npy"], "nan.npy: snapshot 1 has 1 of 20 particles with NaN or inf"),
    (["--load-from-file=inf.npy"], "inf.npy: snapshot 1 has 1 of 20 particles with NaN or inf"),
    (["--load-from-file=empty.npz"], "empty.npz: the file is empty"),
    (["--load-from-file=foreign.npz"], "foreign.npz: not a NumPy archive"),
    (["--load-from-file=truncated.npy"], "truncated.npy: "),
    (["--load-from-file=truncated.npz"], "truncated.npz: "),
    (["--load-from-file=untimed.csv"], "no column 'time' or 't'"),
    (["--load-from-file=ragged.csv"], "line 3 has 1 fields"),
    (["--load-from-file=blocked"], "unknown file type ''"),
    (["--load-from-file=good.npy", "--dimension=3"], "--dimension excludes --load-from-file"),
    (["--load-from-file=good.npy", "--leave-one-out=2"], "inner snapshot, 1 to 1, got 2"),
    (["styblinski_tang"], "unexpected argument 'styblinski_tang'"),
]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_bad_files(folder)
    return folder


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input(arguments, message, bad_files, monkeypatch, capsys):
    """Exit status 2, one line that says what is wrong, and nothing written or overwritten."""
    monkeypatch.chdir(bad_files)
    before = {p: p.read_bytes() for p in bad_files.rglob("*") if p.is_file()}
    folders = sorted(p for p in bad_files.rglob("*") if p.is_dir())
    assert script.run(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err
    assert {p: p.read_bytes() for p in bad_files.rglob("*") if p.is_file()} == before
    assert sorted(p for p in bad_files.rglob("*") if p.is_dir()) == folders


def test_what_the_library_warns_of_is_one_line(capsys):
    def main():
        for _ in range(3):
            warnings.warn("column 'id'\nis passed over", UserWarning, stacklevel=1)

    before = warnings.showwarning
    assert run_script(main, define_flags(DataSettings), argv=[]) == 0
    assert capsys.readouterr().err == "warning: column 'id' is passed over\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--n-particles=1_0", "'1_0' is not a whole number"),
        ("--n-particles=0x10", "'0x10' is not a whole number"),
        ("--n-particles=\uff11\uff10", "is not a whole number"),
        ("--dt=1_0", "'1_0' is not a number"),
        ("--dt=one", "'one' is not a number"),
    ],
)
def test_numbers_are_those_that_people_write(capsys, flag, reason):
    assert run_script(pytest.fail, define_flags(DataSettings), argv=[flag]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
