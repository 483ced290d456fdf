r"""Growth and death: the rate at which cells divide and die, told from their motion.

It is g in

    d mu / dt = div(mu grad V) + g mu,                                                             (1)

found from unpaired snapshots before any energy is. A step of length tau moves a cell of mu_k from x
to x + m_k(x) and leaves a(x) = exp(tau g(x, t)) of it, so that, up to noise,

    mu_{k+1} = (id + m_k)_# (exp(tau g) mu_k) / Z_k.                                               (2)

Motion and growth are the fixed point of three steps, begun at g = 0 and at the affine map that
balanced transport suggests:

    P_k = argmin <P, C> + eps KL(P | w_k mu_{k+1}^T) + rho KL(P 1 | w_k),  P^T 1 = mu_{k+1},       (3)
    C_ij = |x_i + m_k(x_i) - y_j|^2,        w_k = exp(tau g) mu_k / Z_k,
    m_k = smooth regression of sum_j P_ij y_j / (P 1)_i - x_i on x, weighted by P 1,               (4)
    tau g = smooth regression of log (P 1 / mu_k) on x, of Poisson's likelihood

    sum_k n_k sum_i mu_k(i) [a_i h_i - exp(h_i)] - |theta|^2 / 2,   a = P 1 / mu_k,  h = tau g.    (5)

(3) is unbalanced transport (Chizat, Peyre, Schmitzer, Vialard, Math. Comp. 87, 2018). Why not once:

- Its price rho on growth shrinks g. Here it is paid only on what g does not say yet, and at a fixed
  point, P 1 = w, nothing is paid.
- Between snapshots that also move, cells ahead seem to divide and cells behind to die. With the
  motion taken off C they do not, and rho falls from stage to stage (`GrowthSettings.prices`), so that
  motion explains first what it can.

Every pair (m, g) with (2) is a fixed point: which one is found is decided by where the rounds begin
and by how smooth both are. Stopped early, g is too small and smoother. What tells growth from motion
is that smooth motion does not cross the gap between branches; growth that differs along the
motion of one branch is hardly told from it.

The pairs that are returned are of balanced transport from the last w_k to mu_{k+1}: where every cell
counts as often as it has successors, few of them need to be on another branch.

(5) is the likelihood of the n_k target cells counted at their origins, convex, finite where a cell
has died (a = 0), and its curvature gives the error of g; n_k = 1 / (1 / n_source + 1 / n_target)
counts the chance in both snapshots. Both regressions are on the features of `growth_rate`, whose
equation (3) says in what gauge g is reported.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.keys import named_key
from diffusions.precision import einsum, matmul
from diffusions.short_repr import short_repr
from diffusions.typing import Array, ArrayLike, Float, HostArray, Key
from jkonet_star.fit_report import GrowthReport, finite_or_none
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth_rate import GrowthRate, SmoothField, time_kernel, with_theta
from jkonet_star.settings import CouplingSettings, GrowthSettings
from jkonet_star.snapshots import Snapshots, relative, sorted_rows
from jkonet_star.transport.couplings import CouplingReport, Couplings, couple, plan_solver
from jkonet_star.units import population_units

_LEAST_EIGENVALUE = 1e-6
"""Relative to the largest, of directions of the kernel that are kept."""
_MOST_TIMES = 12
"""Inducing times."""
_NEWTON_STEPS = 15
_HALVINGS = 8


@flax.struct.dataclass
class Growth:
    """The growth rate of a population, and what it was found with.

    Call it: `growth(x, t)` is g in 1 / time at points (n, d) of the data, at a time of the data.
    """

    rate: GrowthRate
    covariance: Float[Array, "f f"]  # of theta
    rates: Float[Array, "t n"]  # of the cells, in the middle of the step that they begin; padding 0
    source_weights: Float[Array, "steps n"]  # w_k of (3), of sum 1
    couplings: Couplings  # of the last round
    log_ratios: Float[Array, "steps"] | None  # log M_{k+1} / M_k, where the masses are known
    origin: Float[Array, "d"] | None
    start: Float[Array, ""] | None
    reports: tuple[CouplingReport, ...] = flax.struct.field(pytree_node=False)  # of the couplings

    __repr__ = short_repr

    @property
    def absolute(self) -> bool:
        """Whether the masses are known; else the rate is centred."""
        return self.rate.absolute

    @checked
    def __call__(
        self, x: Float[Array, "n d"] | HostArray, t: Float[Array, ""] | HostArray | float
    ) -> Float[Array, "n"]:
        """G of equation (1); between the middles of steps the gauge is interpolated.

        Args:
            x: points.
            t: a time.
        """
        return self.rate(*self._stored(x, t))

    @checked
    def error(
        self, x: Float[Array, "n d"] | HostArray, t: Float[Array, ""] | HostArray | float
    ) -> Float[Array, "n"]:
        """Standard error of the centred rate, by the curvature of equation (5).

        It knows the chance in the counts of cells, and not that of telling growth from motion.

        Args:
            x: points.
            t: a time.
        """
        return _standard_error(self.rate, self.covariance, *self._stored(x, t))

    def _stored(self, x: Array | HostArray, t: Array | HostArray | float) -> tuple[Array, Array]:
        return jnp.asarray(relative(x, self.origin)), jnp.asarray(relative(t, self.start))


@checked
def estimate_growth(
    snapshots: Snapshots,
    settings: GrowthSettings = GrowthSettings(),  # noqa: B008 (frozen)
    *,
    key: Key,
    masses: Sequence[Any] | ArrayLike | None = None,
    coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
) -> Growth:
    """Growth and the couplings that go with it, by the fixed point of equations (3) to (5).

    Args:
        snapshots: the populations.
        settings: of the estimate.
        key: decides the blocks of couplings.
        masses: (t,) of the whole population at each snapshot, counts of cells for instance; absent,
            the rate is centred.
        coupling_settings: of the pairs that are returned.

    Raises:
        ValueError: masses that are not one positive finite number per snapshot.
    """
    absolute = None if masses is None else _masses(masses, snapshots.n_snapshots)
    some = _some_cells(snapshots, settings.growth_cells, named_key(key, "cells"))
    tau = np.asarray(snapshots.dt, np.float64)
    times = np.asarray(snapshots.times, np.float64)
    middles = (times[:-1] + times[1:]) / 2
    middle = jnp.asarray(middles, jnp.float32)
    amplitude = settings.growth_amplitude / np.ptp(times)
    growing = _process(some, middles, settings, settings.growth_width, amplitude)
    moving = _process(some, middles, settings, settings.motion_width, 1.0 / tau.mean())
    theta, covariance = _fixed_point(some, middles, growing, moving, settings, key)

    mu = np.asarray(snapshots.weights, np.float64)[:-1]
    features = _all_features(growing, snapshots.points[:-1], middle)
    log_factor = tau[:, None] * np.asarray(matmul(features, theta))
    weights = _reweighted(mu, log_factor)
    couplings, reports = _coupled(
        snapshots.points[:-1],
        weights,
        snapshots,
        coupling_settings,
        named_key(key, "successors"),
    )
    log_ratios = None if absolute is None else jnp.asarray(np.diff(np.log(absolute)), jnp.float32)
    rate = with_theta(
        GrowthRate(
            process=growing,
            theta=theta,
            middles=middle,
            mean_features=einsum("kn,knf->kf", snapshots.weights[:-1], features),
            offsets=jnp.zeros(len(tau)),
            absolute=False,
        ),
        theta,
        snapshots.points[:-1],
        snapshots.weights[:-1],
        snapshots.dt,
        log_ratios,
    )
    rates = _all_rates(rate, snapshots.points, jnp.concatenate([middle, middle[-1:]]))
    return Growth(
        rate=rate,
        covariance=covariance,
        rates=jnp.where(snapshots.weights > 0, rates, 0.0),
        source_weights=jnp.asarray(weights, jnp.float32),
        couplings=couplings,
        log_ratios=log_ratios,
        origin=snapshots.origin,
        start=snapshots.start,
        reports=tuple(reports),
    )


def growth_report(
    energies: FittedEnergy, snapshots: Snapshots, growth: Growth | None
) -> GrowthReport | None:
    """The rates of the first of a stack of energies; None where there is no growth.

    Args:
        energies: every leaf with a leading seed axis.
        snapshots: that growth was found from.
        growth: as it was found.
    """
    if growth is None or energies.growth_rate is None:
        return None
    rate: GrowthRate = jax.tree.map(lambda leaf: leaf[0], energies.growth_rate)
    points, there = snapshots.points[:-1], np.asarray(snapshots.weights[:-1]) > 0
    rates = np.asarray(_all_rates(rate, points, rate.middles))[there]
    errors = np.asarray(_all_errors(growth.rate, growth.covariance, points))[there]
    low, high = np.quantile(rates.astype(np.float64), (0.01, 0.99))
    return GrowthReport(
        absolute=rate.absolute,
        least=float(low),
        most=float(high),
        error=finite_or_none(float(np.sqrt(np.mean(errors.astype(np.float64) ** 2)))),
    )


def _fixed_point(
    snapshots: Snapshots,
    middles: HostArray,
    growing: SmoothField,
    moving: SmoothField,
    settings: GrowthSettings,
    key: Key,
) -> tuple[Float[Array, "f"], Float[Array, "f f"]]:
    """Equations (3) to (5) in turn: the coefficients of g and their covariance."""
    points = np.asarray(snapshots.points, np.float64)
    mu = np.asarray(snapshots.weights, np.float64)
    counts = 1.0 / (mu**2).sum(axis=1)
    evidence = mu[:-1] / (1.0 / counts[:-1] + 1.0 / counts[1:])[:, None]
    middle, tau = jnp.asarray(middles, jnp.float32), snapshots.dt[:, None, None]
    growth_features, motion_features = (
        tau * _all_features(process, snapshots.points[:-1], middle) for process in (growing, moving)
    )
    moved, weights = _affinely_moved(snapshots, named_key(key, "affine maps")), mu[:-1]
    theta = jnp.zeros(growth_features.shape[-1])
    for price in np.repeat(settings.growth_prices, settings.growth_rounds).tolist():
        coupling = CouplingSettings(
            method="sinkhorn",
            epsilon=settings.growth_epsilon,
            tau_a=price / (price + settings.growth_epsilon),
        )
        mass, displacement = _barycentres(moved, weights, points, mu, coupling)
        kept = np.divide(mass, mu[:-1], out=np.zeros_like(mass), where=mu[:-1] > 0)
        kept, counted, reached, jumps = (
            jnp.asarray(v, jnp.float32) for v in (kept, evidence, mass, displacement)
        )
        theta, covariance = _fit_growth(growth_features, kept, counted, theta)
        weights = _reweighted(mu[:-1], matmul(growth_features, theta))
        motion = _fit_motion(motion_features, jumps, reached, settings.motion_ridge)
        moved = points[:-1] + np.asarray(motion, np.float64)
    return theta, covariance


def _some_cells(snapshots: Snapshots, most: int, key: Key) -> Snapshots:
    """At most so many cells of every snapshot, drawn without regard to their order."""
    if snapshots.points.shape[1] <= most:
        return snapshots
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    rows = []
    for x, w in zip(points, weights, strict=True):
        present = rng.permutation(sorted_rows(x, w))
        # Padding stays padding: the first cell again, without weight.
        rows.append(np.concatenate([present, np.flatnonzero(w == 0)])[:most])
    some = np.stack(rows)
    weights = np.take_along_axis(weights, some, axis=1)
    return snapshots.replace(  # type: ignore[attr-defined]
        points=jnp.asarray(np.take_along_axis(points, some[..., None], axis=1)),
        weights=jnp.asarray(weights / weights.sum(axis=1, keepdims=True)),
    )


def _masses(masses: Sequence[Any] | ArrayLike, n_snapshots: int) -> HostArray:
    try:
        # One by one: among floats True would be a one, and the text "1" becomes a number, too.
        plain = all(np.asarray(mass).dtype.kind in "iuf" for mass in masses)  # type: ignore[union-attr]
        found = np.asarray(masses, np.float64) if plain else None
    except (TypeError, ValueError):
        found = None
    if found is None:
        raise ValueError(f"masses must be numbers, one per snapshot, got {masses!r}")
    if found.shape != (n_snapshots,) or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(
            f"masses must be {n_snapshots} positive finite numbers, one per snapshot, got "
            f"{found.tolist()}"
        )
    return found


def _process(
    snapshots: Snapshots,
    middles: HostArray,
    settings: GrowthSettings,
    width: float,
    amplitude: float,
) -> SmoothField:
    """The features that belong to a population."""
    units = population_units(snapshots)
    center = np.asarray(units.center, np.float64)
    present = np.asarray(snapshots.points, np.float64)[np.asarray(snapshots.weights) > 0]
    size = width * float(units.length) * np.sqrt(snapshots.dimension)
    points = (_spread_out(present, center, settings.growth_inducing) - center) / size
    squares = ((points[:, None] - points) ** 2).sum(axis=-1)
    if len(middles) > _MOST_TIMES:
        middles = np.linspace(middles[0], middles[-1], _MOST_TIMES)
    times = np.asarray(snapshots.times, np.float64)
    length = (times[-1] - times[0]) / 2
    over_time = time_kernel(
        jnp.asarray(middles[:, None]), jnp.asarray(middles), length, settings.growth_change
    )
    return SmoothField(
        center=jnp.asarray(center, jnp.float32),
        width=jnp.asarray(size, jnp.float32),
        points=jnp.asarray(points, jnp.float32),
        whitening=_whitening(np.exp(-squares / 2)),
        times=jnp.asarray(middles, jnp.float32),
        time_length=jnp.asarray(length, jnp.float32),
        time_whitening=_whitening(np.asarray(over_time, np.float64)),
        change=jnp.asarray(settings.growth_change, jnp.float32),
        amplitude=jnp.asarray(amplitude, jnp.float32),
    )


def _spread_out(
    points: Float[np.ndarray, "n d"], center: Float[np.ndarray, "d"], count: int
) -> Float[np.ndarray, "m d"]:
    """Points each farthest from those before it, the first nearest to the centre."""
    chosen = [int(((points - center) ** 2).sum(axis=1).argmin())]
    distance = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < min(count, len(points)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return points[chosen]


def _whitening(kernel: Float[np.ndarray, "m m"]) -> Float[Array, "m p"]:
    """A with A A^T = K^-1, on the directions that K knows; those it does not are zero.

    Directions are not left out, so that data of one size make programs of one shape.
    """
    values, vectors = np.linalg.eigh(kernel)
    known = values > _LEAST_EIGENVALUE * values[-1]
    scale = np.where(known, 1.0 / np.sqrt(np.where(known, values, 1.0)), 0.0)
    return jnp.asarray(vectors * scale, jnp.float32)


@jax.jit
def _all_features(
    process: SmoothField, points: Float[Array, "k n d"], middles: Float[Array, "k"]
) -> Float[Array, "k n f"]:
    return jax.vmap(process.features)(points, middles)


@jax.jit
def _all_rates(
    rate: GrowthRate, points: Float[Array, "t n d"], times: Float[Array, "t"]
) -> Float[Array, "t n"]:
    return jax.vmap(rate)(points, times)


@jax.jit
def _all_errors(
    rate: GrowthRate, covariance: Float[Array, "f f"], points: Float[Array, "k n d"]
) -> Float[Array, "k n"]:
    def one(x: Array, t: Array) -> Array:
        return _standard_error(rate, covariance, x, t)

    return jax.vmap(one)(points, rate.middles)


def _standard_error(
    rate: GrowthRate, covariance: Float[Array, "f f"], x: Float[Array, "n d"], t: Float[Array, ""]
) -> Float[Array, "n"]:
    centred = rate.centred_features(x, t)
    variance = einsum("nf,fg,ng->n", centred, covariance, centred)
    return jnp.sqrt(jnp.maximum(variance, 0.0))


def _affinely_moved(snapshots: Snapshots, key: Key) -> Float[np.ndarray, "k n d"]:
    """Where the best affine map of each balanced coupling takes the cells."""
    pairs, _ = couple(snapshots, key=key)
    points = np.asarray(snapshots.points, np.float64)
    step, source, target = (np.asarray(v) for v in (pairs.step, pairs.source, pairs.target))
    root = np.sqrt(np.asarray(pairs.weight, np.float64))[:, None]
    moved = np.empty_like(points[:-1])
    for k in range(snapshots.n_steps):
        own = step == k
        center = points[k][source[own]].mean(axis=0)
        inputs = np.concatenate([points[k] - center, np.ones((points.shape[1], 1))], axis=1)
        # A constant coordinate, or fewer cells than coordinates: the smallest map.
        affine, *_ = np.linalg.lstsq(
            root[own] * inputs[source[own]],
            root[own] * points[k + 1][target[own]],
            rcond=1e-6,
        )
        moved[k] = inputs @ affine
    return moved


def _coupled(
    sources: Float[Array, "k n d"],
    weights: Float[np.ndarray, "k n"],
    snapshots: Snapshots,
    settings: CouplingSettings,
    key: Key,
) -> tuple[Couplings, list[CouplingReport]]:
    """Pairs of every step, from given sources to the next snapshot."""
    parts, reports = [], []
    for k in range(snapshots.n_steps):
        step = Snapshots(
            points=jnp.stack([sources[k], snapshots.points[k + 1]]),
            weights=jnp.stack([jnp.asarray(weights[k], jnp.float32), snapshots.weights[k + 1]]),
            times=snapshots.times[k : k + 2],
        )
        pairs, made = couple(step, settings, key=jax.random.fold_in(key, k))
        parts.append(pairs.replace(step=pairs.step + k))  # type: ignore[attr-defined]
        reports += [dataclasses.replace(report, step=k) for report in made]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), reports


def _barycentres(
    moved: Float[np.ndarray, "k n d"],
    weights: Float[np.ndarray, "k n"],
    points: Float[np.ndarray, "t n d"],
    mu: Float[np.ndarray, "t n"],
    settings: CouplingSettings,
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k n d"]]:
    """P 1 of equation (3), of sum 1, and the mean displacement of every cell."""
    sinkhorn_plan = plan_solver("sinkhorn")
    mass, jumps = np.zeros(weights.shape), np.zeros(moved.shape)
    for k, w in enumerate(weights):
        rows, cols = sorted_rows(moved[k], w), sorted_rows(points[k + 1], mu[k + 1])
        plan = sinkhorn_plan(
            moved[k, rows], points[k + 1, cols], w[rows] / w[rows].sum(), mu[k + 1, cols], settings
        )
        source, share = rows[plan.rows], plan.mass / plan.mass.sum()
        mass[k] = np.bincount(source, share, len(w))
        jump = share[:, None] * (points[k + 1, cols[plan.cols]] - points[k, source])
        total = np.stack([np.bincount(source, j, len(w)) for j in jump.T], axis=1)
        there = mass[k] > 0
        jumps[k, there] = total[there] / mass[k, there, None]
    return mass, jumps


def _reweighted(
    mu: Float[np.ndarray, "k n"], log_factor: Float[Array, "k n"] | Float[np.ndarray, "k n"]
) -> Float[np.ndarray, "k n"]:
    """w_k of equation (3)."""
    log_factor = np.asarray(log_factor, np.float64)
    weights = mu * np.exp(log_factor - log_factor.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@jax.jit
def _fit_growth(
    features: Float[Array, "k n f"],
    kept: Float[Array, "k n"],
    evidence: Float[Array, "k n"],
    theta: Float[Array, "f"],
) -> tuple[Float[Array, "f"], Float[Array, "f f"]]:
    """The maximum of equation (5) by Newton's method, and the inverse of its curvature."""
    rows = features.reshape(-1, features.shape[-1])
    kept, evidence = kept.ravel(), evidence.ravel()

    def lost(theta: Array) -> Array:
        h = matmul(rows, theta)
        return jnp.sum(evidence * (jnp.exp(h) - kept * h)) + matmul(theta, theta) / 2

    def curvature(theta: Array) -> tuple[Array, Array]:
        expected = evidence * jnp.exp(matmul(rows, theta))
        gradient = matmul(rows.T, expected - evidence * kept) + theta
        return gradient, matmul(rows.T, rows * expected[:, None]) + jnp.eye(len(theta))

    def newton(_: Array, theta: Array) -> Array:
        gradient, matrix = curvature(theta)
        direction = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), gradient)
        sizes = jnp.concatenate([2.0 ** -jnp.arange(float(_HALVINGS)), jnp.zeros(1)])
        values = jax.lax.map(lambda size: lost(theta - size * direction), sizes)
        return theta - sizes[jnp.nanargmin(values)] * direction

    theta = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, theta)
    _, matrix = curvature(theta)
    factor = jax.scipy.linalg.cho_factor(matrix)
    return theta, jax.scipy.linalg.cho_solve(factor, jnp.eye(len(theta)))


@jax.jit
def _fit_motion(
    features: Float[Array, "k n f"],
    displacement: Float[Array, "k n d"],
    mass: Float[Array, "k n"],
    ridge: Float[Array, ""] | float,
) -> Float[Array, "k n d"]:
    """m_k of equation (4) at every cell."""
    rows = features.reshape(-1, features.shape[-1])
    weighted = rows * mass.reshape(-1, 1)
    matrix = matmul(weighted.T, rows)
    # Directions of the kernel that are left out are zero: some ridge keeps the matrix regular.
    matrix += (ridge + 1e-6 * jnp.trace(matrix) / len(matrix)) * jnp.eye(len(matrix))
    right = matmul(weighted.T, displacement.reshape(len(rows), -1))
    solved = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), right)
    return matmul(features, solved)
