"""What a summary says, as it is read: the verdict, the numbers, what stands behind them."""

from typing import Any

from experiments.reports.html import content, folded, lines, notice, number, paragraph

BEHIND = ("explanation", "outliers", "couplings", "density", "closed_form", "choice")
"""Of a fit: what is looked at where something is wrong."""
VERDICT = ("verdict", "beaten")
"""In words, and whether it is bad, as `experiments.run.verdicts` defines it."""
_MOST_CARDS = 6
_OF_A_MEAN = ("std", "standard_error", "per_seed", "per_step")


def verdict(results: dict[str, Any]) -> str:
    """In words: how good the result is beside what learns nothing, and the warnings of the fit."""
    made = []
    law, w1 = results.get("law"), results.get("w1_one_step_ahead")
    # The verdict on a population is that on its law.
    own = {**(law if isinstance(law, dict) else {}), **results}
    said, beaten = own.get("verdict"), own.get("beaten")
    if isinstance(said, str) and said:
        line = f"{said[:1].upper()}{said[1:]}."
        made.append(notice(line) if beaten else paragraph(line))
    if isinstance(w1, dict):
        beside = {"energy": "by the energy", "no_motion": "where nothing moves"}
        beside |= {"floor": "between two samples of one snapshot, the sampling floor"}
        there = [f"{number(w1[k])} {what}" for k, what in beside.items() if w1.get(k) is not None]
        made.append(paragraph(f"W1 one step ahead is {', '.join(there)}.") if there else "")
    warned = results.get("warnings")
    for line in warned if isinstance(warned, list) else ():
        made.append(notice(f"Warning: {line}"))
    return lines(made)


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """The first numbers of the results, with the means of those that have one."""
    found: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, dict) and _averaged(value):
            value = None if _silent(value) else value["mean"]
        if isinstance(value, float) and len(found) < _MOST_CARDS:
            found[name] = value
    return found


def _averaged(value: dict[str, Any]) -> bool:
    """Whether an entry is a mean and what it is of; not numbers by names, one of them `mean`."""
    return isinstance(value.get("mean"), float) and not value.keys().isdisjoint(_OF_A_MEAN)


def numbers(results: dict[str, Any]) -> str:
    """The results, and folded what stands behind them; nothing that says nothing."""
    told = _telling({k: v for k, v in results.items() if k not in (*BEHIND, "warnings")})
    behind = _telling({k: v for k, v in results.items() if k in BEHIND})
    return lines(
        [
            content(told) if told else "",
            folded("how it was learned", content(behind)) if behind else "",
        ]
    )


def _telling(value: Any) -> Any:
    """Without what is empty, collections of zeros, and the deviation over one seed."""
    if not isinstance(value, dict):
        return value
    per_seed = value.get("per_seed")
    one = isinstance(per_seed, list) and len(per_seed) == 1 and "mean" in value
    return {
        name: _telling(entry)
        for name, entry in value.items()
        if not _silent(entry) and not (one and name in ("std", "per_seed"))
    }


def _silent(value: Any) -> bool:
    """Whether an entry is empty, or a collection of nothing but zeros."""
    if value is None or value == "":
        return True
    if not isinstance(value, dict | list):
        return False
    return all(_zero(v) for v in (value.values() if isinstance(value, dict) else value))


def _zero(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value == 0 if plain else _silent(value)
