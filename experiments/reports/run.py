"""The sections of a run's report; any experiment's, because all write the same folder."""

import csv
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data_generation.formats.json_file import MOST_LINES_BYTES, read_text
from experiments.reports.charts import chart, curves
from experiments.reports.html import (
    cards,
    cell,
    charts,
    command,
    content,
    folded,
    head,
    lines,
    markdown,
    notice,
    number,
    parsed,
    pictures,
    plain_cell,
    quiet,
    row_head,
    section,
    table,
    table_of_rows,
)
from experiments.reports.identifiability import identified
from experiments.reports.law import law_content
from experiments.reports.results import VERDICT, headline, numbers, verdict
from experiments.reports.words import words
from experiments.run.commands import (
    changed,
    dataset_command,
    dataset_metadata,
    run_command,
    script_flags,
)
from experiments.run.folder import RunFolder
from experiments.run.outputs import ABOUT
from experiments.run.records import Results, Summary, read_entries
from experiments.run.replaced import hint

ENVIRONMENT = ("schema_version", "seconds", "device", "peak_memory_bytes")
_OF_METRICS = ("training",)
_MEBI = 2**20


def run_sections(run: RunFolder) -> list[str]:
    """The whole report of a run.

    Raises:
        ValueError: one of its files is damaged.
    """
    config = run.config()
    settings = config["settings"]
    summary = run.summary()
    results = {name: value for name, value in summary.items() if name not in ENVIRONMENT}
    said = verdict(results)
    law, uncertainty = results.pop("law", None), results.pop("uncertainty", None)
    found = {
        k: v for k, v in results.items() if k not in (*settings, *VERDICT, "w1_one_step_ahead")
    }
    training = _charts(run)
    return [
        _head(run, settings),
        "" if run.finished else notice(_progress(run)),
        said,
        cards(headline(found)),
        section("Figures", pictures(_figures(run.path / "plots", drawn=bool(training)))),
        section("Training", training),
        section("Predicted law", law_content(law)),
        section("Uncertainty", content(uncertainty) if uncertainty else ""),
        section("Results", numbers(found)),
        section("What the data can tell", identified(run.path / "identify.json")),
        *_evaluations(run),
        *_results_within(run),
        section("Tables", *_tables(run.path)),
        section("Data", _data(settings)),
        section("Configuration", _configuration(settings)),
        section("Environment", environment([config], [summary])),
        section("How to reproduce", *_commands(settings)),
        section("Files", _files(run.path)),
    ]


def _head(run: RunFolder, settings: dict[str, Any]) -> str:
    script = settings.get("script", "an experiment")
    state = "unfinished"
    if run.finished:
        state = f"finished {_when(run.path / 'summary.json')}"
    return head(run.path.resolve().name, f"{script}, {state}")


def _when(file: Path) -> str:
    moment = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _progress(run: RunFolder) -> str:
    rows = run.rows()
    reached = f" after epoch {rows[-1]['epoch']}" if rows else ""
    return (
        f"This run is not finished: what follows is its state{reached}. "
        f"Continue it with --resume --run-name={run.path.resolve().name}{hint(run.path)}."
    )


def _figures(folder: Path, *, drawn: bool) -> list[Path]:
    """The figures of a run; where its metrics are drawn on the page, not a second time."""
    files = folder.glob("*.png")
    return [file for file in files if not (drawn and file.stem in _OF_METRICS)]


def _charts(run: RunFolder) -> str:
    made = [chart(name, drawn) for name, drawn in curves(run.rows()).items()]
    return charts(lines(made)) if made else ""


def _evaluations(run: RunFolder) -> list[str]:
    """What `experiments.evaluate` has written into the folder."""
    made: list[str] = []
    for file in sorted(run.path.glob("evaluation*.json")):
        figures = pictures(file.with_name(f"{file.stem}_plots").glob("*.png"))
        made.append(_found(file.stem, read_entries(file, Summary), figures))
    return made


def _results_within(run: RunFolder) -> list[str]:
    """What a script made later with the network of the run: a folder each, which says so itself."""
    made: list[str] = []
    for about in sorted(run.path.glob(f"[!.]*/{ABOUT}")):
        folder, file = about.parent, about.with_name("evaluation.json")
        found = read_entries(file, Results) if file.is_file() else {}
        figures = pictures((folder / "plots").glob("*.png"))
        made.append(_found(folder.name, found, figures, *_tables(folder)))
    return made


