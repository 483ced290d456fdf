r"""From a learned energy to a Markov chain on the cells, and from it to fates.

Cell i of snapshot k is sent one step ahead m times, with noise, to y_i^1, ..., y_i^m, and goes to the
cells of snapshot k + 1 near them,

    T_ij = (1/m) sum_r K(y_i^r, x_j) / sum_l K(y_i^r, x_l),   K(y, x) = exp(-|y - x|^2 / 2 h^2),     (1)

over the nearest cells only, h their root mean square distance from where they are sent, median over
the cells. A cell of the last snapshot goes to cells of that snapshot along its drift b_i,

    T_ij ~ exp(cos(b_i, x_j - x_i) / s)    of its neighbours j.                                      (2)

With n_i the expected number of descendants of cell i in the last snapshot and F_if the share of them
that end in f,

    n_i = sum_l S_il w_l sum_j T_lj n_j,    n_i F_if = sum_l S_il w_l sum_j T_lj n_j F_jf,         (3)

w_l = exp(tau g) of its step, 1 without growth, and S the mean over the `SIMILAR` cells of its snapshot
next to it and itself: what one cell's coordinates add to those of its like is mostly noise, which an
energy of many dimensions follows. A cell that is terminal already stays. One of the last snapshot that
is not has the fates of the terminal cells next to it.
"""

import jax
import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from diffusions.arguments import checked
from diffusions.typing import Float, HostArray, Key
from jkonet_star.fitted import FittedEnergy

NEIGHBOURS = 20
SIMILAR = 30
SHARPNESS = 0.1
"""s of equation (2), as scVelo has it."""
ROWS_AT_ONCE = 1024


