"""Arrays written by Orbax, with its errors raised where they happen and told once.

Orbax writes in threads that print what goes wrong, each in its own way and at length, and raises it as
well. Here they are silent, and a disk without room is the `OSError` that it is.
"""

import errno
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from checkpoints.interrupts import interrupts_wait
from diffusions.typing import PyTree

# Orbax reports each save at INFO, its own internals at WARNING, and at ERROR what it raises as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)
# Of several writes that fail, one is raised, and asyncio reports the others when they are collected.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

_MOST_SECONDS = 5.0
_QUIET_CHECKS = 10
_SECONDS_BETWEEN_CHECKS = 0.02
_NO_ROOM = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT)}


def checkpointer_of_this_process() -> ocp.StandardCheckpointer:
    """One that waits for no other process."""
    if jax.process_count() == 1:
        return ocp.StandardCheckpointer()
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    # Made in the background, folders are told of to all processes by what the first one counts.
    at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
    return ocp.StandardCheckpointer(multiprocessing_options=alone, async_options=at_once)


def write_arrays(path: Path, arrays: PyTree) -> None:
    """Writes a pytree of arrays into a new folder, which is complete or absent.

    Of several processes the first one does; in the folders of the others, which nobody will read, it
    stands for them empty.

    Raises:
        OSError: there is no room, or no permission; nothing is left of it.
        ValueError: Orbax cannot write the arrays for another reason.
    """
    path = path.absolute()
    if jax.process_index():
        path.mkdir(parents=True)
        return
    _silence_late_callbacks()
    try:
        with interrupts_wait(), checkpointer_of_this_process() as checkpointer:
            checkpointer.save(path, arrays, force=True)
    except Exception as error:
        _remove_unfinished(path)
        raise _plain(error, path) from error


def _remove_unfinished(path: Path) -> None:
    """Removes what a failed save leaves, until nothing comes any more.

    The first write that fails ends the save, and the others go on in threads of TensorStore for a
    moment: they add files to folders that are being removed, and make anew those that are gone.
    """
    end, quiet = time.monotonic() + _MOST_SECONDS, 0
    while quiet < _QUIET_CHECKS and time.monotonic() < end:
        left = list(path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"))
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        quiet = 0 if left else quiet + 1
        time.sleep(_SECONDS_BETWEEN_CHECKS)


def _plain(error: BaseException, path: Path) -> Exception:
    """What went wrong, however deep it is wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return OSError(cause.errno, os.strerror(cause.errno), str(path))
        for words, code in _NO_ROOM.items():
            if words in str(cause):
                return OSError(code, words, str(path))
        cause = cause.__cause__ or cause.__context__
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"cannot write {path}: {reason}")


def _silence_late_callbacks() -> None:
    """Callbacks of TensorStore may find their event loop closed, and say so, even after the error."""
    told = sys.unraisablehook
    if getattr(told, "__name__", "") == "_without_closed_loops":
        return

    def _without_closed_loops(unraisable: Any) -> None:
        if not (
            isinstance(unraisable.exc_value, RuntimeError)
            and str(unraisable.exc_value) == "Event loop is closed"
        ):
            told(unraisable)

    sys.unraisablehook = _without_closed_loops
