"""The command `jkonet`: every script behind one door."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_generation import __main__ as data_generation
from diffusions.releases import release_of
from experiments import __main__ as jkonet
from experiments import train

ROOT = Path(train.__file__).parent


def test_it_lists_every_script_with_an_example(capsys):
    assert jkonet.run([]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 110
    scripts = {f"experiments.{p.stem}" for p in ROOT.glob("*.py") if not p.stem.startswith("_")}
    scripts |= {f"experiments.{p.parent.name}.__main__" for p in ROOT.glob("*/__main__.py")}
    assert {own.module for own in jkonet.COMMANDS.values()} == scripts | {
        "data_generation.__main__",
        "checkpoints.export",
        "checkpoints.import_torch",
    }
    for name, own in jkonet.COMMANDS.items():
        assert f"jkonet {name} {own.example}" in out
    assert jkonet.run(["--help"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("name", jkonet.COMMANDS)
def test_examples_are_understood(name):
    own = jkonet.COMMANDS[name]
    values = importlib.import_module(own.module).FLAGS
    given = [word.removeprefix("--").partition("=") for word in own.example.split()]
    spelled = [f"--{flag.replace('-', '_')}{equals}{value}" for flag, equals, value in given]
    try:
        assert values(["program", *spelled]) == ["program"]
    finally:
        values.unparse_flags()
        for flag in values:
            values[flag].unparse()


def test_a_command_is_the_script(capsys):
    assert jkonet.run(["train", "--help"]) == 0
    usage, said = capsys.readouterr().out.split("\n", 1)
    assert usage.endswith(" train [--flag=value ...]")
    assert train.run(["--help"]) == 0
    assert capsys.readouterr().out.split("\n", 1)[1] == said
    assert jkonet.run(["train", "--epochz=3"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("trian", "there is no command 'trian'; did you mean 'train'?"),
        ("sparse_pixels", "did you mean 'sparse-pixels'?"),
        ("xyz", "there are data, train"),
        ("--completion=fish", "--completion must be one of bash, zsh, got 'fish'"),
        ("two\nlines", "there is no command"),
    ],
)
def test_what_is_no_command_is_one_line(asked, said, capsys):
    assert jkonet.run([asked]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_it_says_its_release(capsys):
    assert jkonet.run(["--version"]) == 0
    assert capsys.readouterr().out == f"jkonet-diffusions {release_of()}\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jkonet", "tr"], {"train"}),
        (["jkonet", "train", "--sol"], {"--solver="}),
        (["jkonet", "data", "--pot"], {"--potential="}),
        (["jkonet", "sparse-pixels", "--imp"], {"--impose"}),
        (["jkonet", "nothing", "--"], set()),
    ],
)
def test_a_shell_completes_commands_and_flags(words, expected):
    typed = " ".join(words)
    program = (
        f"{jkonet.completion('bash')}\n"
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _jkonet; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected
    assert jkonet.completion("zsh").endswith(jkonet.completion("bash"))


def test_it_answers_without_anything_heavy():
    program = (
        "import sys; from experiments.__main__ import run; run([]); "
        "sys.exit(bool({'jax', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=ROOT.parent, capture_output=True
    )


def test_data_generation_asked_for_nothing_says_what_there_is(capsys):
    assert data_generation.run([]) == 0
    assert "--potential=" in capsys.readouterr().out


def test_the_help_of_a_command_names_it_as_it_was_asked(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/jkonet", "train", "--help"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None, raising=False)
    assert jkonet.run() == 0
    assert capsys.readouterr().out.startswith("usage: jkonet train [--flag=value ...]\n")
    assert train.run(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: jkonet [--flag=value ...]\n")
