"""What repetitions of a denoiser show, in words: do they agree with the theory, do they memorise."""

import math
from collections.abc import Sequence
from typing import Any

from diffusions.linear_denoiser.model import OneStepModel
from experiments.run.verdicts import Difference, Verdict, not_finite

_TAILS = 9
"""Points beyond the dimension from which four moments of an inverse covariance exist, and a standard
error tells."""
_COMPARED = ("kl", "mean_variance")


def curves_verdict(
    table: Sequence[dict[str, Any]], model: OneStepModel, repetitions: int
) -> Verdict:
    """Of the linear denoiser over n: beside the exact expectation and the limit, and its memory.

    Args:
        table: rows of `experiments.linear_denoiser.evaluation.summarise`.
        model: of them.
        repetitions: behind every row.
    """
    # Infinite KL is what singular covariances have.
    values = [row[name] for row in table for name in _COMPARED if not math.isinf(row[name])]
    if failed := not_finite("measured KL or variance", values):
        return failed
    differences = [
        Difference(row[name] - row[f"{name}_expected"], row[f"{name}_standard_error"], repetitions)
        for row in table
        for name in _COMPARED
        if _comparable(row, name) and not 0 <= row["n"] - model.dimension < _TAILS
    ]
    agreement, contradicted = _agreement(differences, "KL and variance")
    last = max(table, key=lambda row: row["n"])
    if math.isfinite(last["kl"]):
        reached = (
            f"KL to the truth is {last['kl']:.4g} at n = {last['n']}, "
            f"and {model.limiting_kl:.4g} for n without end"
        )
    else:
        reached = (
            f"KL to the truth is infinite up to n = {last['n']}, and {model.limiting_kl:.4g} "
            "for n without end"
        )
    return Verdict("; ".join((agreement, reached, memory(table))), beaten=contradicted)


def map_verdict(table: Sequence[dict[str, Any]], repetitions: int) -> Verdict:
    """Of the map over n and time: beside the exact losses, and where the gap is.

    Args:
        table: rows of `experiments.linear_denoiser.memorisation.summarise`.
        repetitions: behind every row.
    """
    if failed := not_finite("measured losses", [row["gap"] for row in table]):
        return failed
    dimension = table[0]["n"] / table[0]["n_over_d"]
    differences = [
        Difference(row[f"{name}_z"], 1.0, repetitions)
        for row in table
        for name in ("train_loss", "test_loss")
        if row[f"{name}_z"] is not None and abs(row["n"] - dimension) >= _TAILS
    ]
    agreement, contradicted = _agreement(differences, "losses")
    ends = (min(table, key=lambda row: row["n"]), max(table, key=lambda row: row["n"]))
    gaps = []
    for n, ratio in dict.fromkeys((row["n"], row["n_over_d"]) for row in ends):
        own = [row["gap"] for row in table if row["n"] == n]
        gaps.append(f"{min(own):.3g} to {max(own):.3g} at n/d = {ratio:.3g}")
    said = f"fresh pairs have a loss above that of training pairs by {' and '.join(gaps)}"
    return Verdict(f"{agreement}; {said}, over the times", beaten=contradicted)


def learned_verdict(
    table: Sequence[dict[str, Any]], mean: float, std: float, repetitions: int
) -> Verdict:
    """Of the learned denoiser: the pixels that it makes beside those of the data, and its memory.

    Args:
        table: rows of `experiments.linear_denoiser.learned_evaluation.summarise`.
        mean: of the data's pixels.
        std: their standard deviation.
        repetitions: behind every row.
    """
    last = max(table, key=lambda row: row["n"])
    made, deviation = last["generated_mean"], last["generated_std"]
    if failed := not_finite(f"generated pixels at n = {last['n']}", made, deviation):
        return failed
    away = Difference(made - mean, last["generated_mean_standard_error"] or math.nan, repetitions)
    # A bias of a tenth of a deviation is no failure, however small its error.
    wrong = away.clear() and abs(away.value) > std / 10 or not 0.5 < deviation / std < 2.0
    pixels = (
        f"at n = {last['n']} generated pixels are {made:.3g} +- {deviation:.2g}, "
        f"those of the data {mean:.3g} +- {std:.2g}"
    )
    return Verdict(f"{pixels}; {memory(table)}", beaten=bool(wrong))


def memory(table: Sequence[dict[str, Any]]) -> str:
    """At which n fresh points are nearer to what is generated, or training points, beyond chance.

    Args:
        table: rows with `n` and the interval of P(Delta > 0).
    """
    near: dict[str, list[str]] = {"memorised": [], "even": [], "fresh": []}
    for row in sorted(table, key=lambda row: row["n"]):
        low, high = row["p_delta_positive_low"], row["p_delta_positive_high"]
        kind = "memorised" if high < 0.5 else "fresh" if low > 0.5 else "even"
        near[kind].append(str(row["n"]))
    words = {
        "memorised": "training points are nearer to what is generated than fresh ones (memorised)",
        "even": "neither is nearer for certain",
        "fresh": "fresh points are nearer",
    }
    return "; ".join(
        f"at n = {_shown(sizes)} {words[kind]}" for kind, sizes in near.items() if sizes
    )


def _shown(sizes: list[str]) -> str:
    return ", ".join(sizes) if len(sizes) <= 4 else f"{sizes[0]}, ..., {sizes[-1]}"


def _comparable(row: dict[str, Any], name: str) -> bool:
    expected, error = row[f"{name}_expected"], row[f"{name}_standard_error"]
    return expected is not None and math.isfinite(expected) and bool(error)


def _agreement(differences: Sequence[Difference], what: str) -> tuple[str, bool]:
    """How far the worst of several means is from what is expected, and whether that is no chance."""
    if not differences:
        return f"{what} have no exact expectation with an error to compare", False
    worst = max(differences, key=lambda d: abs(d.value / d.error))
    contradicted = worst.clear(len(differences))
    far = (
        f"up to {abs(worst.value / worst.error):.2g} standard errors in {len(differences)} numbers"
    )
    if contradicted is None:
        few = f"{worst.n_values} repetitions are too few to contradict"
        return f"{few} the exact expectation of {what} ({far})", False
    verb = "contradict" if contradicted else "agree with"
    return f"measured {what} {verb} their exact expectation ({far})", contradicted
