"""The page of a run or of a sweep, in its file."""

import datetime
from pathlib import Path

from data_generation.scripts.command_line import say
from data_generation.scripts.files import check_writable
from diffusions.files import made_parents, write_text
from experiments.reports.html import page
from experiments.reports.place import check_reported
from experiments.reports.run import run_sections
from experiments.reports.settings import ReportSettings
from experiments.reports.sweep import sweep_sections
from experiments.run.folder import RunFolder, versions
from experiments.run.outputs import check_output, is_report
from experiments.run.place import CONFIG
from experiments.run.replaced import hint


def report(settings: ReportSettings) -> None:
    """Writes the page that the settings ask for."""
    folder = Path(str(settings.run))
    file = Path(settings.out) if settings.out else folder / "report.html"
    size = write_report(folder, file)
    say(f"{file} ({_shown_size(size)})")
    if (folder / CONFIG).is_file() and not RunFolder(folder).finished and hint(folder):
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
    check_reported(folder)
    if (folder / CONFIG).is_file():
        sections = run_sections(RunFolder(folder))
    else:
        sections = sweep_sections(folder)
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
