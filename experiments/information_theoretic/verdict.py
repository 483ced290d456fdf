"""What a learned density is worth, in words: beside a Gaussian, and beside the exact density."""

from experiments.run.verdicts import Difference, Verdict


def verdict(
    nll: float,
    beside_gaussian: Difference,
    beside_exact: Difference | None,
    *,
    examples: str,
    unit: str,
    remarks: tuple[str, ...] = (),
) -> Verdict:
    """A density that is no better than a Gaussian is beaten by it, unless the exact one is not either.

    Args:
        nll: the mean negative log likelihood of validation data, in `unit`.
        beside_gaussian: nll less that of a Gaussian, on the same data, likewise.
        beside_exact: nll less the exact one, likewise; None where no law is known.
        examples: which data, in words.
        unit: nats, or bits per dimension.
        remarks: more to say.
    """
    better = beside_gaussian.value < 0 and beside_gaussian.clear()
    exact = beside_exact is not None and not (beside_exact.value > 0 and beside_exact.clear())
    told = [f"{beside_gaussian.words()} that of a Gaussian"]
    if beside_exact is not None:
        away = beside_exact.words()
        told.append(
            f"the exact one within chance ({away} it)" if exact else f"{away} the exact one"
        )
    begin = "" if better or exact else "no better than a Gaussian: "
    mean = f"the mean negative log likelihood of {examples} is {nll:.4g} {unit}"
    text = f"{begin}{mean}, {' and '.join(told)}"
    return Verdict("; ".join((text, *remarks)), beaten=not (better or exact))
