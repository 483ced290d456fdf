"""The verdict on a training, from losses whose course is known."""

import re

import numpy as np
import pytest

from diffusions.training_report import LEAST_EPOCHS, training_report

EPOCHS = np.arange(1, 101)


def judged(course, *, noise=0.0, wobble=0.0, epochs=EPOCHS):
    """Of 50 examples whose losses share a course, with noise of each slope and of all together."""
    rng = np.random.default_rng(0)
    terms = course(epochs)[:, None] + rng.normal(size=50)
    terms = terms + noise * rng.normal(size=50) * epochs[:, None] / len(epochs)
    terms = terms + wobble * rng.normal(size=(len(epochs), 1))
    return training_report(np.ones(len(epochs)), np.arange(50), epochs, terms, 0.0)


def test_the_drop_of_a_line_is_two_fifths_of_it():
    report = judged(lambda e: 3.0 - 0.01 * e)
    assert report.drop == pytest.approx(0.4)
    assert report.drop_error == pytest.approx(0.0, abs=1e-9)
    assert report.learned == pytest.approx(0.99)
    assert report.validation_error == pytest.approx(1.0 / np.sqrt(50), rel=0.3)
    assert report.too_short


@pytest.mark.parametrize("kind", ["noise", "wobble"])
def test_a_drop_within_its_error_is_none(kind):
    """The error is that of the examples, or of the evaluations, against their closed forms."""
    report = judged(lambda e: 3.0 - 0.01 * e, **{kind: 5.0})
    window = np.arange(40, 81)
    expected = {
        "noise": 40 * 5.0 / 100 / np.sqrt(50),
        "wobble": 40 * 5.0 / np.sqrt(((window - 60.0) ** 2).sum()),
    }[kind]
    assert report.drop_error == pytest.approx(expected, rel=0.35)
    assert not report.too_short


@pytest.mark.parametrize(
    ("course", "verdict"),
    [
        (lambda e: np.exp(-e / 5.0), None),  # at rest long before
        (lambda e: np.exp(-e / 100.0), "training was too short"),
        (lambda e: 1e-4 * np.exp(-e / 100.0), None),  # falling, by nothing that anyone would see
        (lambda e: 1e3 * np.exp(-e / 4.0) + 1e-3 * (100 - e), None),  # by too little of what was
        (lambda e: np.abs(e - 40) / 40.0, "the loss of held-out examples is 1.5 .* of epoch 40:"),
        (lambda e: np.where(e < 7, 1.0, np.nan), "training diverged in epoch 7;"),
    ],
)
def test_verdicts(course, verdict):
    line = judged(course).warning()
    assert (line is None) if verdict is None else re.match(verdict, line)


def test_few_epochs_are_too_few_to_tell():
    report = judged(lambda e: 0.0 * e, epochs=np.arange(1, LEAST_EPOCHS))
    assert report.too_short
    assert report.warning() == (
        "9 epochs are too few to tell whether training was long enough: take at least 10"
    )
    assert not judged(lambda e: 0.0 * e, epochs=np.arange(1, LEAST_EPOCHS + 1)).too_short
