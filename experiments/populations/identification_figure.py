"""The figure of what data can tell: every number between nothing and all, with its interval."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from data_generation.scripts.figures import (
    FAINT,
    OBSERVED,
    PREDICTED,
    TITLE_SIZE,
    empty_figure,
    in_style,
    save_figure,
)
from jkonet_star.identifiability import GROWTH_SAVES, LEAST_SHARE, QUESTIONS, Answer

TOLD, NOT_TOLD, NOTHING = OBSERVED, PREDICTED, FAINT
"""Colours of the answers."""
WIDTH = 84
WITH, WITHOUT, WORDS = 1.25, 0.75, 0.7
"""Inches of an answer with a number, of one without, and of the words of both."""
THRESHOLDS = {"circulation": LEAST_SHARE, "growth": GROWTH_SAVES}


def plot_answers(file: Path, answers: Sequence[Answer]) -> None:
    """One row per question: its number, its 90 % interval, and the verdict.

    Shares are drawn as they are, beta over its estimate; what is not determined has another colour.

    Args:
        file: where to.
        answers: of `identify`.
    """
    heights = [WITHOUT if answer.value is None else WITH for answer in answers]
    figure = empty_figure(8.2, sum(heights) + 0.4)
    ratios = {"height_ratios": [height - WORDS for height in heights]}
    rows = figure.subplots(len(answers), 1, squeeze=False, gridspec_kw=ratios)[:, 0]
    in_style(rows)
    for axes, answer in zip(rows, answers, strict=True):
        color = NOT_TOLD if not answer.determined else NOTHING if answer.value is None else TOLD
        unit = answer.value if answer.question == "noise" and answer.value else 1.0
        if answer.value is not None:
            if answer.low is not None and answer.high is not None:
                axes.plot(
                    [answer.low / unit, answer.high / unit], [0, 0], color=color, lw=4, alpha=0.4
                )
            axes.plot([answer.value / unit], [0], "o", color=color)
        said = "" if answer.determined else "not determined: "
        axes.set_title(
            f"{QUESTIONS[answer.question]}\n" + textwrap.fill(said + answer.verdict, WIDTH),
            loc="left",
            fontsize=TITLE_SIZE,
            color=color,
        )
        if answer.value is None:
            axes.set_axis_off()
            continue
        if answer.question in THRESHOLDS:
            axes.axvline(THRESHOLDS[answer.question], color="0.6", lw=1, ls=":")
        low, high = axes.get_xlim()
        axes.set_xlim(min(-0.05, low), max(1.05, high))
        axes.set_yticks([])
        measure = "beta over its estimate" if answer.question == "noise" else answer.measure
        axes.set_xlabel(measure)
        axes.spines["left"].set_visible(False)
    save_figure(figure, file)
