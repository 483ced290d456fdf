r"""A simulated single-cell experiment, with its truth: AnnData with genes, clones, batches and growth.

The state of a cell is z = (p, q), progress p and a point q of the plane. With a logistic function
s(p) = logistic(4 (p - 1)) and u_b = (cos 2 pi b / 3, sin 2 pi b / 3), b = 0, 1, 2,

    V(z) = -v p + k [|q|^4 / 4 + |q|^2 / 2 - s(p) (|q|^2 + Re (q_1 + i q_2)^3 / 3)],               (1)
    g(z) = s(p) sum_b gamma_b a_b(q),   a_b = softmax_b(6 u_b . q),                                (2)

one valley that forks at p = 1 into three, along u_0, u_1 and u_2, whose cells grow at rates gamma_b.
Cells move by Euler-Maruyama steps of (1) with noise beta, divide with probability g h of a step h and
die with probability -g h. Every four of the first cells share a barcode, which descendants carry. At
every time cells are sampled without replacement, and are gone. A gene i has the mean log expression

    m_i + l_i . (p, (u_0 . q)_+, (u_1 . q)_+, (u_2 . q)_+) + batch,                                 (3)

l_i zero but for the genes of progress and the drivers of each branch; counts are Poisson of its
share of the cell's expression times a size, and X is their logarithm after normalisation. The share of
a cell's descendants that end in each branch comes from (1) and (2), by many futures of each cell.

A treatment makes two arms of as many cells, with cells, clones and deaths of their own. To the drift of
the treated it adds

    branch   - kappa v s(p) a_0(q) (1, 0, 0)       cells of the first branch progress more slowly
    entry      eta 4 s(p) (1 - s(p)) (0, u_0)      at the fork more cells turn to the first branch  (4)
    start      nothing, but the first cells are ahead by `AHEAD` in p
    none       nothing

With a kinship rho the normal numbers of first states and noise are, of a cell i of clone c,

    sqrt(rho) xi_c + sqrt(1 - rho) xi_i,                                                            (5)

which leaves the law of every cell as it is, and lets cells of a clone go alike: without it they tell
nothing of each other once they have parted.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from sklearn.decomposition import PCA

from diffusions.arguments import checked
from diffusions.late_imports import import_extra
from diffusions.typing import Float

BRANCHES = ("A", "B", "C")
ROOT = "progenitor"
SPEED, DEPTH, BETA = 0.35, 2.0, 0.02
"""v, k and beta of (1), per day."""
GAMMA = np.array([0.35, 0.1, -0.1])
DIRECTIONS = np.stack(
    [np.cos(2 * np.pi * np.arange(3) / 3), np.sin(2 * np.pi * np.arange(3) / 3)], axis=1
)
STEP = 0.05
"""Days."""
START_DEVIATION = 0.12
DAYS = (0.0, 2.0, 4.5, 7.0)
LABELS = ("d0", "d2", "d4.5", "d7")
SHARES = (0.2, 0.24, 0.32, 0.24)
"""Of the cells, for each day."""
DRIVERS, OF_PROGRESS = 25, 100
"""Genes of each branch, and of progress, half of them falling."""
COMPONENTS = 30
COMMITTED = 0.35
"""|q| from which on a cell counts as of a branch."""
FUTURES = 64
_SIZE, _TARGET = 3000.0, 1e4
Treatment = Literal["none", "start", "branch", "entry"]
ARMS = ("control", "treated")
KAPPA, ETA, AHEAD = 0.7, 0.2, 0.15
"""Of (4); eta per day."""


def drift(z: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """-grad V of (1)."""
    p, q = z[:, 0], z[:, 1:]
    s = _forked(p)
    square = (q**2).sum(axis=1)
    cubic = q[:, 0] ** 3 - 3 * q[:, 0] * q[:, 1] ** 2
    # dV/ds, and the gradient of Re (q_1 + i q_2)^3 / 3.
    of_s = DEPTH * (-square - cubic / 3)
    of_cubic = np.stack([q[:, 0] ** 2 - q[:, 1] ** 2, -2 * q[:, 0] * q[:, 1]], axis=1)
    along = SPEED - of_s * 4 * s * (1 - s)
    across = -DEPTH * ((square + 1 - 2 * s)[:, None] * q - s[:, None] * of_cubic)
    return np.concatenate([along[:, None], across], axis=1)


def difference(z: Float[np.ndarray, "n 3"], treatment: Treatment) -> Float[np.ndarray, "n 3"]:
    """What (4) adds to the drift of the treated."""
    found, s = np.zeros(z.shape), _forked(z[:, 0])
    if treatment == "branch":
        share, total = _shares(z)
        found[:, 0] = -KAPPA * SPEED * s * share[:, 0] / total
    elif treatment == "entry":
        found[:, 1:] = (ETA * 4 * s * (1 - s))[:, None] * DIRECTIONS[0]
    return found


def growth(z: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """G of (2), per day."""
    share, total = _shares(z)
    return _forked(z[:, 0]) * (share @ GAMMA) / total


def _shares(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A of (2) times the sum of each row, and these sums."""
    exponent = 6.0 * z[:, 1:] @ DIRECTIONS.T
    share = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    return share, share.sum(axis=1)


