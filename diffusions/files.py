"""Files and folders that appear whole or not at all.

What is written goes to a temporary name beside its place, which is then renamed. The name cannot be
guessed, and it is made exclusively, without following a link: in a folder that others may write to,
nobody can have put something there that would be written through.

    .NAME.new-TOKEN    while it is written
    .NAME.old-TOKEN    a folder that is being replaced, between two renames

What a kill leaves of them is removed by a later process that writes beside it, after an hour. A folder
of which nothing else is left is not: `recover` brings it back.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ABANDONED_AFTER = 3600.0
"""Seconds without a change after which a temporary name was left by a kill."""

_TOKEN_BYTES = 8
_MOST_NAME_BYTES = 200  # of the 255 that a file system takes
_TOKEN = rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}"
_TEMPORARY = re.compile(rf"\..*\.new-{_TOKEN}(\.\w+)?", re.DOTALL)
_REPLACED = re.compile(rf"\.(?P<name>.*)\.old-{_TOKEN}", re.DOTALL)
_swept: set[Path] = set()
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
    sweep(file.parent)
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
    sweep(folder.parent)
    temporary = temporary_name(folder)
    temporary.mkdir()
    try:
        # What is held is not abandoned, however long nothing in it changes.
        with _held(temporary):
            yield temporary
            if move is not None:
                move(folder, temporary)
                return
            # `rename` would replace an empty folder, and a link to one, without a word.
            if os.path.lexists(folder):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(folder: Path, new: Path) -> None:
    """Puts a new folder in the place of another one, which is removed; `recover` mends a kill."""
    name = os.fsdecode(os.fsencode(folder.name)[:_MOST_NAME_BYTES])
    old = folder.with_name(f".{name}.old-{secrets.token_hex(_TOKEN_BYTES)}")
    # As long as it is held, nobody brings it back.
    with _held(folder):
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def add_files(folder: Path, new: Path) -> None:
    """Moves the files of a new folder into another one, made where absent; they replace their like."""
    folder.mkdir(exist_ok=True)
    for file in sorted(new.iterdir()):
        file.replace(folder / file.name)


@contextlib.contextmanager
def made_parents(place: Path) -> Iterator[None]:
    """The folders above a place are there while inside; those that were not go where that fails."""
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only succeeds while it is empty
        raise


def recover(folder: Path) -> None:
    """Brings back a folder that a kill left between the two renames of `replace_folder`."""
    if os.path.lexists(folder):
        return
    aside = [p for p in _entries(folder.parent) if _replaces(p.name) == folder.name]
    if aside:
        newest = max(aside, key=_last_change)
        # Another process may do the same, or be about to fill the place.
        with contextlib.suppress(OSError), _held(newest) as free:
            if free:
                newest.rename(folder)


def sweep(parent: Path) -> None:
    """Removes what kills left in a folder more than an hour ago; once per folder and process."""
    parent = parent.absolute()
    if parent in _swept:
        return
    _swept.add(parent)
    for left in _entries(parent):
        replaced = _replaces(left.name)
        if replaced is None and not is_temporary(left.name):
            continue
        only = replaced is not None and not os.path.lexists(parent / replaced)
        if only or time.time() - _last_change(left) < ABANDONED_AFTER:
            continue
        with contextlib.suppress(OSError), _held(left) as free:
            if free and left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            elif free:
                left.unlink()


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _replaces(name: str) -> str | None:
    """What a folder was called that is being replaced."""
    found = _REPLACED.fullmatch(name)
    return found["name"] if found else None


def _last_change(place: Path) -> float:
    """Of a file, or of anything in a folder; now, where it vanishes meanwhile."""
    try:
        times = [place.lstat().st_mtime]
        if place.is_dir() and not place.is_symlink():
            times += [p.lstat().st_mtime for p in place.rglob("*")]
    except OSError:
        return time.time()
    return max(times)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Marks a folder as in use while inside, where the system can; False where another process has."""
    if fcntl is None or not folder.is_dir() or folder.is_symlink():
        yield True
        return
    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without such marks
        yield True
    finally:
        os.close(handle)
