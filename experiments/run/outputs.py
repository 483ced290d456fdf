"""What the flags that name an output may replace: an earlier output of the same kind, nothing else.

Each kind is recognised by what is in it, never by its name: a page by its footer, an evaluation and a
folder of samples by their schema, a sweep's table by its columns.
"""

import re
from collections.abc import Callable
from pathlib import Path

from data_generation.formats.json_file import read_json
from diffusions.files import check_destination, kind_of

ABOUT = "about.json"
"""In a folder of results: which script made it, and every file of it."""

_FOOTER_BYTES = 5000
_FOOTER = re.compile(
    rb'<footer class="quiet"><p>Report of .*, made .* by jkonet-diffusions [^<\n]*</p></footer>\n'
    rb"</body>\n</html>\n\Z",
    re.DOTALL,
)
_EVALUATION = {"schema_version", "run", "solver", "dataset", "eval", "seconds"}
_IDENTIFICATION = {"schema_version", "run", "seed_index", "answers", "seconds"}
_TABLE = b"dataset,potential,interaction,"


def is_report(file: Path) -> bool:
    """Whether a file is a page of `experiments.report`."""
    with file.open("rb") as stream:
        start = stream.read(15)
        stream.seek(max(0, file.stat().st_size - _FOOTER_BYTES))
        return start == b"<!DOCTYPE html>" and _FOOTER.search(stream.read()) is not None


def is_evaluation(file: Path) -> bool:
    """Whether a file is a result of `experiments.evaluate`."""
    return _has(file, _EVALUATION)


def is_identification(file: Path) -> bool:
    """Whether a file is a result of `experiments.identify`."""
    return _has(file, _IDENTIFICATION)


def _has(file: Path, entries: set[str]) -> bool:
    try:
        content = read_json(file)
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() >= entries


def is_sweep_table(file: Path) -> bool:
    """Whether a file is the table of a sweep."""
    with file.open("rb") as stream:
        return stream.read(len(_TABLE)) == _TABLE


def check_output(file: Path, is_own: Callable[[Path], bool], kind: str) -> None:
    """Refuses to replace a file that is not of the kind that is to be written.

    Args:
        file: where it goes.
        is_own: whether a file is of the kind.
        kind: in words.

    Raises:
        ValueError: a file of another kind, a folder, a device or a pipe is there.
    """
    check_destination(file)
    if file.exists() and not is_own(file):
        raise ValueError(
            f"{file} exists and is not {kind}, so it is left alone; name another place"
        )


def check_figures(folder: Path, output: Path) -> None:
    """Raises ValueError where a folder of figures is there without the result that it belongs to."""
    if kind_of(folder) is not None and not (folder.is_dir() and output.is_file()):
        raise ValueError(
            f"{folder}, where the figures go, exists without {output.name}, so it is left alone; "
            "name another place"
        )


def about(folder: Path, script: str) -> dict[str, object]:
    """What `ABOUT` of a folder of results says."""
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return {"schema_version": 1, "script": script, "files": sorted([*files, ABOUT])}


def check_results(folder: Path, script: str) -> None:
    """Raises ValueError, naming what is foreign, unless a folder is a script's results and no more."""
    left = "so --overwrite leaves it alone; name another place"
    try:
        content = read_json(folder / ABOUT)
    except ValueError:
        content = None
    own = isinstance(content, dict) and content.get("script") == script
    if folder.is_symlink() or not own or not isinstance(content.get("files"), list):
        raise ValueError(f"{folder} is not a folder of results of {script}, {left}")
    entries = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    inside = (p.relative_to(folder).as_posix() for p in entries)
    foreign = sorted(set(inside) - set(map(str, content["files"])))
    if foreign:
        raise ValueError(f"{folder} also holds {', '.join(foreign[:5])}, {left}")


def check_sweep_folder(folder: Path) -> None:
    """Raises ValueError where a sweep's table or figure would replace what no sweep has written."""
    check_output(folder / "table.csv", is_sweep_table, "the table of a sweep")
    for other in ("table.md", "plots/errors.png"):
        if kind_of(folder / other) is not None and not (folder / "table.csv").is_file():
            raise ValueError(
                f"{folder / other} exists without a sweep's table.csv, so it is left alone; "
                "give another --sweep-name"
            )