def nearest_cells(points: HostArray, queries: HostArray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest points of each query, and their squared distances, (m, k), in order."""
    # Of one type, or all distances are held at once.
    points, queries = (np.asarray(of, np.float64) for of in (points, queries))
    found = NearestNeighbors(n_neighbors=min(k, len(points))).fit(points)
    distance, index = found.kneighbors(queries)
    return index, distance**2


def futures(
    energy: FittedEnergy,
    points: HostArray,
    start: int,
    n_futures: int,
    key: Key,
) -> tuple[np.ndarray, np.ndarray]:
    """Where cells of a snapshot are one step ahead, (m, n, d), and the weights of each, (n,).

    Without noise m is 1.

    Raises:
        ValueError: no futures are asked for.
    """
    if n_futures < 1:
        raise ValueError(f"n_futures must be at least 1, got {n_futures}")
    noisy = float(energy.beta) > 0
    found = [
        one_step(energy, points, start, jax.random.fold_in(key, r) if noisy else None)
        for r in range(n_futures if noisy else 1)
    ]
    return np.stack([arrived for arrived, _ in found]), found[0][1]


def one_step(
    energy: FittedEnergy, points: HostArray, start: int, key: Key | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where cells of a snapshot are one step later, (n, d), and how many each has become, (n,).

    Without a key there is no noise.
    """
    found = energy.predict_weighted(points, 1, start=start, key=key)
    before, after = (np.asarray(found.weights[k], np.float64) for k in (0, -1))
    return np.asarray(found.points[-1], np.float64), after / before


def step_transitions(
    arrivals: Float[np.ndarray, "m n d"], targets: Float[np.ndarray, "l d"], k: int = NEIGHBOURS
) -> sparse.csr_matrix:
    """Equation (1), (n, l); rows sum to 1."""
    m, n, d = arrivals.shape
    index, square = nearest_cells(targets, arrivals.reshape(m * n, d), k)
    width = float(np.median(square.mean(axis=1)))
    exponent = (square.min(axis=1, keepdims=True) - square) / max(2 * width, 1e-30)
    kernel = np.exp(exponent)
    kernel /= kernel.sum(axis=1, keepdims=True) * m
    rows = np.tile(np.repeat(np.arange(n), index.shape[1]), m)
    found = sparse.coo_matrix(
        (kernel.ravel(), (rows, index.ravel())), shape=(n, len(targets))
    ).tocsr()
    found.sum_duplicates()
    return found


def along_drift(
    points: Float[np.ndarray, "n d"], drift: Float[np.ndarray, "n d"], k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of each cell, (n, k), and the probabilities (2) with which it goes to them."""
    if len(points) == 1:
        return np.zeros((1, 1), np.int64), np.ones((1, 1))
    index = _without_itself(nearest_cells(points, points, k + 1)[0])
    found = np.empty(index.shape)
    length = np.linalg.norm(drift, axis=1)
    for a in range(0, len(points), ROWS_AT_ONCE):
        own = slice(a, a + ROWS_AT_ONCE)
        away = points[index[own]] - points[own, None]
        scale = np.linalg.norm(away, axis=2) * length[own, None]
        cosine = np.einsum("nkd,nd->nk", away, drift[own]) / np.where(scale > 0, scale, np.inf)
        weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / SHARPNESS)
        found[own] = weight / weight.sum(axis=1, keepdims=True)
    return index, found


def _without_itself(index: np.ndarray) -> np.ndarray:
    """All but the cell itself, or but the last where copies of it come first."""
    own = index == np.arange(len(index))[:, None]
    own[~own.any(axis=1), -1] = True
    return index[~own].reshape(len(index), -1)


def similar_cells(points: Float[np.ndarray, "n d"], k: int = SIMILAR) -> sparse.csr_matrix:
    """S of equation (3), (n, n)."""
    index = nearest_cells(points, points, k + 1)[0]
    rows = np.repeat(np.arange(len(points)), index.shape[1])
    share = np.full(index.size, 1.0 / index.shape[1])
    return sparse.csr_matrix((share, (rows, index.ravel())), (len(points), len(points)))


@checked
def terminal_fates(
    points: Float[np.ndarray, "n d"],
    terminal: Float[np.ndarray, "n f"],
    k: int = NEIGHBOURS,
) -> Float[np.ndarray, "n f"]:
    """Fates of the last snapshot's cells: their own, or those of the terminal cells next to them.

    Args:
        points: the cells.
        terminal: 1 for the group of a terminal cell; all zero for others.
        k: terminal cells that are next.
    """
    inside = terminal.sum(axis=1) > 0
    found = terminal.copy()
    if not inside.all():
        index = nearest_cells(points[inside], points[~inside], k)[0]
        found[~inside] = terminal[inside][index].mean(axis=1)
    return found


@checked
def absorbed(
    transitions: list[sparse.csr_matrix],
    growth: list[np.ndarray],
    terminal: list[np.ndarray],
    last: Float[np.ndarray, "n f"],
    similar: list[sparse.csr_matrix],
) -> list[np.ndarray]:
    """Equation (3), backwards from the last snapshot; the fates of every snapshot's cells.

    Args:
        transitions: of each step, by (1).
        growth: w of the cells of each step.
        terminal: of the cells of each step, 1 for the group of a terminal cell.
        last: fates of the last snapshot's cells.
        similar: S of each step's cells, by `similar_cells`.
    """
    fates, numbers = [last], np.ones(len(last))
    steps = zip(transitions[::-1], growth[::-1], terminal[::-1], similar[::-1], strict=True)
    for step, w, own, mean in steps:
        mass = mean @ (w[:, None] * (step @ (numbers[:, None] * fates[0])))
        numbers = mean @ (w * (step @ numbers))
        found = mass / numbers[:, None]
        inside = own.sum(axis=1) > 0
        found[inside] = own[inside]
        fates.insert(0, found)
    return fates


def fates_of_cells(
    cells: list[np.ndarray],
    ends: Float[np.ndarray, "n f"],
    transitions: list[sparse.csr_matrix],
    growth: list[np.ndarray],
    last: Float[np.ndarray, "l f"],
    similar: list[sparse.csr_matrix],
) -> Float[np.ndarray, "n f"]:
    """Equation (3), of all cells in their own order.

    Args:
        cells: of each snapshot.
        ends: of all cells, 1 for the group of a terminal cell.
        transitions: as of `absorbed`, like all that follow.
        growth: likewise.
        last: likewise.
        similar: likewise.
    """
    terminal = [ends[some] for some in cells[:-1]]
    found = np.empty(ends.shape)
    for some, own in zip(
        cells, absorbed(transitions, growth, terminal, last, similar), strict=True
    ):
        found[some] = own
    return found
