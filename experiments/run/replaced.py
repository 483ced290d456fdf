"""What becomes of a run that `--overwrite` replaces: it stays whole until the new one is finished.

    runs/demo                the new run
    runs/.demo.replaced-1    the one it replaces, renamed; a higher number was set aside later

A new run that fails and cannot be resumed goes, and the old one comes back. One that was killed, or
that failed after it had kept something of its work, stays to be resumed or replaced in its turn; the
old one goes when a run of this name is finished. Where a kill left no run of this name, the next
command that names it puts the old one back.

A folder is set aside only if it is a run and nothing else: what no run writes would be lost with it.
What the user puts in there later is not lost either (`run_contents`).
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_generation.scripts.command_line import Hint
from diffusions.files import temporary_name
from experiments.run.contents import check_own, remove_own
from experiments.run.lock import held, moved, release, release_all_but

# Runs that this process has put in the place of others and not finished.
_REPLACING: list[Path] = []


def replaced_runs(path: Path) -> list[Path]:
    """What was set aside for a run of this place, the last one last."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.replaced-([1-9]\d*)")
    if not path.parent.is_dir():
        return []
    found = [(int(m[1]), p) for p in path.parent.iterdir() if (m := pattern.fullmatch(p.name))]
    return [place for _, place in sorted(found)]


def hint(path: Path) -> str:
    """Where a replaced run lies, to be appended to a message; empty where there is none."""
    places = replaced_runs(path)
    return f"; the run that it was to replace is whole in {places[-1]}" if places else ""


def settle(path: Path) -> None:
    """Ends what a kill cut off: fills an empty place, or removes what a finished run replaced."""
    if not path.exists() and not path.is_symlink():
        _put_back(path)
    elif (path / "summary.json").is_file():
        forget_replaced(path)


def replace_run(path: Path, new: Path) -> None:
    """Sets a run aside and puts a new one in its place.

    Args:
        path: of the run; its lock is let go of where that succeeds.
        new: a folder beside it, moved to `path`.
    """
    places = replaced_runs(path)
    number = int(places[-1].name.rpartition("-")[2]) + 1 if places else 1
    aside = path.with_name(f".{path.name}.replaced-{number}")
    path.rename(aside)
    moved(path, aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        moved(aside, path)
        raise
    release(aside)
    _REPLACING.append(path)


def forget_replaced(path: Path) -> None:
    """Removes what a run has replaced: it is finished."""
    for place in replaced_runs(path):
        remove_own(place)
    with contextlib.suppress(ValueError):
        _REPLACING.remove(path)


@contextlib.contextmanager
def keeps_replaced() -> Iterator[None]:
    """A failure inside puts back the run that was to be replaced, unless the new one can be resumed.

    The line of an unfinished run's end then says where the other one is, or of one that was interrupted
    that it can go on. However it ends, the run that was written is let go of.
    """
    before, locked = len(_REPLACING), held()
    try:
        yield
    except BaseException as error:
        undone = set()
        for path in _REPLACING[before:]:
            # What went wrong is to be heard of, and what the user put in there is to stay.
            with contextlib.suppress(OSError, ValueError):
                if not _can_be_resumed(path):
                    undone.add(path)
                    _undo(path)
        for path in held():
            if path in locked or (path / "summary.json").is_file():
                continue
            if replaced_runs(path):
                error.add_note(Hint(f"{path} is unfinished{hint(path)}"))
            elif (
                isinstance(error, KeyboardInterrupt)
                and path not in undone
                and not any(place in path.parents for place in locked)  # a sweep's says so itself
                and _can_be_resumed(path)
            ):
                error.add_note(Hint(f"--run-name={path.name} --resume goes on"))
        raise
    finally:
        del _REPLACING[before:]
        release_all_but(locked)


def _can_be_resumed(path: Path) -> bool:
    """Whether a run has kept something of its work; every script goes on from one of these."""
    rows = path / "metrics.jsonl"
    states = (p for p in path.glob("**/checkpoint/*") if p.name.isdigit())
    return (rows.is_file() and rows.stat().st_size > 0) or any(states)


def _undo(path: Path) -> None:
    check_own(path)
    failed = temporary_name(path)
    path.rename(failed)
    _put_back(path)
    shutil.rmtree(failed, ignore_errors=True)


def _put_back(path: Path) -> None:
    places = replaced_runs(path)
    if places:
        places[-1].rename(path)
