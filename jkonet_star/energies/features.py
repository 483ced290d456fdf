"""Features of linear energies, with analytic gradients.

Monomials        phi_e(x) = prod_k x_k^{e_k},  0 <= e_k <= degree, |e| > 0                          (1)
                 d_k phi_e = e_k x_k^{e_k - 1} prod_{l != k} x_l^{e_l}                              (2)
Trigonometric    sin(phi_e), cos(phi_e)                                                            (3)
Radial           phi_c(x) = g(r) exp(-r^2 / w),  r = |x - c|                                       (4)
                 grad phi_c = (x - c) (g'(r) / r - 2 g(r) / w) exp(-r^2 / w)                        (5)
Mean gradient    m(x) = sum_j w_j grad phi(x - y_j)                                                (6)

In two dimensions monomials, and Gaussians (g = 1) on a grid, are products of one function per axis,
phi(z) = p_a(z_1) q_b(z_2), so that (6) for all a and b is one matrix product per x,

    m_1(x)_ab = sum_j w_j p_a'(x_1 - y_j1) q_b(x_2 - y_j2),   m_2 likewise,                        (7)

with 2 (degree + 1 + centres per axis) evaluations per pair in place of one per feature.

(Terpin et al., NeurIPS 2024, appendix on linear parametrisations, for the choice of features.)
"""

import dataclasses
import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from diffusions.checks import Count, Natural, Positive
from diffusions.precision import einsum
from diffusions.typing import Array, Float
from jkonet_star.energies.interactions import interaction_drift, sum_over_blocks
from jkonet_star.settings import Degree, FeatureSettings, RadialFunction

POPULATION_PER_BLOCK = 64
SEPARABLE_PAIRS_PER_BLOCK = 2**18
MOST_EXTENSION = 2
UNIFORM_HALF_WIDTH = math.sqrt(3.0)
"""Of a uniform population of variance one: where the grid of radial functions lies by default."""
RELATIVE_WIDTH = 0.5 / (8.0 / 9.0) ** 2
"""w over the squared distance of neighbouring centres; published: 0.5 for ten centres on [-4, 4]."""
MOST_MONOMIALS = 500
LARGEST_TOTAL_DEGREE = 4


