"""The parts of a report's page: templates fill themselves, and whatever JSON holds has a form.

Every function returns markup. Templates escape all else that they are given.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from experiments.reports.words import words

_LONG = 8
_LONG_TEXT = 24
_MOST_ROWS = 500

_TEMPLATES = Environment(
    loader=PackageLoader("experiments.reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_PARTS: Any = _TEMPLATES.get_template("parts.html.jinja").module
head, heading, quiet, notice = _PARTS.head, _PARTS.heading, _PARTS.quiet, _PARTS.notice
command, folded, charts = _PARTS.command, _PARTS.folded, _PARTS.charts
row_head, plain_cell, paragraph = _PARTS.row_head, _PARTS.cell, _PARTS.paragraph


def text(content: Any) -> Markup:
    """Anything as text of a page."""
    return escape(str(content))


def lines(parts: Iterable[str]) -> Markup:
    """Parts below each other; empty ones are left out."""
    return Markup("\n").join(part for part in parts if part)


def page(title: str, sections: Iterable[str], footer: str) -> str:
    """A whole page that needs nothing from elsewhere.

    Args:
        title: of the window.
        sections: markup.
        footer: a line.
    """
    template = _TEMPLATES.get_template("page.html.jinja")
    return template.render(title=title, sections=sections, footer=footer)


def section(title: str, *parts: str) -> Markup:
    """A titled section; nothing where there is no content."""
    body = lines(parts)
    return _PARTS.section(title, body) if body else Markup()


def label(name: str) -> Markup:
    """A field's name in words, as text of a page."""
    return text(words(name))


def number(value: Any) -> str:
    """A scalar in few characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return text(value)


def parsed(word: str) -> Any:
    """The number that a word of a table is, or the word."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def cards(values: Mapping[str, Any]) -> Markup:
    """The numbers at the top."""
    made = [(label(name), number(value)) for name, value in values.items()]
    return _PARTS.cards(made) if made else Markup()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, heads: bool = False) -> Markup:
    """A table; with `heads`, the first entry of a row names it."""
    made = []
    rows = list(rows)
    for row in rows[:_MOST_ROWS]:
        cells = [cell(value) for value in row]
        if heads:
            cells[0] = row_head(content(row[0]))
        made.append(Markup().join(cells))
    return table_of_rows(columns, made, n_more=len(rows) - _MOST_ROWS)


def table_of_rows(columns: Sequence[str], rows: Iterable[Markup], *, n_more: int = 0) -> Markup:
    """A table of rows that are made of `cell` and `row_head`."""
    return _PARTS.table([label(c) for c in columns] if any(columns) else [], rows, n_more)


def cell(value: Any, kind: str = "") -> Markup:
    """An entry of a table, of a class of the style sheet where one is given."""
    kinds = [kind] if kind else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        kinds.append("number")
    elif isinstance(value, str) and len(value) > _LONG_TEXT:
        kinds.append("long")
    return _PARTS.cell(content(value), kinds)


def content(value: Any) -> str:
    """Anything that JSON holds."""
    if isinstance(value, dict):
        return _mapping(value)
    if isinstance(value, list | tuple):
        return _sequence(list(value))
    return number(value)


def _mapping(value: dict[str, Any]) -> str:
    inner = list(value.values())
    if not inner:
        return ""
    if len(inner) > 1 and all(isinstance(v, dict) and v for v in inner):
        names = list(dict.fromkeys(name for v in inner for name in v))
        if all(list(v) == names for v in inner) and not any(
            isinstance(entry, dict) for v in inner for entry in v.values()
        ):
            # A matrix; the longer side goes down, or a phone could not show it.
            if len(names) > len(inner):
                rows = [[words(name), *(v[name] for v in inner)] for name in names]
                return table(["", *value], rows, heads=True)
            rows = [[words(k), *v.values()] for k, v in value.items()]
            return table(["", *names], rows, heads=True)
    return table([], [[words(k), v] for k, v in value.items()], heads=True)


def _sequence(value: list) -> str:
    if value and all(isinstance(v, dict) for v in value):
        columns = list(dict.fromkeys(name for v in value for name in v))
        return table(columns, [[v.get(c) for c in columns] for v in value])
    if any(isinstance(v, dict | list) for v in value):
        return folded(f"{len(value)} entries", table([], [[v] for v in value]))
    listed = Markup(", ").join(number(v) for v in value)
    if len(value) <= _LONG:
        return listed
    plain = [v for v in value if isinstance(v, int | float)]
    spread = f", {number(min(plain))} to {number(max(plain))}" if len(plain) == len(value) else ""
    return folded(f"{len(value)} values{spread}", paragraph(listed))


def picture(file: Path) -> Markup:
    """A PNG as part of the page."""
    return _PARTS.picture(file, base64.b64encode(file.read_bytes()).decode("ascii"))


def pictures(files: Iterable[Path]) -> Markup:
    """Figures; those of a numbered series but the last are folded."""
    series: dict[str, list[Path]] = {}
    for file in sorted(file for file in files if file.is_file()):
        series.setdefault(re.sub(r"_\d+$", "_", file.stem), []).append(file)
    made = []
    for name, members in series.items():
        made.append(picture(members[-1]))
        if len(members) > 1:
            earlier = lines(picture(file) for file in members[:-1])
            made.append(folded(f"{len(members) - 1} earlier of {name.strip('_')}", earlier))
    return lines(made)


def markdown(source: str) -> Markup:
    """Headings, paragraphs, names and tables of a Markdown file of this project."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        rows = block.splitlines()
        if not rows:
            continue  # an empty file
        if rows[0].startswith("#"):
            made.append(heading(rows[0].lstrip("# ")))
            rows = rows[1:]
        if len(rows) > 1 and rows[0].startswith("|"):
            top, *rest = ([c.strip() for c in row.strip().strip("|").split("|")] for row in rows)
            made.append(table(top, [[parsed(c) for c in row] for row in rest[1:]]))
        elif rows:
            # Every second part stands between backticks.
            parts = re.split(r"`([^`]+)`", " ".join(rows))
            words = (_PARTS.code(part) if k % 2 else part for k, part in enumerate(parts))
            made.append(paragraph(Markup().join(words)))
    return lines(made)
