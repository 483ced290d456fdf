"""Table and figures of the embryoid body's protocols, the floor and no change beside every number."""

from collections.abc import Sequence

import numpy as np

from checkpoints import load_energy
from data_generation.populations.datasets import load_dataset
from data_generation.scripts.figures import LABEL_SIZE, new_figure, save_figure
from diffusions.files import write_text
from experiments.populations.assessment import evaluation_key
from experiments.populations.figures import plot_predictions
from experiments.reproductions.embryoid_body_protocols import (
    Protocol,
    leave_one_out,
    leave_two_out,
    one_step_ahead,
)
from experiments.reproductions.settings import ReproduceSettings
from experiments.run.tables import Row, markdown
from experiments.sweeps.folder import SweepFolder
from experiments.sweeps.settings import Cell
from experiments.sweeps.table import LAW
from jkonet_star.evaluation import predict_snapshots

SOURCE = (
    "Data: Moon et al., Nature Biotechnology 2019; principal components as published with "
    "TrajectoryNet (Tong et al., ICML 2020).\n"
)


def write_report(
    rows: Sequence[Row], runs: Sequence[Cell], folder: SweepFolder, settings: ReproduceSettings
) -> None:
    """All three protocols, as tables and figures."""
    protocols = [
        one_step_ahead(rows, runs, folder),
        leave_one_out(folder, settings),
        *leave_two_out(folder, settings),
    ]
    write_table(folder, protocols)
    draw_cells(runs, folder)


def write_table(folder: SweepFolder, protocols: Sequence[Protocol]) -> None:
    """`embryoid-body.md` and its figure."""
    parts = [SOURCE]
    for protocol in protocols:
        rows: list[dict] = [
            {"method": n, protocol.metric: v} for n, v in protocol.published.items()
        ]
        for name, values in protocol.scores.items():
            shown = f"{np.mean(values):.3f} +- {np.std(values):.3f} ({len(values)} seeds)"
            law = protocol.law.get(name, {})
            rows.append({"method": f"ours, {name}", protocol.metric: shown} | _means(law))
        for name, value in (("no change", protocol.no_change), ("sampling floor", protocol.floor)):
            law = protocol.law.get(name, {})
            rows.append({"method": name, protocol.metric: value} | _means(law))
        if "lookup" in protocol.law:
            found = _means(protocol.law["lookup"])
            rows.append({"method": "lookup", "W1": found.get("w1")} | found)
        columns = ["method", protocol.metric, *(LAW if protocol.law else ())]
        parts.append(f"## {protocol.name}\n\n{markdown(rows, columns)}")
    write_text(folder.path / "embryoid-body.md", "\n".join(parts))
    figure, grid = new_figure(len(protocols), size=3.4)
    figure.set_figheight(4.2)
    for axes, protocol in zip(grid[0], protocols, strict=True):
        names = list(protocol.scores)
        for place, name in enumerate(names):
            values = protocol.scores[name]
            axes.errorbar(place, np.mean(values), np.std(values), fmt="o", color="#1d4ed8", ms=4)
        for value, style, text in (
            (protocol.no_change, ":", "no change"),
            (protocol.floor, "--", "sampling floor"),
        ):
            axes.axhline(value, color="0.3", linestyle=style, linewidth=1.0, label=text)
        shades = ("#c2410c", "#15803d", "#7e22ce")
        for shade, (name, value) in zip(shades, protocol.published.items(), strict=False):
            axes.axhline(value, color=shade, linewidth=1.0, label=name)
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel(protocol.metric)
        axes.set_title(protocol.name, fontsize=LABEL_SIZE)
        axes.legend(fontsize=6, loc="best", frameon=False)
    save_figure(figure, folder.path / "plots" / "embryoid-body.png")


def _means(law: dict[str, list[float]]) -> dict[str, str]:
    return {name: f"{np.mean(values):.4f}" for name, values in law.items()}


def draw_cells(runs: Sequence[Cell], folder: SweepFolder) -> None:
    """Predicted and observed held-out cells of the first finished run, day by day."""
    for cell in runs:
        run = folder.run(cell)
        if run.finished:
            energies = load_energy(run.energy)
            test = load_dataset(cell.dataset_path).test
            one_step = np.asarray(predict_snapshots(energies, test, evaluation_key()).one_step[0])
            file = folder.path / "plots" / "embryoid-body-cells.png"
            plot_predictions(file, energies.member(0), test, one_step)
            return
