"""Was a training long enough? What the loss of held-out examples says, and with which error.

Held-out examples are evaluated at epochs e_1 < .. < e_m of a part of the training in which the learning
rate is constant, always with the same log SNRs and noises. Example i has the losses y_i1 .. y_im, in
nats, and the slope

    b_i = sum_j (e_j - e) y_ij / sum_j (e_j - e)^2,   e the mean of e_j.                            (1)

Their mean b over the n examples is the slope of the mean loss. Over two fifths of T epochs it falls by

    drop = -2/5 T b,   error = 2/5 T sqrt(var(b_i) / n + var(residuals) / sum_j (e_j - e)^2),       (2)

the first variance being that of other examples, the second that of a training which wobbles. The
training was too short where the drop is more than twice its error, `NOTICEABLE` of all that was learned
since the first evaluation, and `LEAST` nats, which is one per cent of a density.

The epochs are those from two to four fifths of the training. In the last fifth the learning rate
falls to zero, and any loss comes to rest with it.
"""

import dataclasses

import numpy as np

from diffusions.arguments import checked
from diffusions.short_repr import short_repr
from diffusions.typing import Float, HostArray, Int

CONSTANT = 0.8
"""Share of the training until the learning rate falls."""
WINDOW = 0.4
"""Share of the training before that, which the slope is of."""
LEAST_EPOCHS = 10
"""With fewer there are not enough evaluations for a slope with an error."""
NOTICEABLE = 0.02
LEAST = 0.01


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrainingReport:
    """How the loss of a training went, in nats per example and in the units of the data.

    Attributes:
        loss: of every epoch's training batches; with weighting="uniform" it is no nll.
        held_out: numbers of the examples that were not trained on.
        epochs: after which they were evaluated.
        validation: mean of -log p over them, each time with the same noises.
        validation_error: standard error of the last, by examples and noises; it is nearly the same for
            all epochs, whose differences are known much better.
        gaussian: mean of -log p, of the Gaussian with mean and covariance of the training data.
        drop: by how much two fifths of the training, the last before the learning rate fell, lowered
            `validation`; NaN where there were too few epochs to tell.
        drop_error: its standard error.
        rise: by how much the last value is above the lowest.
        rise_error: its standard error.
        diverged: the first epoch after which a loss was not finite; None where there is none.
    """

    loss: Float[HostArray, "epochs"]
    held_out: Int[HostArray, "examples"]
    epochs: Int[HostArray, "evaluations"]
    validation: Float[HostArray, "evaluations"]
    validation_error: float
    gaussian: float
    drop: float
    drop_error: float
    rise: float
    rise_error: float
    diverged: int | None

    __repr__ = short_repr

    @property
    def learned(self) -> float:
        """By how much `validation` fell between the first and the last evaluation."""
        return float(self.validation[0] - self.validation[-1])

    @property
    def too_short(self) -> bool:
        """Whether the loss was still falling, or there are too few epochs to tell."""
        if np.isnan(self.drop):
            return True
        return self.drop > max(2.0 * self.drop_error, NOTICEABLE * self.learned, LEAST)

    def warning(self) -> str | None:
        """One line, where the training failed, was too short, or went on for too long."""
        if self.diverged is not None:
            return (
                f"training diverged in epoch {self.diverged}; the parameters are those of the last "
                "evaluation before, and mean little: take a smaller learning_rate"
            )
        if self.rise > max(3.0 * self.rise_error, LEAST):
            best = int(self.epochs[self.validation.argmin()])
            return (
                f"the loss of held-out examples is {self.rise:.2g} +- {self.rise_error:.2g} nats above "
                f"its lowest, of epoch {best}: the network learns its examples by heart; train for "
                f"{best} epochs, or take a smaller network or more data"
            )
        if np.isnan(self.drop):
            return (
                f"{len(self.loss)} epochs are too few to tell whether training was long enough: take "
                f"at least {LEAST_EPOCHS}"
            )
        if self.too_short:
            return (
                "training was too short: in two fifths of it the loss of held-out examples still fell "
                f"by {self.drop:.2g} +- {self.drop_error:.2g} nats; take epochs={2 * len(self.loss)}"
            )
        return None


@checked
def training_report(
    loss: Float[HostArray, "epochs"],
    held_out: Int[HostArray, "examples"],
    epochs: Int[HostArray, "evaluations"],
    terms: Float[HostArray, "evaluations examples"],
    gaussian: float,
) -> TrainingReport:
    """Judges a training by equations (1) and (2).

    Args:
        loss: of every epoch.
        held_out: numbers of the examples.
        epochs: finished before each evaluation.
        terms: estimates of -log p of held-out examples.
        gaussian: mean of -log p by the Gaussian.
    """
    validation = terms.mean(axis=1)
    unsound = [*epochs[~np.isfinite(validation)], *(np.flatnonzero(~np.isfinite(loss)) + 1)]
    drop, drop_error = np.nan, np.nan
    if len(loss) >= LEAST_EPOCHS and not unsound:
        drop, drop_error = _drop(epochs, terms, len(loss))
    risen = terms[-1] - terms[validation.argmin()]
    return TrainingReport(
        loss=loss,
        held_out=held_out,
        epochs=epochs,
        validation=validation,
        validation_error=_error(terms[-1]),
        gaussian=gaussian,
        drop=drop,
        drop_error=drop_error,
        rise=float(risen.mean()),
        rise_error=_error(risen),
        diverged=int(min(unsound)) if unsound else None,
    )


def _error(values: Float[HostArray, "examples"]) -> float:
    """The standard error of their mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _drop(
    epochs: Int[HostArray, "evaluations"],
    terms: Float[HostArray, "evaluations examples"],
    n_epochs: int,
) -> tuple[float, float]:
    """Equation (2)."""
    first, last = (CONSTANT - WINDOW) * n_epochs, CONSTANT * n_epochs
    inside = (epochs >= first) & (epochs <= last)
    centred = epochs[inside] - epochs[inside].mean()
    spread = (centred**2).sum()
    slopes = centred @ terms[inside] / spread
    means = terms[inside].mean(axis=1)
    residuals = means - means.mean() - slopes.mean() * centred
    wobble = (residuals**2).sum() / (len(centred) - 2) / spread
    length = WINDOW * n_epochs
    error = np.sqrt(slopes.var(ddof=1) / len(slopes) + wobble)
    return float(-length * slopes.mean()), float(length * error)
