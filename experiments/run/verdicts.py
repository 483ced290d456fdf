"""What a run says of its result in a sentence or two; the words are in the `verdict.py` of its system.

A difference of two means is told from chance by Student's t over the values that it is a mean of, at
the level `LEVEL` divided by the number of such comparisons. What is clear of few values is clear; what
is not clear of fewer than `FEW` may be large, and is called neither equal nor different.

A result is *beaten*, in every system, where what knows less is better by more than chance, where it
contradicts what is known of it, or where it is no number. What is level within chance is not beaten.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from data_generation.scripts.command_line import say

LEVEL = 0.01
FEW = 10
"""Values below which a difference that is not clear tells nothing."""


class Verdict(NamedTuple):
    """A judgement in words.

    Attributes:
        text: how good the result is beside what it is measured by; no capital, no full stop.
        beaten: whether what knows less is better by more than chance, or the result contradicts what
            is known of it, or is not finite.
    """

    text: str
    beaten: bool

    def said(self) -> dict[str, Any]:
        """Prints it; the entries of the summary that the report leads with."""
        say(f"  {'warning: ' if self.beaten else ''}{self.text}")
        return {"verdict": self.text, "beaten": self.beaten}


def joined(verdicts: Sequence[Verdict]) -> Verdict:
    """Several of one run; beaten where one of them is."""
    return Verdict("; ".join(v.text for v in verdicts), any(v.beaten for v in verdicts))


def not_finite(text: str, *values: ArrayLike) -> Verdict | None:
    """The verdict on values one of which is NaN or infinite, whatever they stand beside; or None.

    Args:
        text: what they are of.
        values: that the result is a mean of, or the mean.
    """
    if all(np.isfinite(own).all() for own in values):
        return None
    return Verdict(f"not finite: {text}", beaten=True)


class Difference(NamedTuple):
    """Of two means.

    Attributes:
        value: the first less the second.
        error: its standard error.
        n_values: that they are of.
    """

    value: float
    error: float
    n_values: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Difference":
        """The mean of differences value by value; one alone does not tell its error (NaN)."""
        count = len(values)
        error = np.std(values, ddof=1) / np.sqrt(count) if count > 1 else np.nan
        return cls(float(np.mean(values)), float(error), count)

    def clear(self, comparisons: int = 1) -> bool | None:
        """Whether it is more than chance, among so many comparisons; None: too few values to tell."""
        if self.n_values < 2 or not np.isfinite([self.value, self.error]).all():
            return None
        most = special.stdtrit(self.n_values - 1, 1.0 - LEVEL / (2.0 * comparisons))
        if abs(self.value) > most * self.error:
            return True
        return None if self.n_values < FEW else False

    def side(self) -> int | None:
        """-1 where it is clear and below 0, 1 where above, 0 within chance; None: too few to tell."""
        clear = self.clear()
        return None if clear is None else clear * (1 if self.value > 0 else -1)

    def words(self, unit: str = "") -> str:
        """Such as `0.56 +- 0.02 dB below`."""
        error = f" +- {self.error:.2g}" if np.isfinite(self.error) else ""
        side = "below" if self.value < 0 else "above"
        return f"{abs(self.value):.3g}{error}{unit and f' {unit}'} {side}"

    def beside(self, rival: str, unit: str = "") -> str:
        """Such as `0.56 +- 0.02 dB below kriging`, and in brackets why it may be nothing."""
        doubt = {True: "", False: " (within chance)", None: " (too few to tell)"}[self.clear()]
        return f"{self.words(unit)} {rival}{doubt}"
