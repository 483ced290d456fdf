"""The sections of a sweep's report: its tables and figures, and every run with its command."""

from collections import Counter
from pathlib import Path

from data_generation.formats.json_file import read_text
from experiments.reports.html import (
    cards,
    command,
    folded,
    head,
    heading,
    lines,
    markdown,
    notice,
    pictures,
    section,
    table,
)
from experiments.reports.run import csv_rows, csv_table, environment
from experiments.run.commands import run_command
from experiments.run.folder import RunFolder
from experiments.run.records import Failure, read_entries


def sweep_sections(folder: Path) -> list[str]:
    """The whole report of a sweep.

    Raises:
        ValueError: one of its files is damaged.
    """
    runs = [RunFolder(p.parent) for p in sorted(folder.glob("runs/[!.]*/config.json"))]
    configs = [run.config() for run in runs]
    summaries = [run.summary() for run in runs]
    status = _status(folder, runs)
    failures = [
        [file.stem, read_entries(file, Failure)["reason"]]
        for file in sorted(folder.glob("failures/*.json"))
    ]
    left = sum(count for name, count in status.items() if name != "finished")
    commands = []
    for run, config, summary in zip(runs, configs, summaries, strict=True):
        line = run_command(config["settings"])
        state = "" if summary else " (unfinished)"
        if line is not None:
            commands += [heading(run.path.name + state), command(line)]
    return [
        head(folder.resolve().name, f"a sweep of {sum(status.values())} runs"),
        notice(f"{left} of {sum(status.values())} runs are not finished.") if left else "",
        cards(status),
        section("Results", *(markdown(read_text(file)) for file in sorted(folder.glob("*.md")))),
        section("Figures", pictures(folder.glob("plots/*.png"))),
        section(
            "Every run",
            *(folded(file.name, csv_table(file)) for file in sorted(folder.glob("*.csv"))),
        ),
        section("Failures", table(["run", "reason"], failures) if failures else ""),
        section("Environment", environment(configs, summaries)),
        section(
            "How to reproduce",
            folded(f"the command of each of the {len(commands) // 2} runs", lines(commands))
            if commands
            else "",
        ),
    ]


def _status(folder: Path, runs: list[RunFolder]) -> dict[str, int]:
    """How many runs came how far; the table knows those that were never started."""
    file = folder / "table.csv"
    if file.is_file():
        head, *rows = csv_rows(file) or [[]]
        place = head.index("status") if "status" in head else len(head)
        return dict(Counter(row[place] for row in rows if len(row) > place))
    finished = sum(run.finished for run in runs)
    counts = {"finished": finished, "unfinished": len(runs) - finished}
    return {name: count for name, count in counts.items() if count}
