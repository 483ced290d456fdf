"""How often a difference between conditions is found, where there is one and where there is none.

    python -m benchmarks.cells_conditions [--seeds=20] [--cells=2000] [--genes=250] [--components=10]
        [--solver=jkonet-star-linear-potential] [--permutations=199]
        [--treatments=none,start,branch,entry] [--pictures=FOLDER]

Cells of `data_generation.populations.simulated_cells` with a treatment of half of them. `none` and
`start` change no dynamics: rejections at 5 % are false. `branch` slows cells of one branch, `entry`
turns more cells into it. Where there is a difference, the area under the curve says whether
`obs["jkonet_effect_treated"]` is larger for cells where it is (above half of its largest) than for
others.
"""

import argparse
import time
import warnings

import matplotlib
import numpy as np
from sklearn.metrics import roc_auc_score

from data_generation.populations.simulated_cells import LABELS, simulated_cells
from jkonet_star import cells

matplotlib.use("Agg")
LEVEL = 0.05


def one(treatment, seed, given):
    """The p-value, those by time, the area under the curve, and CPU seconds of fit and comparison."""
    adata = simulated_cells(seed, n_cells=given.cells, n_genes=given.genes, treatment=treatment)
    start = time.process_time()
    cells.fit(adata, time_key="day", n_components=given.components, solver=given.solver)
    fitted = time.process_time()
    cells.tl.conditions(adata, condition_key="treatment", n_permutations=given.permutations)
    compared = time.process_time()
    found = adata.uns["jkonet"]["conditions"]
    if given.pictures and seed == 0:
        figure = cells.pl.conditions(adata)[0].figure
        figure.savefig(f"{given.pictures}/conditions_{treatment}.png", dpi=110)
    true = np.linalg.norm(adata.obsm["true_difference"], axis=1)
    area = np.nan
    if true.any():
        area = roc_auc_score(true > true.max() / 2, adata.obs["jkonet_effect_treated"])
    return (
        found["pvalue"][0],
        found["pvalue_by_time"][0],
        area,
        fitted - start,
        compared - fitted,
    )


def main():
    """Compares, and counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--solver", default="jkonet-star-linear-potential")
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--treatments", default="none,start,branch,entry")
    parser.add_argument("--pictures")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for treatment in given.treatments.split(","):
        rows = [one(treatment, seed, given) for seed in range(given.seeds)]
        pvalue, by_time, area, fit, compare = (
            np.array(column) for column in zip(*rows, strict=True)
        )
        early = ", ".join(
            f"{day} {(p <= LEVEL).sum()}" for day, p in zip(LABELS[1:], by_time.T, strict=True)
        )
        print(
            f"{treatment}: {(pvalue <= LEVEL).sum()} of {len(pvalue)} found ({early}), median p "
            f"{np.median(pvalue):.3f}, area {np.median(area):.2f}, CPU s {np.median(fit):.1f} and "
            f"{np.median(compare):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