def _found(name: str, results: dict[str, Any], figures: str, *tables: str) -> str:
    """A section of results that are not the run's own: verdict, figures, numbers, tables."""
    found = {k: v for k, v in results.items() if k not in ENVIRONMENT}
    said, law = verdict(found), law_content(found.pop("law", None))
    told = {k: v for k, v in found.items() if k not in (*VERDICT, "w1_one_step_ahead")}
    return section(words(name).capitalize(), said, figures, law, numbers(told), *tables)


def _tables(folder: Path) -> list[str]:
    made = [markdown(read_text(file)) for file in sorted(folder.glob("*.md"))]
    return made + [folded(file.name, csv_table(file)) for file in sorted(folder.glob("*.csv"))]


def csv_rows(file: Path) -> list[list[str]]:
    """The rows of a CSV file.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return list(csv.reader(read_text(file, MOST_LINES_BYTES).splitlines()))
    except csv.Error as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def csv_table(file: Path) -> str:
    """A CSV file with a header."""
    rows = csv_rows(file)
    return table(rows[0], [[parsed(v) for v in row] for row in rows[1:]]) if rows else ""


def _data(settings: dict[str, Any]) -> str:
    metadata = dataset_metadata(settings)
    if metadata is None:
        return ""
    shown = {
        name: metadata.get(name)
        for name in ("created_by", "source", "truth", "split", "left_out", "times", "counts")
    }
    return content({name: value for name, value in shown.items() if value is not None})


def _configuration(settings: dict[str, Any]) -> str:
    values = script_flags(settings.get("script"))
    if values is None:
        return content(settings)
    different, plain = changed(settings, values), []
    rows = []
    for name, value in settings.items():
        default = values[name].default if name in values else None
        if name in different:
            cells = cell(value, "changed") + cell(default, "quiet")
            rows.append(row_head(name) + cells)
        else:
            plain.append(row_head(name) + cell(value))
    return lines(
        [
            table_of_rows(["setting", "value", "default"], rows) if rows else "",
            folded(f"{len(plain)} settings at their defaults", table_of_rows([], plain)),
        ]
    )


def environment(configs: Iterable[dict[str, Any]], summaries: Iterable[dict[str, Any]]) -> str:
    """Versions, devices, times and memory of some runs; each different value once."""
    found: dict[str, list[str]] = {}

    def note(name: str, value: Any) -> None:
        shown = found.setdefault(name, [])
        if value is not None and number(value) not in shown:
            shown.append(number(value))

    for config in configs:
        for name, version in config.get("versions", {}).items():
            note(name, version)
    finished = [summary for summary in summaries if summary]
    for summary in finished:
        note("device", summary.get("device"))
    if len(finished) == 1:
        seconds = finished[0].get("seconds")
        for name, value in seconds.items() if isinstance(seconds, dict) else ():
            note("seconds from epoch" if name == "from_epoch" else f"seconds, {name}", value)
    peak = max((summary.get("peak_memory_bytes", 0) for summary in finished), default=0)
    if peak:
        note("peak memory, MiB", round(peak / _MEBI))
    rows = [row_head(n) + plain_cell(Markup(", ").join(v)) for n, v in found.items()]
    return table_of_rows([], rows)


def _commands(settings: dict[str, Any]) -> list[str]:
    made = []
    metadata = dataset_metadata(settings)
    if metadata is not None:
        made.append(command(dataset_command(metadata)))
        if metadata.get("source"):
            source = metadata["source"]
            made.append(quiet(f"{source['file']} has the SHA-256 checksum {source['sha256']}."))
    again = run_command(settings)
    if again is None:
        made.append(notice(f"This release has no script {settings.get('script')}."))
    else:
        made.append(command(again))
        made.append(
            quiet(
                "Every setting that is not a default, from config.json; equal seeds give equal "
                "numbers on the same device and versions."
            )
        )
    return made


def _files(folder: Path) -> str:
    rows = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        inside = [entry] if entry.is_file() else [f for f in entry.rglob("*") if f.is_file()]
        rows.append([entry.name, len(inside), round(sum(f.stat().st_size for f in inside) / 1024)])
    return folded(f"{len(rows)} entries", table(["name", "files", "KiB"], rows))
