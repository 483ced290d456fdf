r"""What each condition adds to a shared drift, in closed form.

With phi_l the features (Gaussian bumps on clusters of cells, and the leading coordinates) and the pairs
(x, y), tau apart, of each condition's own plan from the cells that the shared drift b has moved to z,

    (y - z) / tau  ~  sum_l (theta_l + delta_lc) grad phi_l(x),                                    (1)

weighed by the plan: theta is what the shared energy leaves out in all conditions and is dropped,
delta_c what a condition c adds to b, so that its energy is V - sum_l delta_lc phi_l. They are found by
least squares, gradients scaled to a mean square of 1, with a small ridge `COMMON_RIDGE` for theta, and
for the delta_c the one that predicts parts of the cells best which are left out in turn: without a
difference it is mostly large.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from diffusions.typing import Array, Float
from jkonet_star.energies.features import Features

CLUSTERS, LEADING = 20, 10
"""Bumps, and coordinates that are features by themselves."""
COMMON_RIDGE = 1e-3
RIDGES = 10.0 ** np.arange(-4, 3)
FOLDS = 5
ROWS_AT_ONCE = 1024
_CLUSTERED = 20_000


@dataclasses.dataclass(frozen=True)
class Basis:
    """The features phi, of coordinates in their own units.

    Attributes:
        center: of the cells, (d,).
        length: the root mean square deviation of a coordinate.
        bumps: centres of the bumps and, in the last column, their width, relative to these.
    """

    center: np.ndarray
    length: float
    bumps: np.ndarray

    @property
    def features(self) -> Features:
        """In relative coordinates."""
        d = len(self.center)
        leading = np.eye(d, dtype=int)[:LEADING]
        return Features(
            dimension=d,
            exponents=tuple(tuple(int(e) for e in row) for row in leading),
            trigonometric=False,
            radial="constant",
            width=None,
            n_centers=len(self.bumps),
        )

    def values(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n f"]:
        """Of the features."""
        return self._mapped(_values, points)

    def gradients(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n f d"]:
        """Of the features, by relative coordinates."""
        return self._mapped(_jacobians, points)

    def _mapped(self, function: Any, points: np.ndarray) -> np.ndarray:
        rows = min(ROWS_AT_ONCE, len(points))  # of one size: compiled once
        relative = ((points - self.center) / self.length).astype(np.float32)
        found = []
        for start in range(0, len(points), rows):
            some = relative[start : start + rows]
            own = function(self.features, self.bumps, np.resize(some, (rows, some.shape[1])))
            found.append(np.asarray(own, np.float64)[: len(some)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("features",))
def _values(features: Features, bumps: Array, points: Array) -> Array:
    return jax.vmap(functools.partial(features.values, jnp.asarray(bumps)))(points)


@functools.partial(jax.jit, static_argnames=("features",))
def _jacobians(features: Features, bumps: Array, points: Array) -> Array:
    return jax.vmap(functools.partial(features.jacobian, jnp.asarray(bumps)))(points)


def make_basis(points: Float[np.ndarray, "n d"]) -> Basis:
    """Features that tell the places of cells apart."""
    center = points.mean(axis=0)
    length = float(np.sqrt(points.var(axis=0).mean())) or 1.0
    some = (points - center) / length
    if len(some) > _CLUSTERED:
        some = np.random.default_rng(0).permutation(some)[:_CLUSTERED]
    count = min(CLUSTERS, len(np.unique(some, axis=0)))
    found = KMeans(count, n_init=1, random_state=0).fit(some)
    middles = found.cluster_centers_
    apart = np.linalg.norm(middles[:, None] - middles[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    # As wide as clusters are, or are apart: narrower bumps are empty in many dimensions.
    inside = found.inertia_ / len(some)
    width = 2 * max(float(np.median(apart.min(axis=1)) ** 2) if count > 1 else 1.0, inside)
    bumps = np.column_stack([middles, np.full(count, width)]).astype(np.float32)
    return Basis(center, length, bumps)


@dataclasses.dataclass(frozen=True)
class Differences:
    """What each condition adds to a shared drift.

    Attributes:
        names: of the conditions.
        basis: of the features.
        coefficients: delta, (conditions, features), in the coordinates' units.
        ridge: that was chosen.
    """

    names: tuple[str, ...]
    basis: Basis
    coefficients: np.ndarray
    ridge: float

    def drift(self, points: Float[np.ndarray, "n d"], name: str) -> Float[np.ndarray, "n d"]:
        """What a condition adds to the shared drift at some points, in coordinates over time.

        Raises:
            ValueError: there is no such condition.
        """
        if name not in self.names:
            raise ValueError(f"no condition {name!r}; there are {', '.join(self.names)}")
        delta = self.coefficients[self.names.index(name)]
        rows = [slice(i, i + ROWS_AT_ONCE) for i in range(0, len(points), ROWS_AT_ONCE)]
        parts = [np.einsum("nfd,f->nd", self.basis.gradients(points[own]), delta) for own in rows]
        return np.concatenate(parts).astype(np.float32)

    def written(self) -> dict[str, Any]:
        """In what .h5ad and .zarr files hold."""
        return {
            "names": np.asarray(self.names, dtype=object),
            "center": self.basis.center,
            "length": self.basis.length,
            "bumps": self.basis.bumps,
            "coefficients": self.coefficients,
            "ridge": self.ridge,
        }

    @classmethod
    def read(cls, held: Mapping[str, Any]) -> "Differences":
        """What `written` wrote.

        Raises:
            KeyError: something is missing.
            ValueError: shapes do not belong together.
        """
        names = tuple(str(name) for name in np.asarray(held["names"]))
        center, bumps = np.asarray(held["center"]), np.asarray(held["bumps"])
        basis = Basis(center, float(held["length"]), bumps)
        coefficients = np.asarray(held["coefficients"])
        if bumps.ndim != 2 or bumps.shape[1] != len(center) + 1:
            raise ValueError(f"bumps have shape {bumps.shape} in {len(center)} dimensions")
        if coefficients.shape != (len(names), basis.features.n_features):
            raise ValueError(f"coefficients have shape {coefficients.shape}")
        return cls(names, basis, coefficients, float(held["ridge"]))


class NormalEquations:
    """The sums of the least squares (1), of each condition and part of the cells.

    Attributes:
        basis: of the features.
        matrix: sums of grad phi grad phi^T, (conditions, parts, f, f).
        right: those of grad phi times what is left, (conditions, parts, f).
    """

    def __init__(self, basis: Basis, n_conditions: int):
        f = basis.features.n_features
        self.basis = basis
        self.matrix = np.zeros((n_conditions, FOLDS, f, f))
        self.right = np.zeros((n_conditions, FOLDS, f))
        self._rng = np.random.default_rng(0)

    def add(
        self,
        condition: int,
        points: Float[np.ndarray, "n d"],
        left: Float[np.ndarray, "n d"],
        weights: Float[np.ndarray, "n"],
    ) -> None:
        """Adds cells of a condition.

        Args:
            condition: its number.
            points: x.
            left: the mean of (y - z) / tau over each one's pairs, in the units of the basis.
            weights: of the cells.
        """
        part = self._rng.permutation(len(points)) % FOLDS
        for fold in range(FOLDS):
            own = part == fold
            if own.any():
                gradients = self.basis.gradients(points[own])
                weighted = gradients * weights[own, None, None]
                self.matrix[condition, fold] += np.einsum("nfd,ngd->fg", weighted, gradients)
                self.right[condition, fold] += np.einsum("nfd,nd->f", weighted, left[own])

    def solved(self, names: tuple[str, ...]) -> Differences:
        """The differences, with the ridge that predicts parts left out best."""
        matrix, right = self.matrix.sum(axis=1), self.right.sum(axis=1)
        scale = np.sqrt(np.maximum(np.einsum("cff->f", matrix), np.finfo(float).tiny))

        def error(ridge: float) -> float:
            total = 0.0
            for fold in range(FOLDS):
                own, b = self.matrix[:, fold], self.right[:, fold]
                theta, delta = _ridged(matrix - own, right - b, scale, ridge)
                both = theta + delta
                total += float(np.einsum("cf,cfg,cg->", both, own, both) - 2 * (both * b).sum())
            return total

        ridge = float(min(RIDGES, key=error))
        delta = _ridged(matrix, right, scale, ridge)[1]
        # Of relative coordinates as in `left`: drift and coordinates have the same length.
        return Differences(names, self.basis, delta * self.basis.length, ridge)


def _ridged(
    matrix: np.ndarray, right: np.ndarray, scale: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Theta, (f,), and delta, (c, f)."""
    c, f = right.shape
    own = matrix / scale[:, None] / scale
    whole = np.zeros((c + 1, f, c + 1, f))
    whole[0, :, 0] = own.sum(axis=0) + COMMON_RIDGE * np.eye(f)
    for i in range(c):
        whole[i + 1, :, i + 1] = own[i] + ridge * np.eye(f)
        whole[0, :, i + 1] = whole[i + 1, :, 0] = own[i]
    b = np.concatenate([right.sum(axis=0)[None], right]) / scale
    found = np.linalg.solve(whole.reshape((c + 1) * f, -1), b.ravel()).reshape(c + 1, f) / scale
    return found[0], found[1:]
