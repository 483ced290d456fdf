"""Couplings of consecutive snapshots: which particle may have gone where.

For each step from snapshot mu_k = sum_i a_i delta_{x_i} to mu_{k+1} = sum_j b_j delta_{y_j} a
coupling gamma approximates the optimal plan for the squared distance,

    gamma_k ~ argmin_{P in Pi(a, b)} sum_ij P_ij |x_i - y_j|^2                                   (1)

exactly (`exact`), with entropic regularisation (`entropic`), by parts (`low_rank`), or by potentials
of the targets (`semidiscrete`), and is stored as its pairs (i, j, P_ij) with weights of sum 1 per step.

Large populations are coupled in blocks, except by potentials. Both populations are shuffled and cut
into B parts of equal mass, and part r is coupled with part r: gamma = sum_r gamma_r. A particle that
straddles a cut belongs to both parts with a share of its weight, so gamma has exactly the marginals a
and b whatever the sizes and weights. Rows are sorted before they are shuffled, so that their order, by
which a simulation knows its particles, decides nothing.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.short_repr import count, known, short_repr
from diffusions.typing import Array, Float, HostArray, Int, Key
from jkonet_star.fit_report import CoupledStep
from jkonet_star.settings import CouplingSettings
from jkonet_star.snapshots import Snapshots, sorted_rows
from jkonet_star.spread import squared_norms
from jkonet_star.transport.blocks_of_mass import blocks_of_mass
from jkonet_star.transport.exact import exact_plan
from jkonet_star.transport.semidiscrete import semidiscrete_plan
from jkonet_star.transport.sparse_plan import SparsePlan

logger = logging.getLogger(__name__)

# Largest block for which `auto` couples exactly, by platform (benchmarks/couplings.py).
EXACT_UP_TO = {"cpu": 10_000, "gpu": 4_000, "tpu": 4_000}
# Below this share of the plan's mass above the cutoff, what is kept says little about the plan.
_MASS_WORTH_TRUSTING = 0.5


@flax.struct.dataclass
class Couplings:
    """Matched pairs of all steps, one after the other."""

    step: Int[Array, "c"]  # index k of the step from snapshot k to snapshot k + 1
    source: Int[Array, "c"]  # row in snapshots.points[k]
    target: Int[Array, "c"]  # row in snapshots.points[k + 1]
    weight: Float[Array, "c"]  # sums to 1 over each step

    def __repr__(self) -> str:
        if not known(self.step) or self.step.ndim != 1:
            return short_repr(self)
        steps = len(np.unique(self.step))
        return f"Couplings({count(len(self.step), 'pair')} of {count(steps, 'step')})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CouplingReport:
    """How one step was coupled, in plain numbers that JSON can hold.

    Attributes:
        step: index of the step.
        method: the method that was used; never `auto`.
        n_source: particles before the step.
        n_target: particles after it.
        n_blocks: blocks coupled separately.
        n_pairs: pairs kept.
        cost: mean squared distance transported, over the pairs kept.
        converged: whether every block's solver converged.
        iterations: the most that any block took; 0 for `exact`, passes for `semidiscrete`.
        marginal_error: the solver's, in the L1 norm, the largest of any block; of `semidiscrete`,
            before half of it was moved to where mass was missing.
        dropped_mass: share of the plan's mass in pairs too light to keep.
        seconds: wall-clock time.
    """

    step: int
    method: str
    n_source: int
    n_target: int
    n_blocks: int
    n_pairs: int
    cost: float
    converged: bool
    iterations: int
    marginal_error: float
    dropped_mass: float
    seconds: float


@checked
def couple(
    snapshots: Snapshots,
    settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    *,
    key: Key,
) -> tuple[Couplings, list[CouplingReport]]:
    """Couples every snapshot with the next by optimal transport, equation (1).

    Args:
        snapshots: the populations; padding takes no part and weights are honoured.
        settings: method, regularisation and block size.
        key: decides the blocks.

    Returns:
        The couplings, and one report per step.
    """
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights, np.float64)
    parts: list[tuple[HostArray, ...]] = []
    reports = []
    for step in range(snapshots.n_steps):
        start = time.perf_counter()
        rows, cols = (sorted_rows(points[k], weights[k]) for k in (step, step + 1))
        x, y = points[step, rows], points[step + 1, cols]
        a, b = weights[step, rows], weights[step + 1, cols]
        plan, method, n_blocks = _couple_step(
            x, y, a / a.sum(), b / b.sum(), settings, jax.random.fold_in(key, step)
        )
        weight = plan.mass / plan.mass.sum()
        report = CouplingReport(
            step=step,
            method=method,
            n_source=len(rows),
            n_target=len(cols),
            n_blocks=n_blocks,
            n_pairs=len(weight),
            cost=float(weight @ _squared_distances(x, y, plan)),
            converged=plan.converged,
            iterations=plan.iterations,
            marginal_error=plan.marginal_error,
            dropped_mass=plan.dropped_mass,
            seconds=time.perf_counter() - start,
        )
        _log(report, settings)
        reports.append(report)
        parts.append((np.full(len(weight), step), rows[plan.rows], cols[plan.cols], weight))
    steps, sources, targets, all_weights = (np.concatenate(p) for p in zip(*parts, strict=True))
    couplings = Couplings(
        step=jnp.asarray(steps, jnp.int32),
        source=jnp.asarray(sources, jnp.int32),
        target=jnp.asarray(targets, jnp.int32),
        weight=jnp.asarray(all_weights, jnp.float32),
    )
    return couplings, reports


def _squared_distances(x: HostArray, y: HostArray, plan: SparsePlan) -> Float[np.ndarray, "pairs"]:
    """|x_i - y_j|^2 of the pairs of a plan."""

    def displacements(own: slice) -> HostArray:
        return y[plan.cols[own]].astype(np.float64) - x[plan.rows[own]]

    return squared_norms(displacements, len(plan.mass))


def moved_couplings(couplings: Couplings, rank: Int[np.ndarray, "t n"]) -> Couplings:
    """The couplings of snapshots whose row i of snapshot k has become row rank[k, i]."""
    step, source, target, weight = (
        np.asarray(getattr(couplings, name)) for name in ("step", "source", "target", "weight")
    )
    source, target = rank[step, source], rank[step + 1, target]
    order = np.lexsort((target, source, step))
    return Couplings(
        *(jnp.asarray(a[order]) for a in (step, source, target, weight)),
    )


def check_couplings(couplings: Couplings, snapshots: Snapshots) -> None:
    """Whether couplings can belong to snapshots: every step has pairs, of particles that are there.

    Raises:
        ValueError: they cannot; the message says why.
    """
    step, weight = np.asarray(couplings.step), np.asarray(couplings.weight)
    source, target = np.asarray(couplings.source), np.asarray(couplings.target)
    n_steps, n_rows = snapshots.n_steps, snapshots.points.shape[1]
    if not len(step) == len(source) == len(target) == len(weight):
        raise ValueError("couplings must have as many steps, sources, targets and weights")
    if not np.array_equal(np.unique(step), np.arange(n_steps)):
        raise ValueError(f"couplings of {n_steps} steps need pairs of each, got {np.unique(step)}")
    for name, rows in (("source", source), ("target", target)):
        if rows.min() < 0 or rows.max() >= n_rows:
            raise ValueError(
                f"couplings have {name} rows from {rows.min()} to {rows.max()}, the snapshots "
                f"{n_rows} particles"
            )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("couplings need weights that are finite and not negative")


@checked
def coupled_steps(
    couplings: Couplings,
    snapshots: Snapshots,
    reports: Sequence[CouplingReport] = (),
    *,
    source_weights: Float[np.ndarray, "steps n"] | None = None,
) -> tuple[CoupledStep, ...]:
    """What a fit shall know of its couplings.

    Args:
        couplings: of the snapshots.
        snapshots: the populations.
        reports: of `couple`, where it made them.
        source_weights: of the particles that each step begins with, where they are not those of the
            snapshots.
    """
    step, weight = np.asarray(couplings.step), np.asarray(couplings.weight, np.float64)
    weights = np.asarray(snapshots.weights, np.float64)
    sources = weights if source_weights is None else np.asarray(source_weights, np.float64)
    found = []
    for k in range(snapshots.n_steps):
        own, error = step == k, 0.0
        for rows, mass in ((couplings.source, sources[k]), (couplings.target, weights[k + 1])):
            reached = np.bincount(np.asarray(rows)[own], weight[own], len(mass))
            error += float(np.abs(reached / weight[own].sum() - mass / mass.sum()).sum())
        known = CoupledStep(method="given", pairs=int(own.sum()), marginal_error=error)
        if reports:
            known = dataclasses.replace(
                known,
                method=reports[k].method,
                converged=reports[k].converged,
                mass_kept=1.0 - reports[k].dropped_mass,
            )
        found.append(known)
    return tuple(found)


def chosen_method(settings: CouplingSettings, size: int) -> str:
    """What `auto` means for blocks of `size` particles on the present device."""
    if settings.method != "auto":
        return settings.method
    if settings.tau_a < 1 or settings.tau_b < 1:
        return "sinkhorn"
    limit = EXACT_UP_TO.get(jax.default_backend(), EXACT_UP_TO["cpu"])
    return "exact" if size <= limit else "sinkhorn"


def _couple_step(
    x: HostArray,
    y: HostArray,
    a: HostArray,
    b: HostArray,
    settings: CouplingSettings,
    key: Key,
) -> tuple[SparsePlan, str, int]:
    """One step's plan, the method used, and the number of blocks."""
    # NumPy's generator needs no compilation for each new population size.
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    order_x, order_y = generator.permutation(len(x)), generator.permutation(len(y))
    largest = max(len(x), len(y))
    whole = settings.batch_size < 0 or settings.method == "semidiscrete"
    n_blocks = 1 if whole else -(-largest // settings.batch_size)
    blocks = blocks_of_mass(a[order_x], b[order_y], n_blocks)
    method = chosen_method(settings, max(max(len(i), len(j)) for i, j, *_ in blocks))
    solve = plan_solver(method)
    plans, shares = [], []
    for i, j, a_block, b_block in blocks:
        i, j = order_x[i], order_y[j]
        share = a_block.sum()
        plan = solve(x[i], y[j], a_block / share, b_block / b_block.sum(), settings)
        plans.append(
            dataclasses.replace(plan, rows=i[plan.rows], cols=j[plan.cols], mass=plan.mass * share)
        )
        shares.append(share)
    merged = SparsePlan(
        rows=np.concatenate([p.rows for p in plans]),
        cols=np.concatenate([p.cols for p in plans]),
        mass=np.concatenate([p.mass for p in plans]),
        converged=all(p.converged for p in plans),
        iterations=max(p.iterations for p in plans),
        marginal_error=max(p.marginal_error for p in plans),
        dropped_mass=float(np.dot(shares, [p.dropped_mass for p in plans]) / np.sum(shares)),
    )
    return merged, method, n_blocks


def plan_solver(method: str) -> Callable[..., SparsePlan]:
    """(x, y, a, b, settings) -> plan. Exact plans need no OTT-JAX, which takes a second to load."""
    if method == "exact":
        return _exact
    if method == "semidiscrete":
        return semidiscrete_plan
    if method == "sinkhorn":
        from jkonet_star.transport.entropic import sinkhorn_plan

        return sinkhorn_plan
    from jkonet_star.transport.low_rank import low_rank_plan

    return low_rank_plan


def _exact(
    x: HostArray, y: HostArray, a: HostArray, b: HostArray, settings: CouplingSettings
) -> SparsePlan:
    """The optimal plan in the form of the entropic ones. Nothing is dropped: it is sparse."""
    del settings
    rows, cols, mass, _ = exact_plan(x, y, a, b)
    error = np.abs(np.bincount(rows, mass, len(a)) - a).sum()
    error += np.abs(np.bincount(cols, mass, len(b)) - b).sum()
    return SparsePlan(
        rows=rows,
        cols=cols,
        mass=mass,
        converged=True,
        iterations=0,
        marginal_error=float(error),
        dropped_mass=0.0,
    )


def _log(report: CouplingReport, settings: CouplingSettings) -> None:
    logger.info(
        "step %d: coupled %d and %d particles by %s in %d block(s), %.2f s",
        report.step,
        report.n_source,
        report.n_target,
        report.method,
        report.n_blocks,
        report.seconds,
    )
    if not report.converged and report.method == "semidiscrete":
        logger.warning(
            "step %d: after %d passes the coupling may cost more than a tenth above the optimum; "
            "raise passes, or couple exactly",
            report.step,
            report.iterations,
        )
    elif not report.converged:
        logger.warning(
            "step %d: %s did not converge in %d iterations (marginal error %.2g, threshold %.2g); "
            "raise max_iterations above %d or epsilon above %g, or couple exactly",
            report.step,
            report.method,
            report.iterations,
            report.marginal_error,
            settings.threshold,
            settings.max_iterations,
            settings.epsilon,
        )
    if report.dropped_mass > 1 - _MASS_WORTH_TRUSTING:
        logger.warning(
            "step %d: %.0f %% of the plan's mass lies in pairs too light to keep, and the pairs "
            "kept no longer represent it; lower epsilon from %g",
            report.step,
            100 * report.dropped_mass,
            settings.epsilon,
        )
