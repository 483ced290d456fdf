"""What `experiments.identify` found, on a page."""

from pathlib import Path
from typing import Any

from experiments.reports.html import lines, notice, paragraph, table
from experiments.run.records import Summary, read_entries

_COLUMNS = ("question", "measure", "value", "low", "high", "p_value")


def identified(file: Path) -> str:
    """The answers as a table, and every verdict below it; nothing where nobody asked.

    Raises:
        ValueError: the file is damaged.
    """
    if not file.is_file():
        return ""
    answers = read_entries(file, Summary).get("answers")
    if not isinstance(answers, list):
        return ""
    told: list[dict[str, Any]] = [answer for answer in answers if isinstance(answer, dict)]
    rows = [[answer.get(name) for name in _COLUMNS] for answer in told]
    made = [table([name.replace("_", " ") for name in _COLUMNS], rows, heads=True)]
    for answer in told:
        line = f"{str(answer.get('question', '')).capitalize()}: {answer.get('verdict', '')}."
        made.append(
            paragraph(line) if answer.get("determined") else notice(f"Not determined. {line}")
        )
    return lines(made)
