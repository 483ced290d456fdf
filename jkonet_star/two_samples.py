"""Whether two point sets are samples of one law, by three numbers that need no parameters.

For P = sum_i a_i delta_{x_i} and Q = sum_j b_j delta_{y_j}, weights of sum 1, the energy distance

    D(P, Q) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|                                                   (1)

(Szekely, Rizzo, J. Stat. Plan. Inference 143, 2013) is zero for equal laws only. It is estimated
without bias, so that it may be negative, from pairs of different points:

    E|X - Y|  ~  sum_ij a_i b_j |x_i - y_j|,
    E|X - X'| ~  sum_{i != j} a_i a_j |x_i - x_j| / (1 - sum_i a_i^2).                             (2)

The accuracy of a classifier between the two samples (C2ST; Lopez-Paz, Oquab, ICLR 2017) is here
that of the k = 5 nearest neighbours (Schilling, J. Am. Stat. Assoc. 81, 1986), every point left
out once: with z running through both samples, equal in number,

    A = mean_z 1[of the k others nearest to z more than half are of z's own sample],               (3)

1/2 for equal laws and 1 for laws that do not overlap. A point of the other sample at the very same
place as z is left out with z: else a copy of a sample would have A = 0. Other ties are broken at
random. Where points are coupled, each of one sample close to one of the other, A falls below 1/2.

The variance ratio compares the total variances, the traces of the covariances,

    R = Var(P) / Var(Q),   Var(P) = sum_i a_i |x_i - m|^2,  m = sum_i a_i x_i:                     (4)

a regression predicts means, and its cloud shrinks; Wasserstein distances reward that.

Two predictions of the same particles are compared on the same particles: with what one of them adds
to the estimate of (1),

    h(x_i) = 2 sum_j b_j |x_i - y_j| - 2 sum_i' a_i' |x_i - x_i'| / (1 - sum_i' a_i'^2),
    g(y_j) = 2 sum_i a_i |x_i - y_j|,                                                              (5)
    s_i = a_i (h(x_i) - sum_i' a_i' h(x_i')),   t_j likewise of g and b,
    Var(D - D') ~ sum_i (s_i - s'_i)^2 / (1 - sum_i a_i^2) + the same of t and b                   (6)

(the projection of a U-statistic: Hoeffding, Ann. Math. Stat. 19, 1948). Likewise where every distance
is taken to a power (`contributions`). Predictions of particles that multiply and die have weights of
their own; the a of (6)'s denominator are those before.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from diffusions.typing import Bool, Float, HostArray, Int

NEIGHBOURS = 5
FEWEST = NEIGHBOURS
"""Points a side below which (3) has too few others to ask."""
_TREE_UP_TO = 12
"""Dimension up to which a tree finds neighbours faster than all distances do."""
_ROWS_AT_ONCE = 1024
_PAIRS_AT_ONCE = 128
_ENTRIES_AT_ONCE = 2**22
_QUERIES_AT_ONCE = 256
SPARE = 8
"""Neighbours beyond twice the wanted ones, so that rounding loses none."""
_APART = 1e-9
"""Of the middle distance: how far ties are moved apart, below what single precision tells apart."""


def spread(x: Float[np.ndarray, "n d"], a: Float[np.ndarray, "n"]) -> float:
    """E|X - X'| of two different points, equation (2); zero where there is only one."""
    total = 0.0
    for start in range(0, len(x), _PAIRS_AT_ONCE):
        # Every pair of blocks once: the later rows count twice.
        rows = slice(start, start + _PAIRS_AT_ONCE)
        twice = 2.0 * np.asarray(a[start:])
        twice[: len(a[rows])] = a[rows]
        total += float(a[rows] @ cdist(x[rows], x[start:]) @ twice)
    return total / max(1.0 - float((a**2).sum()), np.finfo(np.float64).tiny)


def mean_distance(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
) -> float:
    """sum_ij a_i b_j |x_i - y_j|, a block of rows at a time."""
    blocks = [slice(i, i + _ROWS_AT_ONCE) for i in range(0, len(x), _ROWS_AT_ONCE)]
    return float(sum(a[rows] @ cdist(x[rows], y) @ b for rows in blocks))