def _radial_factor(kind: str, r2: Array) -> tuple[Array, Array]:
    """g(r) and g'(r) / r as functions of r^2, finite at r = 0."""
    safe = jnp.where(r2 > 0, r2, 1.0)
    r = jnp.where(r2 > 0, jnp.sqrt(safe), 0.0)
    zero = jnp.zeros_like(r2)
    # (5) multiplies g'/r by x - c, which vanishes at r = 0: any finite value serves there.
    inverse_r = jnp.where(r2 > 0, 1.0 / jnp.sqrt(safe), 0.0)
    match kind:
        case "constant":
            return jnp.ones_like(r2), zero
        case "linear":
            return -r, -inverse_r
        case "thin-plate":
            log_r = 0.5 * jnp.log(safe)
            return r2 * log_r, jnp.where(r2 > 0, 2.0 * log_r + 1.0, 0.0)
        case "cubic":
            return r2 * r, 3.0 * r
        case "quintic":
            return -r2 * r2 * r, -5.0 * r2 * r
        case "multiquadric":
            root = jnp.sqrt(r2 + 1.0)
            return -root, -1.0 / root
        case "inverse-multiquadric":
            root = jnp.sqrt(r2 + 1.0)
            return 1.0 / root, -1.0 / (root * (r2 + 1.0))
        case "inverse-quadratic":
            return 1.0 / (r2 + 1.0), -2.0 / (r2 + 1.0) ** 2
    raise ValueError(f"unknown radial function {kind!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """A fixed list of features: monomials (1), their sines and cosines (3), radial functions (4).

    Hashable and without arrays, the static part of a program; the radial centres, (k, d), are passed
    in. Where they follow from the data their width does, too, and is passed in with them.

    Attributes:
        dimension: d.
        exponents: e of each monomial.
        trigonometric: whether (3) is included.
        radial: the factor g, or none.
        width: w; None where every centre has its own, in a last column, (k, d + 1).
        n_centers: radial functions.
    """

    dimension: Count
    exponents: tuple[tuple[Degree, ...], ...]
    trigonometric: bool
    radial: RadialFunction
    width: Positive | None
    n_centers: Natural

    @property
    def n_features(self) -> int:
        """f, the length of `values`."""
        n_monomials = len(self.exponents) * (3 if self.trigonometric else 1)
        return n_monomials + self.n_centers

    @functools.cached_property
    def _active(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each monomial as factors: (f, a) coordinates, (f, a) exponents, (f, a, d) one-hot.

        With a bounded total degree a monomial touches few coordinates: a is at most the largest
        number of them, not d. Unused slots have exponent zero.
        """
        table = np.asarray(self.exponents, dtype=np.int32).reshape(-1, self.dimension)
        n_active = int((table > 0).sum(axis=1).max(initial=0))
        axes = np.argsort(table == 0, axis=1, kind="stable")[:, :n_active].astype(np.int32)
        powers = np.take_along_axis(table, axes, axis=1)
        return axes, powers, np.eye(self.dimension)[axes]

    def _factors(self, x: Float[Array, "d"]) -> tuple[Array, Array]:
        """x_a^e and e x_a^(e - 1) of each factor, (f, a) both."""
        axes, powers, _ = self._active
        highest = int(powers.max(initial=0))
        table = [jnp.ones_like(x)]
        for _ in range(highest):
            table.append(table[-1] * x)
        power_table = jnp.stack(table)
        derivative = jnp.asarray(powers, x.dtype) * power_table[np.maximum(powers - 1, 0), axes]
        return power_table[powers, axes], derivative

    def _centers(self, table: Float[Array, "k c"]) -> tuple[Array, Array | float]:
        """The centres, (k, d), and w, of all or of each."""
        return (table[:, :-1], table[:, -1]) if self.width is None else (table, self.width)

    def values(self, centers: Float[Array, "k c"], x: Float[Array, "d"]) -> Float[Array, "f"]:
        """All features at one point."""
        parts = []
        if self.exponents:
            monomials = jnp.prod(self._factors(x)[0], axis=-1)
            parts.append(monomials)
            if self.trigonometric:
                parts += [jnp.sin(monomials), jnp.cos(monomials)]
        if self.n_centers:
            centers, width = self._centers(centers)
            r2 = jnp.sum((x[None] - centers) ** 2, axis=-1)
            factor, _ = _radial_factor(self.radial, r2)
            parts.append(factor * jnp.exp(-r2 / width))
        return jnp.concatenate(parts)

    def partial_derivatives(self, x: Float[Array, "d"]) -> Float[Array, "f a"]:
        """Equation (2), and that of (3), along the coordinates that each touches (`touching`)."""
        factors, derivatives = self._factors(x)
        # The product of the other factors, written out: division would fail at zero.
        others = [
            jnp.prod(jnp.delete(factors, j, axis=-1), axis=-1) * derivatives[:, j]
            for j in range(factors.shape[-1])
        ]
        slopes = jnp.stack(others, axis=-1)
        if not self.trigonometric:
            return slopes
        monomials = jnp.prod(factors, axis=-1)[:, None]
        return jnp.concatenate([slopes, jnp.cos(monomials) * slopes, -jnp.sin(monomials) * slopes])

    @property
    def axes_touched(self) -> int:
        """a: the most coordinates that a monomial touches."""
        return self._active[0].shape[1]

    @functools.cached_property
    def touching(self) -> np.ndarray:
        """Of each coordinate, (d, m): which entries of `partial_derivatives`, flattened, are along it.

        Where a coordinate has fewer than m, the rest points one behind the last entry.
        """
        axes, powers, _ = self._active
        copies = 3 if self.trigonometric else 1
        axes, powers = np.tile(axes, (copies, 1)), np.tile(powers, (copies, 1))
        along = [np.flatnonzero((axes == k) & (powers > 0)) for k in range(self.dimension)]
        most = max(len(own) for own in along)
        return np.stack(
            [np.pad(own, (0, most - len(own)), constant_values=axes.size) for own in along]
        )

    def radial_jacobian(
        self, centers: Float[Array, "k c"], x: Float[Array, "d"]
    ) -> Float[Array, "k d"]:
        """Equation (5) of every centre."""
        centers, width = self._centers(centers)
        difference = x[None] - centers
        r2 = jnp.sum(difference**2, axis=-1)
        factor, slope = _radial_factor(self.radial, r2)
        radial = (slope - 2.0 * factor / width) * jnp.exp(-r2 / width)
        return difference * radial[:, None]

    def jacobian(self, centers: Float[Array, "k c"], x: Float[Array, "d"]) -> Float[Array, "f d"]:
        """Gradients of all features at one point, equations (2) and (5)."""
        parts = []
        if self.exponents:
            along = jnp.asarray(self._active[2], x.dtype)
            along = jnp.tile(along, (3, 1, 1)) if self.trigonometric else along
            parts.append(einsum("fa,fad->fd", self.partial_derivatives(x), along))
        if self.n_centers:
            parts.append(self.radial_jacobian(centers, x))
        return jnp.concatenate(parts)

    @property
    def separable(self) -> bool:
        """Whether (7) applies."""
        side = math.isqrt(self.n_centers)
        degree = math.isqrt(len(self.exponents) + 1) - 1
        return (
            self.dimension == 2
            and self.width is not None
            and not self.trigonometric
            and self.radial in ("constant", "none")
            and side**2 == self.n_centers
            and self.exponents == monomial_exponents(2, degree, 2 * degree)
        )

    def _power_tables(self, z: Array) -> tuple[Array, Array]:
        """z^e and its derivative for every exponent e, along a new last axis."""
        powers = [jnp.ones_like(z)]
        slopes = [jnp.zeros_like(z)]
        for e in range(1, math.isqrt(len(self.exponents) + 1)):
            slopes.append(e * powers[-1])
            powers.append(powers[-1] * z)
        return jnp.stack(powers, axis=-1), jnp.stack(slopes, axis=-1)

    @staticmethod
    def _bump_tables(z: Array, axis_centers: Array, width: Array | float) -> tuple[Array, Array]:
        """exp(-(z - c)^2 / w) and its derivative for every c, along a new last axis."""
        difference = z[..., None] - jnp.expand_dims(axis_centers, range(z.ndim))
        bump = jnp.exp(-(difference**2) / width)
        return bump, -2.0 / width * difference * bump

    def _separable_mean(
        self, centers: Array, x: Array, population: Array, weights: Array
    ) -> Float[Array, "n f d"]:
        """Equation (7)."""
        z = x[:, None] - population[None]
        # Monomials and bumps apart: half the products of one with the other are of no use.
        tables = []
        if self.exponents:
            tables.append((self._power_tables(z[..., 0]), self._power_tables(z[..., 1])))
        if self.n_centers:
            side = math.isqrt(self.n_centers)
            centers, width = self._centers(centers)
            grid = centers.reshape(side, side, 2)
            tables.append(
                (
                    self._bump_tables(z[..., 0], grid[:, 0, 0], width),
                    self._bump_tables(z[..., 1], grid[0, :, 1], width),
                )
            )
        parts = []
        for (first, first_slope), (second, second_slope) in tables:
            along = [
                einsum("nma,nmb->nab", a * weights[None, :, None], b).reshape(len(x), -1)
                for a, b in ((first_slope, second), (first, second_slope))
            ]
            parts.append(jnp.stack(along, axis=-1))
        if self.exponents:
            parts[0] = parts[0][:, 1:]  # without the constant
        return jnp.concatenate(parts, axis=1)

    def mean_jacobian(
        self,
        centers: Float[Array, "k c"],
        x: Float[Array, "n d"],
        population: Float[Array, "m d"],
        weights: Float[Array, "m"],
    ) -> Float[Array, "n f d"]:
        """Equation (6) at each row of x, in blocks of the population.

        Args:
            centers: of the radial functions; for d = 2 the grid of `radial_centers`.
            x: where.
            population: the particles y_j.
            weights: w_j.
        """
        if not self.separable:
            return interaction_drift(
                functools.partial(self.jacobian, centers),
                x,
                population,
                weights,
                block_size=POPULATION_PER_BLOCK,
            )
        return sum_over_blocks(
            lambda y, w: self._separable_mean(centers, x, y, w),
            population,
            weights,
            block_size=SEPARABLE_PAIRS_PER_BLOCK // x.shape[0] + 1,
        )


def monomial_exponents(dimension: int, degree: int, total_degree: int) -> tuple:
    """Exponents of the monomials (1), the constant left out.

    Args:
        dimension: d.
        degree: largest exponent of each coordinate.
        total_degree: largest sum of exponents; 0 chooses as `FeatureSettings` documents.
    """
    if degree == 0:
        return ()
    if total_degree == 0:
        if dimension <= 3:
            total_degree = degree * dimension
        else:
            fitting = [
                q
                for q in range(1, LARGEST_TOTAL_DEGREE + 1)
                if math.comb(dimension + q, q) - 1 <= MOST_MONOMIALS
            ]
            total_degree = max([2, *fitting])
    if dimension <= 3:
        candidates = itertools.product(range(degree + 1), repeat=dimension)
        return tuple(e for e in candidates if 0 < sum(e) <= total_degree)
    exponents = []
    for q in range(1, total_degree + 1):
        for axes in itertools.combinations_with_replacement(range(dimension), q):
            e = np.bincount(axes, minlength=dimension)
            if e.max() <= degree:
                exponents.append(tuple(int(v) for v in e))
    return tuple(exponents)


def radial_centers(
    settings: FeatureSettings,
    sample: Float[np.ndarray, "n d"],
    *,
    center: Float[np.ndarray, "d"] | float = 0.0,
    length: float = 1.0,
    extend: bool = True,
) -> Float[np.ndarray, "k d"]:
    """Centres of the radial functions: a grid for d <= 2, else k-means of the sample.

    Args:
        settings: number of centres and the grid's domain.
        sample: points where the features will be evaluated (differences, for an interaction), at unit
            scale.
        center: c of `energies`, by which the domain of the settings comes to unit scale.
        length: l, likewise.
        extend: continue the grid outward at its own spacing until it covers the sample, with at most
            `MOST_EXTENSION` times its centres per axis: particles do leave the domain where they
            began.

    Raises:
        ValueError: k-means is asked for more centres than there are points.
    """
    dimension = sample.shape[1]
    if settings.radial == "none":
        return np.zeros((0, dimension))
    if dimension <= 2:
        domain = (-UNIFORM_HALF_WIDTH, UNIFORM_HALF_WIDTH)
        shift = np.zeros(dimension)
        if settings.radial_domain is not None:
            domain = settings.radial_domain[0] / length, settings.radial_domain[1] / length
            shift = shift + center / length
        low, high = (end - shift for end in domain)
        spacing = (domain[1] - domain[0]) / max(settings.radial_centers - 1, 1)
        outside = max((low - sample.min(axis=0)).max(), (sample.max(axis=0) - high).max(), 0.0)
        room = (MOST_EXTENSION - 1) * settings.radial_centers // 2
        # Rounding shall not decide about a row of centres.
        extra = min(math.ceil(outside / spacing - 1e-6), room) if extend else 0
        n = settings.radial_centers + 2 * extra
        axes = [
            np.linspace(a - extra * spacing, b + extra * spacing, n)
            for a, b in zip(low, high, strict=True)
        ]
        grid = np.meshgrid(*axes, indexing="ij")
        return np.stack([g.ravel() for g in grid], axis=-1)
    if settings.radial_centers > len(sample):
        raise ValueError(
            f"radial_centers {settings.radial_centers} exceeds the {len(sample)} points to place"
        )
    from sklearn.cluster import KMeans  # a second to import, needed in d > 2 only

    means = KMeans(settings.radial_centers, n_init=1, random_state=0).fit(sample)
    return means.cluster_centers_.astype(np.float64)


def radial_width(
    settings: FeatureSettings, centers: Float[np.ndarray, "k d"], length: float
) -> float:
    """W of equation (4) at unit scale: as given, or relative to the distance of neighbours."""
    if settings.radial_width is not None:
        return settings.radial_width / length**2
    if len(centers) < 2:
        return RELATIVE_WIDTH * (2.0 * UNIFORM_HALF_WIDTH / 9.0) ** 2
    nearest = cKDTree(centers).query(centers, 2)[0][:, 1]
    # Three digits: a grid's width is part of the compiled program, and rounding shall not make another.
    return float(f"{RELATIVE_WIDTH * np.mean(nearest**2):.3g}")


def make_features(
    settings: FeatureSettings,
    sample: Float[np.ndarray, "n d"],
    *,
    center: Float[np.ndarray, "d"] | float = 0.0,
    length: float = 1.0,
    extend: bool = True,
) -> tuple[Features, Float[np.ndarray, "k c"]]:
    """The features that the settings describe for data like the sample, and their radial centres.

    Those of k-means bring their width along, in a last column: it differs from sample to sample.

    Args: as `radial_centers`.
    """
    centers = radial_centers(settings, sample, center=center, length=length, extend=extend)
    dimension = sample.shape[1]
    width = radial_width(settings, centers, length)
    of_each = dimension > 2 and len(centers) > 0
    features = Features(
        dimension=dimension,
        exponents=monomial_exponents(dimension, settings.degree, settings.total_degree),
        trigonometric=settings.trigonometric,
        radial=settings.radial,
        width=None if of_each else width,
        n_centers=len(centers),
    )
    if of_each:
        centers = np.column_stack([centers, np.full(len(centers), width)])
    return features, centers
