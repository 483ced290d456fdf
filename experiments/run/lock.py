"""One process writes a folder at a time.

    .lock    pid, host and start of the process that writes; gone when that has come to its end

The system holds the lock for the process (`flock`) and lets go of it however the process ends, so that
what a kill leaves is an unlocked file, which the next process takes over. Where a file system has no
such locks, the process that the file names must be gone; whether one on another host is, nobody here
can tell, so the file has to be removed by hand. Reading needs no lock.
"""

import atexit
import contextlib
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_MOST_BYTES = 4096

# Locks of this process: descriptor by folder.
_HELD: dict[str, int] = {}


def hold(folder: Path) -> None:
    """Takes the lock of a folder, unless this process has it already.

    Args:
        folder: exists.

    Raises:
        ValueError: another process has it; names that.
        OSError: the folder cannot be written.
    """
    place = _place(folder)
    if place in _HELD:
        return
    file = folder / LOCK
    while True:
        descriptor = os.open(file, _OPEN, 0o666)
        try:
            _lock(descriptor, folder)
            taken = _is_at(descriptor, file)
        except BaseException:
            os.close(descriptor)
            raise
        if taken:
            break
        os.close(descriptor)  # its holder removed it in the meantime
    record = {"pid": os.getpid(), "host": socket.gethostname(), "start": _start(os.getpid())}
    # A disk that is full has no room for the name of the holder; the lock holds without.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, (json.dumps(record) + "\n").encode())
    _HELD[place] = descriptor


def check_free(folder: Path) -> None:
    """Raises ValueError, naming it, where another process holds the lock of a folder."""
    if _place(folder) not in _HELD and (folder / LOCK).exists():
        hold(folder)
        release(folder)


def release(folder: Path) -> None:
    """Lets go of the lock of a folder, if this process has it."""
    descriptor = _HELD.pop(_place(folder), None)
    if descriptor is None:
        return
    with contextlib.suppress(OSError):
        if _is_at(descriptor, folder / LOCK):
            (folder / LOCK).unlink()
    os.close(descriptor)


def moved(folder: Path, to: Path) -> None:
    """Keeps the lock of a folder that was renamed."""
    descriptor = _HELD.pop(_place(folder), None)
    if descriptor is not None:
        _HELD[_place(to)] = descriptor


def held() -> list[Path]:
    """The folders that this process has locked, the last one last."""
    return [Path(place) for place in _HELD]


def release_all_but(kept: list[Path]) -> None:
    """Lets go of what this process has locked since `held` said `kept`."""
    for folder in held():
        if folder not in kept:
            release(folder)


def _place(folder: Path) -> str:
    return os.path.realpath(folder)


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, folder: Path) -> None:
    """Raises ValueError unless the lock is had."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(descriptor)
            raise ValueError(f"{folder} is being written by {_named(holder)}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    holder = _holder(descriptor)
    if holder and not _is_gone(holder):
        raise ValueError(
            f"{folder} is being written by {_named(holder)}; if that has ended, remove "
            f"{folder / LOCK}"
        )


def _holder(descriptor: int) -> dict[str, Any]:
    """What the lock says of its process; empty where it says nothing."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        record = json.loads(os.read(descriptor, _MOST_BYTES))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and type(record.get("pid")) is int else {}


def _named(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')}"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process is surely not there any more."""
    # Windows has no signal that only asks.
    if os.name == "nt" or holder.get("host") != socket.gethostname():
        return False
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # of another user, and there
    start = _start(pid)
    # A number is given again when its process has ended.
    return start is not None and start != holder.get("start")


def _start(pid: int) -> str | None:
    """When a process began, in the system's own count; None where nobody says."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold anything; the start is the 22nd field.
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else None


def _release_all(pid: int) -> None:
    if os.getpid() == pid:  # and no copy of the process
        release_all_but([])


atexit.register(_release_all, os.getpid())
