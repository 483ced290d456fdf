"""What a report can be of: what is missing is said before JAX is loaded."""

import difflib
from pathlib import Path

from experiments.run.place import CONFIG


def check_reported(folder: Path) -> None:
    """Raises ValueError, naming runs that are near, unless a folder is that of a run or of a sweep."""
    if not (folder / CONFIG).is_file() and not (folder / "runs").is_dir():
        raise ValueError(_no_run(folder))


def _no_run(folder: Path) -> str:
    """What is wrong, and which runs are near."""
    if folder.is_file():
        return f"{folder} is a file, not the folder of a run"
    if folder.is_dir():
        inside = [str(p.parent) for p in sorted(folder.glob("[!.]*/config.json"))]
        hint = f"; it holds the runs {', '.join(inside[:5])}" if inside else ""
        return f"{folder} is not the folder of a run or of a sweep{hint}"
    names = [p.name for p in folder.parent.glob("*/") if not p.name.startswith(".")]
    near = difflib.get_close_matches(folder.name, names, n=3, cutoff=0.5) or sorted(names)[:5]
    hint = f"; {folder.parent} holds {', '.join(near)}" if near else ""
    return f"no run {folder}{hint}"
