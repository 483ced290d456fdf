"""What is told of simulated cells, against their truth: docs/cells.md's figures.

    python -m benchmarks.cells [--cells=5000] [--genes=2000] [--components=30] [--solver=auto]
        [--growth] [--amplitude=1] [--motion-width=0.4] [--seed=0] [--kinship=0] [--pictures=FOLDER]

Cells of `data_generation.populations.simulated_cells`: four uneven days, three branches, growth. Fates
are compared with the true share of descendants (mean absolute error, by day), drivers with the genes
that were given to each branch (precision of the first 20), growth rates with the true ones, and the
genes of the cells that are predicted for the last day with those of its cells (correlation of means).
With a kinship, fates are compared with those of clones, too, beside the true fates.
"""

import argparse
import resource
import time
import warnings

import matplotlib
import numpy as np

from data_generation.populations.simulated_cells import BRANCHES, LABELS, simulated_cells
from jkonet_star import cells
from jkonet_star.cells.model import CELL_GROWTH
from jkonet_star.settings import GrowthSettings

matplotlib.use("Agg")
ASKED_BY = {"growth": "growth", "clones": "kinship"}
"""Pictures that a flag asks for."""


def timed(what, function, *args, **options):
    """Calls it, and prints the processor's time."""
    start = time.process_time()
    found = function(*args, **options)
    print(f"{what}: {time.process_time() - start:.1f} CPU s", flush=True)
    return found


def compare(adata):
    """Prints what was found beside the truth."""
    error = np.abs(adata.obsm["jkonet_fates"] - adata.obsm["true_fates"])
    days = adata.obs["day"].to_numpy()
    by_day = ", ".join(f"{day} {error[days == day].mean():.3f}" for day in LABELS)
    print(f"fates: mean absolute error {error.mean():.3f} ({by_day})")
    constant = np.abs(adata.obsm["true_fates"].mean(axis=0) - adata.obsm["true_fates"]).mean()
    print(f"  of the same fates for all cells {constant:.3f}")
    table, truth = adata.varm["jkonet_drivers"], adata.var["true_driver"]
    for kind in ("correlation", "velocity"):
        hits = [
            (truth[table[f"{name}_{kind}"].nlargest(20).index] == name).mean() for name in BRANCHES
        ]
        print(f"drivers by {kind}: precision of the first 20 {', '.join(f'{h:.2f}' for h in hits)}")
    future = cells.tl.predict(adata, time=7.0)
    mean = np.average(future.X, axis=0, weights=future.obs["jkonet_weight"])
    own = adata.X[days == "d7"].mean(axis=0)
    print(f"genes of predicted cells: correlation {np.corrcoef(mean, own)[0, 1]:.4f}")
    if "jkonet_growth" in adata.obs:
        found, true = adata.obs["jkonet_growth"].to_numpy(), adata.obs["true_growth"].to_numpy()
        one = ", ".join(
            f"{d} {np.corrcoef(found[days == d], true[days == d])[0, 1]:.2f}" for d in LABELS
        )
        print(f"growth: correlation {np.corrcoef(found, true)[0, 1]:.3f} ({one})")


def compare_clones(adata):
    """Prints how well fates go with those of clones."""
    timed("clones", cells.tl.clones, adata, clone_key="clone", groups="cell_type")
    found = adata.uns["jkonet"]["clones"]
    truth = adata.copy()
    truth.obsm["jkonet_fates"] = adata.obsm["true_fates"]
    cells.tl.clones(truth, clone_key="clone", groups="cell_type")
    rows = zip(
        [*found["methods"], "true fates"],
        [*found["correlation"], truth.uns["jkonet"]["clones"]["correlation"][0]],
        [*found["correlation_sd"], truth.uns["jkonet"]["clones"]["correlation_sd"][0]],
        [*found["correlation_by_time"], truth.uns["jkonet"]["clones"]["correlation_by_time"][0]],
        strict=True,
    )
    for name, whole, deviation, by_time in rows:
        early = ", ".join(f"{r:.2f}" for r in by_time)
        print(f"{name}: correlation with clones {whole:.3f} +- {deviation:.3f} (by day {early})")
    ahead = zip(found["methods"][1:], found["ahead"], found["ahead_sd"], strict=True)
    for name, more, deviation in ahead:
        print(f"ahead of {name} by {more:.3f} +- {deviation:.3f}")
    print(f"{found['n_clones']} clones, by day {found['n_clones_by_time'].tolist()}")


def main():
    """Learns, asks, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--components", type=int, default=30)
    parser.add_argument("--solver", default="auto")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--amplitude", type=float, default=CELL_GROWTH.growth_amplitude)
    parser.add_argument("--motion-width", type=float, default=CELL_GROWTH.motion_width)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinship", type=float, default=0.0)
    parser.add_argument("--pictures")
    given = parser.parse_args()
    adata = simulated_cells(
        given.seed, n_cells=given.cells, n_genes=given.genes, kinship=given.kinship
    )
    options = {}
    if given.growth:
        settings = GrowthSettings(growth_amplitude=given.amplitude, motion_width=given.motion_width)
        options = {"growth": settings, "masses": adata.uns["masses"]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = timed(
            "fit",
            cells.fit,
            adata,
            time_key="day",
            n_components=given.components,
            solver=given.solver,
            **options,
        )
    print(model)
    timed("potential", cells.tl.potential, adata)
    timed("velocity", cells.tl.velocity, adata, basis="umap")
    timed("fates", cells.tl.fates, adata, groups="cell_type", terminal=list(BRANCHES))
    timed("drivers", cells.tl.drivers, adata)
    timed("transitions", cells.tl.transitions, adata)
    if given.growth:
        timed("growth", cells.tl.growth, adata)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {after / 2**20:.2f} GiB, {before / 2**20:.2f} of it with the cells alone")
    compare(adata)
    if given.kinship:
        compare_clones(adata)
    if given.pictures:
        asked = [name for name in ("growth", "clones") if getattr(given, ASKED_BY[name])]
        for name in ("landscape", "velocity", *asked):
            getattr(cells.pl, name)(adata).figure.savefig(f"{given.pictures}/{name}.png", dpi=150)
        for name in ("fates", "law"):
            getattr(cells.pl, name)(adata)[0].figure.savefig(
                f"{given.pictures}/{name}.png", dpi=110
            )


if __name__ == "__main__":
    main()
