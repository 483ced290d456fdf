"""HTML without a template engine: tables of whatever JSON holds, figures as data, one page.

Every function returns HTML; text that comes from elsewhere goes through `text`.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_LONG = 8
_LONG_TEXT = 24
_MOST_ROWS = 500

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --quiet: #5d6672; --line: #d9dde3; --soft: #f4f6f8;
  --accent: #1f6feb; --warn: #fff4ce; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --quiet: #9aa5b1; --line: #353c45;
  --soft: #1c2128; --accent: #6ea8fe; --warn: #4a3b0a; } body { background: #12161b; } }
* { box-sizing: border-box; }
body { color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 64rem;
  padding: 1.2rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { border-bottom: 1px solid var(--line); font-size: 1.15rem; margin: 2.2rem 0 .8rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; }
.quiet { color: var(--quiet); }
.notice { background: var(--warn); border-radius: .4rem; padding: .6rem .8rem; }
.wide { margin: .4rem 0; max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); overflow-wrap: normal; padding: .25rem .7rem .25rem 0;
  text-align: left; vertical-align: top; }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 500; }
td.number { white-space: nowrap; }
td.long { min-width: 12rem; overflow-wrap: anywhere; }
thead + tbody td.number { text-align: right; }
td .wide { margin: 0; }
td table { font-size: inherit; }
td tr:last-child > * { border-bottom: 0; }
.cards { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.card { background: var(--soft); border-radius: .4rem; padding: .5rem .8rem; }
.card b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--quiet); font-size: .8rem; }
pre { background: var(--soft); border-radius: .4rem; font-size: .82rem; margin: .4rem 0;
  padding: .6rem .8rem; white-space: pre-wrap; }
figure { margin: 1rem 0; }
figure img { background: #fff; border-radius: .3rem; display: block; height: auto; max-width: 100%; }
figcaption { color: var(--quiet); font-size: .85rem; }
details { margin: .4rem 0; }
summary { color: var(--accent); cursor: pointer; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.charts figure { margin: 0; }
svg { display: block; height: auto; max-width: 100%; width: 100%; }
.changed { color: var(--accent); font-weight: 600; }
@media print { details { display: block; } body { max-width: none; } }
"""


def text(content: Any) -> str:
    """Anything as text of a page."""
    return html.escape(str(content))


def page(title: str, sections: Iterable[str], footer: str) -> str:
    """A whole page that needs nothing from elsewhere.

    Args:
        title: of the window.
        sections: HTML.
        footer: HTML.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *sections,
            f'<footer class="quiet"><p>{footer}</p></footer>',
            "</body>",
            "</html>",
            "",
        ]
    )


def section(title: str, *content: str) -> str:
    """A titled section; nothing where there is no content."""
    body = "\n".join(part for part in content if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def folded(title: str, content: str) -> str:
    """Content that opens on request."""
    return f"<details><summary>{text(title)}</summary>\n{content}\n</details>"


def command(line: str) -> str:
    """A command line."""
    return f"<pre>{text(line)}</pre>"


def notice(message: str) -> str:
    """What a reader must not miss."""
    return f'<p class="notice">{text(message)}</p>'


def label(name: str) -> str:
    """`emd_one_step_ahead` as words."""
    return text(name.replace("_", " "))


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


def cards(values: Mapping[str, Any]) -> str:
    """The numbers at the top."""
    if not values:
        return ""
    made = [
        f'<div class="card"><b>{number(value)}</b><span>{label(name)}</span></div>'
        for name, value in values.items()
    ]
    return f'<div class="cards">{"".join(made)}</div>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, heads: bool = False) -> str:
    """A table; with `heads`, the first entry of a row names it."""
    rows = list(rows)
    more = len(rows) - _MOST_ROWS
    body = []
    for row in rows[:_MOST_ROWS]:
        cells = [cell(value) for value in row]
        if heads:
            cells[0] = f'<th scope="row">{content(row[0])}</th>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{label(c)}</th>' for c in columns)
    head = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    rest = f'<p class="quiet">and {more} more rows in the file</p>' if more > 0 else ""
    return f'<div class="wide"><table>{head}<tbody>{"".join(body)}</tbody></table></div>{rest}'


def cell(value: Any, kind: str = "") -> str:
    """An entry of a table, of a class of the style sheet where one is given."""
    kinds = [kind] if kind else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        kinds.append("number")
    elif isinstance(value, str) and len(value) > _LONG_TEXT:
        kinds.append("long")
    named = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{named}>{content(value)}</td>"


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
                rows = [[name, *(v[name] for v in inner)] for name in names]
                return table(["", *value], rows, heads=True)
            return table(["", *names], [[k, *v.values()] for k, v in value.items()], heads=True)
    return table([], [[k.replace("_", " "), v] for k, v in value.items()], heads=True)


def _sequence(value: list) -> str:
    if value and all(isinstance(v, dict) for v in value):
        columns = list(dict.fromkeys(name for v in value for name in v))
        return table(columns, [[v.get(c) for c in columns] for v in value])
    if any(isinstance(v, dict | list) for v in value):
        return folded(f"{len(value)} entries", table([], [[v] for v in value]))
    listed = ", ".join(number(v) for v in value)
    if len(value) <= _LONG:
        return listed
    plain = [v for v in value if isinstance(v, int | float)]
    spread = f", {number(min(plain))} to {number(max(plain))}" if len(plain) == len(value) else ""
    return folded(f"{len(value)} values{spread}", f"<p>{listed}</p>")


def picture(file: Path) -> str:
    """A PNG as part of the page."""
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="{text(file.stem)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(file.name)}</figcaption></figure>"
    )


def pictures(files: Iterable[Path]) -> str:
    """Figures; those of a numbered series but the last are folded."""
    series: dict[str, list[Path]] = {}
    for file in sorted(file for file in files if file.is_file()):
        series.setdefault(re.sub(r"_\d+$", "_", file.stem), []).append(file)
    made = []
    for name, members in series.items():
        made.append(picture(members[-1]))
        if len(members) > 1:
            earlier = "\n".join(picture(file) for file in members[:-1])
            made.append(folded(f"{len(members) - 1} earlier of {name.strip('_')}", earlier))
    return "\n".join(made)


def markdown(source: str) -> str:
    """Headings, paragraphs, names and tables of a Markdown file of this project."""
    made: list[str] = []
    for block in re.split(r"\n\s*\n", source.strip()):
        lines = block.splitlines()
        if not lines:
            continue  # an empty file
        if lines[0].startswith("#"):
            made.append(f"<h3>{text(lines[0].lstrip('# '))}</h3>")
            lines = lines[1:]
        if len(lines) > 1 and lines[0].startswith("|"):
            head, *rows = (
                [c.strip() for c in line.strip().strip("|").split("|")] for line in lines
            )
            made.append(table(head, [[parsed(c) for c in row] for row in rows[1:]]))
        elif lines:
            words = re.sub(r"`([^`]+)`", r"<code>\1</code>", text(" ".join(lines)))
            made.append(f"<p>{words}</p>")
    return "\n".join(made)
