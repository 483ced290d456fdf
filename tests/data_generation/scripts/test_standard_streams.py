"""Streams that are closed, full or read by nobody: the right exit status and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_generation.scripts import command_line
from data_generation.scripts.standard_streams import encodable, escaped

ROOT = Path(command_line.__file__).parents[2]
SCRIPT = """
import contextlib, dataclasses, os, sys, warnings
from tqdm import tqdm
from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    '''One.

    Attributes:
        text: said.
    '''
    text: str = "all is well"

FLAGS = define_flags(Settings)

def main():
    for _ in tqdm(range(3)):
        warnings.warn("beware")
    with open("made", "w") as file:
        file.write("made")
        for number in (1, 2):
            with contextlib.suppress(OSError):
                os.write(number, b"a library prints\\n")
        file.flush()
        say(settings_from_flags(Settings, FLAGS).text)
    if FLAGS["text"].value == "bad":
        raise ValueError("bad text")

raise SystemExit(run_script(main, FLAGS))
"""


def started(tmp_path, redirections, *arguments, **variables):
    """The script in a shell that redirects its streams; what it says on those that are left."""
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", SCRIPT, *arguments],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT), **variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("redirections", "status"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&- >&- 2>&-", 0),
        ("2>/dev/full", 0),
        (">/dev/full", 74),
        (">/dev/full 2>&-", 74),
    ],
)
def test_streams_that_cannot_be_written(redirections, status, tmp_path):
    found, out, err = started(tmp_path, redirections)
    assert found == status, err
    assert "Traceback" not in out + err
    assert "Exception ignored" not in err
    # What a library writes to a stream by its number never reaches a file.
    assert (tmp_path / "made").read_text() == "made"
    if status == 74 and "2>" not in redirections:
        assert err.endswith("error: cannot write to standard output: No space left on device\n")
    if redirections == "2>&-":
        assert out.endswith("all is well\n")


@pytest.mark.parametrize(
    ("redirections", "argument"),
    [(">&-", "--text=bad"), (">&-", "--txt=x"), ("2>&-", "--text=bad"), ("2>/dev/full", "--txt=x")],
)
def test_bad_input_is_told_by_the_status_at_least(redirections, argument, tmp_path):
    found, _, err = started(tmp_path, redirections, argument)
    assert found == 2
    assert "Traceback" not in err
    if redirections == ">&-":
        assert err.endswith("bad text\n") or "unknown flag --txt" in err


@pytest.mark.parametrize("both", ["", "2>&1"])
def test_a_reader_that_goes_away(both, tmp_path):
    command = f'"$0" "$@" {both} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_that_knows_ascii_only(variables, tmp_path):
    found, out, err = started(tmp_path, "", "--text=größe 日本", **variables)
    assert found == 0, err
    assert out.endswith(("größe 日本\n", r"gr\xf6\xdfe \u65e5\u672c" + "\n"))


def test_a_locale_that_knows_ascii_only(tmp_path):
    """Where Python itself cannot read the argument: one line, in ASCII."""
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found, out, err = started(tmp_path, "", "--text=größe 日本", **variables)
    assert (found, out) == (2, "")
    assert err.startswith(r"error: '--text=gr\udcc3")
    assert "is no text in ascii" in err
    assert err.count("\n") == 1


def test_control_characters_are_spelled_out(capsys):
    command_line.say("run \x1b[2J\r\u202e\udc80 é\n  and a line")
    assert capsys.readouterr().out == "run \\x1b[2J\\r\\u202e\\udc80 é\n  and a line\n"
    assert escaped("\t\x00x") == r"\t\x00x"

    class Ascii:
        encoding = "ascii"

    assert encodable("ß\n", Ascii()) == "\\xdf\n"
