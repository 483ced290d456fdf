"""What a run says of its result in a sentence or two; the words are in the `verdict.py` of its system.

A difference of two means is told from chance by Student's t over the values that it is a mean of, at
the level `LEVEL` divided by the number of such comparisons.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from data_generation.scripts.command_line import say

LEVEL = 0.01


class Verdict(NamedTuple):
    """A judgement in words.

    Attributes:
        text: how good the result is beside what it is measured by; no capital, no full stop.
        beaten: whether what knows less is as good, or the result contradicts what is known of it.
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

    def clear(self, comparisons: int = 1) -> bool:
        """Whether it is more than chance, among so many comparisons; False where no error is known."""
        if self.n_values < 2 or not np.isfinite(self.error):
            return False
        most = stats.t.ppf(1.0 - LEVEL / (2.0 * comparisons), self.n_values - 1)
        return bool(abs(self.value) > most * self.error)

    def words(self, unit: str = "") -> str:
        """Such as `0.56 +- 0.02 dB below`."""
        error = f" +- {self.error:.2g}" if np.isfinite(self.error) else ""
        side = "below" if self.value < 0 else "above"
        return f"{abs(self.value):.3g}{error}{unit and f' {unit}'} {side}"
