"""Files and folders that appear whole or not at all.

What is written goes to a temporary name beside its place, which is then renamed. The name cannot be
guessed, and it is made exclusively, without following a link: in a folder that others may write to,
nobody can have put something there that would be written through.
"""

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_TOKEN_BYTES = 8
_MOST_NAME_BYTES = 200  # of the 255 that a file system takes
_TEMPORARY = re.compile(rf"\..*\.new-[0-9a-f]{{{2 * _TOKEN_BYTES}}}(\.\w+)?", re.DOTALL)
# Windows has not all of them.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_NEW |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def temporary_name(path: Path, extension: str = "") -> Path:
    """A hidden name beside `path` that nobody can guess."""
    stem = os.fsdecode(os.fsencode(path.name)[:_MOST_NAME_BYTES])
    return path.with_name(f".{stem}.new-{secrets.token_hex(_TOKEN_BYTES)}{extension}")


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_name`: of a process that runs, or that was killed."""
    return _TEMPORARY.fullmatch(name) is not None


def kind_of(path: Path) -> str | None:
    """What is at a path, in words; None where there is nothing."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        try:
            mode = path.stat().st_mode
        except OSError:
            return "a link that leads nowhere"
    for is_one, name in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    ):
        if is_one(mode):
            return name
    return "a device"


def check_destination(file: Path) -> None:
    """Raises ValueError where a path holds what no file may replace: a folder, a device, a pipe."""
    kind = kind_of(file)
    if kind not in (None, "a file"):
        raise ValueError(f"cannot write to {file}: it is {kind}")


@contextlib.contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """An empty file of a temporary name, for what writes by path; renamed to `file` at the end.

    Args:
        file: where it goes; an older file is replaced, and kept where the writing fails.

    Raises:
        ValueError: as `check_destination`.
    """
    check_destination(file)
    # Libraries tell the format by the extension.
    extension = file.suffix if re.fullmatch(r"\.\w{1,8}", file.suffix) else ""
    temporary = temporary_name(file, extension)
    os.close(os.open(temporary, _NEW, 0o666))
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Writes a file: whoever reads finds the old one or the new one, whole.

    Raises:
        ValueError: as `check_destination`.
    """
    with new_file(file) as temporary, naming(file):
        temporary.write_bytes(content)


def write_text(file: Path, content: str) -> None:
    """Writes a text file in UTF-8, lines as they are; otherwise as `write_bytes`."""
    write_bytes(file, content.encode("utf-8"))


def append_bytes(file: Path, content: bytes) -> None:
    """Adds to the end of a file, made where absent: all of it, or nothing where there is no room."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (_NEW & ~os.O_EXCL)
    with naming(file), os.fdopen(os.open(file, flags, 0o666), "ab", buffering=0) as stream:
        before = os.fstat(stream.fileno()).st_size
        view = memoryview(content)
        try:
            while view:
                view = view[stream.write(view) :]
        except OSError:
            os.ftruncate(stream.fileno(), before)
            raise


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Errors of the operating system name a file, and no temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(file)) from error


@contextlib.contextmanager
def new_folder(folder: Path, *, move: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    """A folder of a temporary name, renamed to `folder` at the end, or removed where that fails.

    Args:
        folder: where it goes; its parent exists. Nothing may be there when the block ends, unless
        move: is given, which is called with `folder` and the new one to put it there.

    Raises:
        FileExistsError: something is there.
    """
    temporary = temporary_name(folder)
    temporary.mkdir()
    try:
        yield temporary
        if move is not None:
            move(folder, temporary)
            return
        # `rename` would replace an empty folder, and a link to one, without a word.
        if os.path.lexists(folder):
            raise FileExistsError(f"{folder} already exists")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
