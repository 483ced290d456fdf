"""What a learned density is worth, in words: beside a Gaussian, and beside the exact density."""

from experiments.run.verdicts import Difference, Verdict, not_finite


def verdict(
    nll: float,
    beside_gaussian: Difference,
    beside_exact: Difference | None,
    *,
    examples: str,
    unit: str,
    remarks: tuple[str, ...] = (),
) -> Verdict:
    """A density that is above a Gaussian is beaten by it, unless the exact one is as high.

    Args:
        nll: the mean negative log likelihood of validation data, in `unit`.
        beside_gaussian: nll less that of a Gaussian, on the same data, likewise.
        beside_exact: nll less the exact one, likewise; None where no law is known.
        examples: which data, in words.
        unit: nats, or bits per dimension.
        remarks: more to say.
    """
    mean = f"the mean negative log likelihood of {examples} is {nll:.4g} {unit}"
    if failed := not_finite("; ".join((mean, *remarks)), nll):
        return failed
    told = [beside_gaussian.beside("that of a Gaussian")]
    as_exact = False
    if beside_exact is not None:
        level = beside_exact.side() == 0
        # On the same data a density can be above that of their law, by luck.
        as_exact = level or beside_exact.value <= 0
        told.append(
            f"the exact one within chance ({beside_exact.words()} it)"
            if level
            else beside_exact.beside("the exact one")
        )
    no_better = not as_exact and beside_gaussian.side() in (0, 1)
    begin = "no better than a Gaussian: " if no_better else ""
    text = f"{begin}{mean}, {' and '.join(told)}"
    beaten = no_better and beside_gaussian.side() == 1
    return Verdict("; ".join((text, *remarks)), beaten=beaten)