def branch(z: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """The branch of each cell, (n,): 0, 1, 2, and -1 before it is committed to one."""
    q = z[:, 1:]
    return np.where(np.linalg.norm(q, axis=1) > COMMITTED, np.argmax(q @ DIRECTIONS.T, axis=1), -1)


def _forked(p: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-4.0 * (p - 1.0)))


Drift = Callable[[np.ndarray], np.ndarray]


def _under(treatment: Treatment) -> Drift:
    """The drift of treated cells."""
    return lambda z: drift(z) + difference(z, treatment)


def _moved(z: np.ndarray, normal: np.ndarray, drift: Drift) -> np.ndarray:
    return z + STEP * drift(z) + np.sqrt(2 * BETA * STEP) * normal


def _normal(clone: np.ndarray, rng: np.random.Generator, kinship: float) -> np.ndarray:
    """Equation (5)."""
    own = rng.standard_normal((len(clone), 3))
    if kinship == 0:
        return own
    shared = rng.standard_normal((clone.max() + 1, 3))[clone]
    return np.sqrt(kinship) * shared + np.sqrt(1 - kinship) * own


def true_fates(
    z: Float[np.ndarray, "n 3"],
    days: Float[np.ndarray, "n"],
    seed: int = 0,
    drift: Drift = drift,
) -> Float[np.ndarray, "n 3"]:
    """The share of the descendants on the last day that each branch has, of cells of any day."""
    rng = np.random.default_rng(seed)
    found = np.empty((len(z), len(BRANCHES)))
    for day in np.unique(days):
        inside = np.flatnonzero(days == day)
        now = np.repeat(z[inside], FUTURES, axis=0)
        weight = np.zeros(len(now))
        for _ in range(round((DAYS[-1] - day) / STEP)):
            weight += STEP * growth(now)
            now = _moved(now, rng.standard_normal(now.shape), drift)
        ends = np.argmax(now[:, 1:] @ DIRECTIONS.T, axis=1)
        share = np.zeros((len(inside), len(BRANCHES)))
        np.add.at(share, (np.arange(len(now)) // FUTURES, ends), np.exp(weight))
        found[inside] = share / share.sum(axis=1, keepdims=True)
    return found


def _sampled(
    n_cells: int,
    rng: np.random.Generator,
    kinship: float,
    drift: Drift = drift,
    ahead: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """States, days, clones of the sampled cells, and the numbers of cells there were on each day."""
    counts = np.round(np.asarray(SHARES) * n_cells).astype(int)
    counts[-1] += n_cells - counts.sum()
    founders = 4 * n_cells
    clone = np.repeat(np.arange(founders // 4), 4)  # barcodes come a few divisions before day 0
    z = START_DEVIATION * _normal(clone, rng, kinship)
    z[:, 0] += ahead
    states, days, clones, masses = [], [], [], []
    lost, at = 1.0, 0.0
    for day, count in zip(DAYS, counts, strict=True):
        for _ in range(round((day - at) / STEP)):
            rate = STEP * growth(z)
            z = _moved(z, _normal(clone, rng, kinship), drift)
            chance = rng.random(len(z))
            alive = ~((rate < 0) & (chance < -rate))
            divides = (rate > 0) & (chance < rate)
            z = np.concatenate([z[alive], z[divides]])
            clone = np.concatenate([clone[alive], clone[divides]])
        at = day
        masses.append(len(z) / lost)
        taken = rng.permutation(len(z))
        chosen, left = taken[:count], taken[count:]
        states.append(z[chosen])
        clones.append(clone[chosen])
        days.append(np.full(count, day))
        # What is taken would have grown: numbers are those of a population left alone.
        lost *= len(left) / len(z)
        z, clone = z[left], clone[left]
    z, clone = np.concatenate(states), np.concatenate(clones)
    return z, np.concatenate(days), clone, np.asarray(masses)


def _arms(
    n_cells: int, rng: np.random.Generator, kinship: float, treatment: Treatment | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`_sampled` of one arm, or of two in halves, and which cells are treated, before the numbers."""
    if treatment is None:
        z, days, clone, masses = _sampled(n_cells, rng, kinship)
        return z, days, clone, np.zeros(n_cells, bool), masses
    ahead = AHEAD if treatment == "start" else 0.0
    half = n_cells // 2
    control = _sampled(n_cells - half, rng, kinship)
    treated = _sampled(half, rng, kinship, _under(treatment), ahead)
    apart = control[2].max() + 1  # clones of their own
    return (
        np.concatenate([control[0], treated[0]]),
        np.concatenate([control[1], treated[1]]),
        np.concatenate([control[2], apart + treated[2]]),
        np.arange(n_cells) >= n_cells - half,
        control[3] + treated[3],
    )


def _loadings(n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """L of (3), (n_genes, 4)."""
    loadings = np.zeros((n_genes, 4))
    rises = np.where(np.arange(OF_PROGRESS) % 2, -1.0, 1.0)
    loadings[:OF_PROGRESS, 0] = rises * rng.uniform(0.5, 1.0, OF_PROGRESS)
    for b in range(len(BRANCHES)):
        own = slice(OF_PROGRESS + b * DRIVERS, OF_PROGRESS + (b + 1) * DRIVERS)
        loadings[own, 1 + b] = rng.uniform(1.5, 3.0, DRIVERS)
    return loadings


@checked
def simulated_cells(
    seed: int = 0,
    *,
    n_cells: int = 5000,
    n_genes: int = 2000,
    treatment: Treatment | None = None,
    kinship: float = 0.0,
) -> Any:
    """An AnnData object of the experiment.

    `obs`: day (d0, d2, d4.5, d7), cell_type (progenitor, A, B, C), clone, batch, true_growth;
    `obsm`: X_pca, X_umap (the state seen from one side), true_state, true_fates, true_velocity (of the
    state); `var`: true_driver (a branch or nothing); `varm`: PCs; `layers`: counts; `uns`: masses,
    cells of each day in a population from which none is taken. With a treatment also `obs`: treatment
    (control, treated); `obsm`: true_difference, (4) of every cell, whatever its arm; velocities and
    fates are those of its arm, `masses` those of both.

    Args:
        seed: of everything.
        n_cells: in all.
        n_genes: at least 200.
        treatment: of half of the cells, (4); none where not given.
        kinship: of the cells of a clone, (5), at least 0 and below 1.

    Raises:
        ValueError: too few cells or genes, an unknown treatment, or no such kinship.
        ImportError: AnnData is not installed.
    """
    anndata = import_extra("anndata", "simulated_cells")
    pandas = import_extra("pandas", "simulated_cells")
    if n_genes < OF_PROGRESS + (len(BRANCHES) + 1) * DRIVERS:
        raise ValueError(f"n_genes must be at least 200, got {n_genes}")
    if n_cells < 100:
        raise ValueError(f"n_cells must be at least 100, got {n_cells}")
    if not 0 <= kinship < 1:
        raise ValueError(f"kinship must be at least 0 and below 1, got {kinship}")
    if treatment not in (None, *get_args(Treatment)):
        known = ", ".join(get_args(Treatment))
        raise ValueError(f"treatment must be one of {known}, or None, got {treatment!r}")
    rng = np.random.default_rng(seed)
    z, days, clone, treated, masses = _arms(n_cells, rng, kinship, treatment)
    order = rng.permutation(n_cells)
    z, days, clone, treated = z[order], days[order], clone[order], treated[order]
    batch = rng.integers(2, size=n_cells)

    loadings = _loadings(n_genes, rng)
    named = np.concatenate([z[:, :1], np.maximum(z[:, 1:] @ DIRECTIONS.T, 0.0)], axis=1)
    mean = rng.normal(-0.5, 1.0, n_genes)
    shift = 0.2 * rng.standard_normal(n_genes) * (rng.random(n_genes) < 0.1)
    rate = np.exp(mean + named @ loadings.T + batch[:, None] * shift)
    size = _SIZE * np.exp(0.2 * rng.standard_normal(n_cells))
    counts = rng.poisson(size[:, None] * rate / rate.sum(axis=1, keepdims=True)).astype(np.float32)
    total = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts * (_TARGET / np.maximum(total, 1.0)))
    pca = PCA(COMPONENTS, random_state=seed, svd_solver="randomized").fit(logged)

    names = np.array([ROOT, *BRANCHES])[branch(z) + 1]
    label = dict(zip(DAYS, LABELS, strict=True))
    data = anndata.AnnData(
        X=logged,
        obs=pandas.DataFrame(
            {
                "day": pandas.Categorical([label[t] for t in days], categories=LABELS),
                "cell_type": pandas.Categorical(names, categories=[ROOT, *BRANCHES]),
                "clone": pandas.Categorical([f"clone{c}" for c in clone]),
                "batch": pandas.Categorical([f"batch{b}" for b in batch]),
                "true_growth": growth(z),
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        var=pandas.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    driver = np.full(n_genes, "", dtype=object)
    for b, name in enumerate(BRANCHES):
        driver[OF_PROGRESS + b * DRIVERS : OF_PROGRESS + (b + 1) * DRIVERS] = name
    data.var["true_driver"] = pandas.Categorical(driver)
    data.layers["counts"] = counts
    data.obsm["X_pca"] = pca.transform(logged).astype(np.float32)
    data.varm["PCs"] = pca.components_.T.astype(np.float32)
    data.obsm["X_umap"] = np.stack([z[:, 1], 0.7 * z[:, 2] - 0.8 * z[:, 0]], axis=1)
    data.obsm["true_state"] = z
    data.obsm["true_velocity"] = drift(z)
    data.obsm["true_fates"] = true_fates(z, days, seed)
    data.uns["masses"] = masses
    if treatment is not None:
        data.obs["treatment"] = pandas.Categorical(
            np.array(ARMS)[treated.astype(int)], categories=ARMS
        )
        data.obsm["true_difference"] = difference(z, treatment)
        own, moved = z[treated], _under(treatment)
        data.obsm["true_velocity"][treated] = moved(own)
        data.obsm["true_fates"][treated] = true_fates(own, days[treated], seed, moved)
    return data