def energy_distance(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
    *,
    spread_y: float | None = None,
) -> float:
    """Equation (1), estimated by (2), in the units of the points; NaN where a side has one point.

    Args:
        x: points of P.
        y: points of Q.
        a: weights of x, of sum 1.
        b: weights of y, of sum 1.
        spread_y: `spread(y, b)`, where many are compared with the same points.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    beside = spread(y, b) if spread_y is None else spread_y
    return 2.0 * mean_distance(x, y, a, b) - spread(x, a) - beside


class Contributions(NamedTuple):
    """An energy distance, and what each particle adds to it, equation (6)."""

    distance: float
    sources: Float[np.ndarray, "n"]  # s
    targets: Float[np.ndarray, "m"]  # t


def contributions(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
    *,
    exponent: float = 1.0,
) -> Contributions:
    """`energy_distance` and equation (6); arguments as there, with two points a side at least.

    Args:
        x: points of P.
        y: points of Q.
        a: weights of x, of sum 1.
        b: weights of y, of sum 1.
        exponent: every distance to this power, between 0 and 2; (1) is zero for equal laws only by any.

    Returns:
        NaN where one particle has all the weight of its side: it has no other to be compared with.
    """
    if max(a @ a, b @ b) >= 1:
        return Contributions(np.nan, np.full(len(a), np.nan), np.full(len(b), np.nan))
    across = cdist(x, y) ** exponent
    within = cdist(x, x) ** exponent @ a / (1 - a @ a)
    beside = cdist(y, y) ** exponent @ b / (1 - b @ b)
    sources, targets = 2 * across @ b - 2 * within, 2 * a @ across
    return Contributions(
        distance=float(2 * a @ across @ b - a @ within - b @ beside),
        sources=a * (sources - a @ sources),
        targets=b * (targets - b @ targets),
    )


def variance_of_difference(
    one: Contributions,
    other: Contributions,
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
) -> float:
    """Equation (6)."""
    return sum(
        float(np.sum((mine - its) ** 2)) / (1 - weights @ weights)
        for weights, mine, its in ((a, one.sources, other.sources), (b, one.targets, other.targets))
    )


def total_variance(x: Float[np.ndarray, "n d"], a: Float[np.ndarray, "n"]) -> float:
    """Var(P) of equation (4)."""
    centred = x - a @ x
    return float(a @ (centred**2).sum(axis=1))


def variance_ratio(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
) -> float:
    """Equation (4); NaN where the points of Q are all at one place.

    Args:
        x: points of P.
        y: points of Q.
        a: weights of x, of sum 1.
        b: weights of y, of sum 1.
    """
    below = total_variance(y, b)
    return total_variance(x, a) / below if below > 0 else float("nan")


def systematic_counts(
    weights: Float[np.ndarray, "n"], draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """How often each point is drawn, in proportion to its weight and off by less than one.

    Args:
        weights: not negative, of a positive sum.
        draws: in all.
        rng: of the one number that is drawn.
    """
    levels = np.cumsum(weights)
    levels = draws * (levels / levels[-1])
    return np.diff(np.ceil(levels - rng.random()), prepend=0.0).astype(np.int64)


def c2st(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "m"],
    rng: np.random.Generator,
) -> float:
    """Equation (3); NaN below `FEWEST` points a side.

    Points whose weights differ are resampled systematically in proportion to them; copies of a
    point that are drawn are not its neighbours.

    Args:
        x: points of P.
        y: points of Q.
        a: weights of x, of sum 1.
        b: weights of y, of sum 1.
        rng: of resampling and ties.
    """
    size = min(len(x), len(y))
    if size < FEWEST:
        return float("nan")
    drawn_x, drawn_y = (systematic_counts(w, size, rng) for w in (a, b))
    points = np.concatenate([x[drawn_x > 0], y[drawn_y > 0]])
    drawn = np.concatenate([drawn_x[drawn_x > 0], drawn_y[drawn_y > 0]])
    first = np.arange(len(points)) < np.count_nonzero(drawn_x)
    right = _own_majority(points, drawn, first, rng)
    return float(drawn @ right / drawn.sum())


def _own_majority(
    points: HostArray,
    drawn: Int[np.ndarray, "n"],
    first: Bool[np.ndarray, "n"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "n"]:
    """Of every point, whether its neighbours are mostly of its own sample; 1/2 where as many are not.

    Args:
        points: of both samples, pooled.
        drawn: how often each is there.
        first: whether it is of the first sample.
        rng: of ties.
    """
    centred = points - np.median(points, axis=0)
    # A few particles far away move neither; the smaller, since the prediction may be anywhere.
    sizes = [_middle_distance(x) for x in (points[first], points[~first], points)]
    size = min((s for s in sizes if s > 0), default=1.0)
    apart = centred + _APART * size * rng.standard_normal(centred.shape)
    # Itself, its twin and `NEIGHBOURS` others.
    near = nearest(apart, apart, NEIGHBOURS + 2)
    own = first[near] == first[:, None]
    votes = drawn[near] * (near != np.arange(len(points))[:, None])
    if (~own & (points[near] == points[:, None]).all(axis=-1)).any():
        is_twin = near == _twins(points, first)[:, None]
        votes = np.maximum(votes - is_twin * drawn[:, None], 0)
    votes = np.diff(np.minimum(np.cumsum(votes, axis=1), NEIGHBOURS), axis=1, prepend=0)
    excess = 2 * (votes * own).sum(axis=1) - votes.sum(axis=1)
    return 0.5 * (1.0 + np.sign(excess))


def _middle_distance(points: Float[np.ndarray, "n d"]) -> float:
    """The median distance from the median, of points elsewhere; zero where there are none."""
    distances = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    return float(np.median(distances[distances > 0])) if distances.any() else 0.0


def _twins(points: HostArray, first: Bool[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """The row of the other sample at the same place, each taken once; -1 where none is left."""
    _, site = np.unique(points, axis=0, return_inverse=True)
    group = 2 * site.ravel() + first
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(points), np.int64)
    rank[order] = np.arange(len(points)) - np.searchsorted(group[order], group[order])
    # The k-th of either sample at a place are twins.
    place = site.ravel() * len(points) + rank
    ours, theirs = np.flatnonzero(first), np.flatnonzero(~first)
    _, one, other = np.intersect1d(place[ours], place[theirs], return_indices=True)
    twins = np.full(len(points), -1)
    twins[ours[one]], twins[theirs[other]] = theirs[other], ours[one]
    return twins


def nearest(
    points: Float[np.ndarray, "n d"], queries: Float[np.ndarray, "m d"], count: int
) -> Int[np.ndarray, "m k"]:
    """The rows of the points nearest to each query, the nearest first.

    Args:
        points: at least one.
        queries: where from.
        count: how many; all where there are fewer.
    """
    count = min(count, len(points))
    if points.shape[1] <= _TREE_UP_TO:
        return cKDTree(points).query(queries, k=np.arange(1, count + 1))[1]
    found = np.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        found[rows] = _nearest_of_block(points, queries[rows], count)
    return found


def _nearest_of_block(
    points: Float[np.ndarray, "n d"], queries: Float[np.ndarray, "m d"], count: int
) -> Int[np.ndarray, "m k"]:
    """By products of matrices, and among a few more than are wanted by the distances themselves."""
    # About the queries' mean, so that the products lose no digits to a population far from zero.
    origin = queries.mean(axis=0)
    centred = queries - origin
    more = min(2 * count + SPARE, len(points))
    best, which = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    block = max(more, _ENTRIES_AT_ONCE // len(queries))
    for start in range(0, len(points), block):
        there = points[start : start + block] - origin
        apart = np.einsum("nd,nd->n", there, there) - 2.0 * (centred @ there.T)
        kept = min(more, len(there))
        chosen = np.argpartition(apart, kept - 1, axis=1)[:, :kept]
        best = np.concatenate([best, np.take_along_axis(apart, chosen, axis=1)], axis=1)
        which = np.concatenate([which, chosen + start], axis=1)
        if best.shape[1] > more:
            chosen = np.argpartition(best, more - 1, axis=1)[:, :more]
            best = np.take_along_axis(best, chosen, axis=1)
            which = np.take_along_axis(which, chosen, axis=1)
    which = np.sort(which, axis=1)
    distances = ((points[which] - queries[:, None]) ** 2).sum(axis=2)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(which, order, axis=1)
