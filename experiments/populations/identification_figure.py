"""The figure of what data can tell: every number between nothing and all, with its interval."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.run.figures import save_figure
from jkonet_star.identifiability import GROWTH_SAVES, LEAST_SHARE, QUESTIONS, Answer

TOLD = "#1f6f9f"
NOT_TOLD = "#d9541e"
NOTHING = "0.4"
WIDTH = 84
THRESHOLDS = {"circulation": LEAST_SHARE, "growth": GROWTH_SAVES}


def plot_answers(file: Path, answers: Sequence[Answer]) -> None:
    """One row per question: its number, its 90 % interval, and the verdict.

    Shares are drawn as they are, beta over its estimate; what is not determined has another colour.

    Args:
        file: where to.
        answers: of `identify`.
    """
    figure = Figure(figsize=(8.2, 1.25 * len(answers) + 0.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(answers), 1, squeeze=False)[:, 0]
    for axes, answer in zip(rows, answers, strict=True):
        color = NOT_TOLD if not answer.determined else NOTHING if answer.value is None else TOLD
        unit = answer.value if answer.question == "noise" and answer.value else 1.0
        if answer.value is not None:
            if answer.low is not None and answer.high is not None:
                axes.plot(
                    [answer.low / unit, answer.high / unit], [0, 0], color=color, lw=4, alpha=0.4
                )
            axes.plot([answer.value / unit], [0], "o", color=color)
        said = "" if answer.determined else "Not determined: "
        axes.set_title(
            f"{QUESTIONS[answer.question]}\n" + textwrap.fill(said + answer.verdict, WIDTH),
            loc="left",
            fontsize=8,
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
        axes.tick_params(labelsize=7)
        measure = "beta over its estimate" if answer.question == "noise" else answer.measure
        axes.set_xlabel(measure, fontsize=7)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
    save_figure(figure, file)
