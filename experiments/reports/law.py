"""The predicted law on a page: every score beside its yardsticks, in the mean and by step."""

from typing import Any

from experiments.reports.html import (
    content,
    folded,
    heading,
    label,
    lines,
    table,
)
from experiments.reports.words import words

_FIRST = "energy"


def law_content(law: Any) -> str:
    """The scores of `jkonet_star.law.Law.as_dict`; whatever else stands there, as it is."""
    scores = _scores(law)
    if not scores:
        return content(law) if law else ""
    rulers = list(dict.fromkeys(name for s in scores.values() for name in s["per_step_yardsticks"]))
    rows = [
        [words(name), score.get("mean"), *(score.get(ruler) for ruler in rulers)]
        for name, score in scores.items()
    ]
    made = [table(["", _FIRST, *rulers], rows, heads=True)]
    by_step = []
    for name, score in scores.items():
        columns = {_FIRST: score["per_step"], **score["per_step_yardsticks"]}
        rows = [[k, *values] for k, values in enumerate(zip(*columns.values(), strict=False))]
        by_step += [heading(label(name)), table(["step", *columns], rows)]
    made.append(folded("by step", lines(by_step)))
    rest = {k: law[k] for k in ("n_compared", "n_transported", "halved") if k in law}
    return lines([*made, content(rest)])


def _scores(law: Any) -> dict[str, dict[str, Any]]:
    """What of an entry are scores."""
    if not isinstance(law, dict):
        return {}
    return {
        name: score
        for name, score in law.items()
        if isinstance(score, dict)
        and isinstance(score.get("per_step"), list)
        and isinstance(score.get("per_step_yardsticks"), dict)
        and all(isinstance(v, list) for v in score["per_step_yardsticks"].values())
    }
