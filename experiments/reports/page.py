"""The page of a run or of a sweep, in its file."""

import datetime
import difflib
from pathlib import Path

from data_generation.scripts.command_line import say
from data_generation.scripts.files import check_writable
from diffusions.files import made_parents, write_text
from experiments.reports.html import page
from experiments.reports.run import run_sections
from experiments.reports.settings import ReportSettings
from experiments.reports.sweep import is_sweep, sweep_sections
from experiments.run.folder import RunFolder, versions
from experiments.run.outputs import check_output, is_report
from experiments.run.replaced import hint


def report(settings: ReportSettings) -> None:
    """Writes the page that the settings ask for."""
    folder = Path(str(settings.run))
    file = Path(settings.out) if settings.out else folder / "report.html"
    size = write_report(folder, file)
    say(f"{file} ({_shown_size(size)})")
    if (folder / "config.json").is_file() and not RunFolder(folder).finished and hint(folder):
        say(f"  {folder} is unfinished{hint(folder)}")


def write_report(folder: Path, file: Path) -> int:
    """Writes the page of a run or of a sweep.

    Args:
        folder: of the run or the sweep.
        file: of the page; an older page is replaced, and nothing else is.

    Returns:
        Size of the page in bytes.

    Raises:
        ValueError: there is no run, one of its files is damaged, or the page cannot be written.
    """
    if (folder / "config.json").is_file():
        sections = run_sections(RunFolder(folder))
    elif is_sweep(folder):
        sections = sweep_sections(folder)
    else:
        raise ValueError(_no_run(folder))
    check_output(file, is_report, "a page of experiments.report")
    check_writable(file.parent)
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    release = versions()["jkonet-diffusions"]
    footer = f"Report of {folder}, made {now} by jkonet-diffusions {release}."
    with made_parents(file):
        write_text(file, page(folder.resolve().name, sections, footer))
    return file.stat().st_size


def _shown_size(size: int) -> str:
    """Of a page, in the unit in which it has two digits or more."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 1000:.0f} kB"


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
