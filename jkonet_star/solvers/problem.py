"""What every solver is given: coupled snapshots; with densities and beta for an internal energy."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from diffusions.arguments import checked
from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.short_repr import short_repr
from diffusions.typing import ArrayLike, Key, Params, PyTree
from jkonet_star.densities import GaussianMixtures, KernelDensities, density_report, fit_densities
from jkonet_star.energies.models import Internal, LinearEnergy
from jkonet_star.fit_report import CoupledStep, DensityReport
from jkonet_star.growth import Growth, estimate_growth
from jkonet_star.settings import (
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    GrowthSettings,
    InternalSettings,
)
from jkonet_star.snapshots import Snapshots, in_order
from jkonet_star.solvers.first_order import (
    FirstOrderConditions,
    first_order_conditions,
    with_drift_of,
    with_known_beta,
)
from jkonet_star.solvers.linear_model import linear_model, split_coefficients
from jkonet_star.solvers.registry import Terms, known_solver, scheme_of
from jkonet_star.solvers.settled_couplings import settled_couplings
from jkonet_star.transport.couplings import (
    CouplingReport,
    Couplings,
    check_couplings,
    couple,
    coupled_steps,
    moved_couplings,
)

if TYPE_CHECKING:
    from jkonet_star.internal_energy.estimate import InternalEstimate
    from jkonet_star.solvers.interface import Solver

Densities = GaussianMixtures | KernelDensities


class WeakFormEnergy(NamedTuple):
    """A linear energy that was found without couplings."""

    model: LinearEnergy
    params: Params
    constants: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A solver's input, ready: the coupled snapshots in the form that every loss uses.

    Attributes:
        terms: what is learned.
        scheme: explicit, implicit or midpoint.
        snapshots: of the population.
        conditions: with the term of a given beta in the displacement.
        couplings: of the snapshots; the bilevel solvers draw batches along them.
        internal: the estimate of beta; None where there is none, or it is learned by first-order
            conditions.
        coupled: how each step was coupled.
        density: which densities the internal energy uses.
        weak_form: the energy of the weak form, where the conditions hold its drift in place of the
            couplings' displacements.
        growth: of the population, where it is learned; the couplings are then its own.
    """

    terms: Terms
    scheme: str
    snapshots: Snapshots
    conditions: FirstOrderConditions
    couplings: Couplings
    internal: "InternalEstimate | None" = None
    coupled: tuple[CoupledStep, ...] = ()
    density: DensityReport | None = None
    weak_form: WeakFormEnergy | None = None
    growth: Growth | None = None

    __repr__ = short_repr

    @property
    def beta_source(self) -> Internal:
        """Where beta comes from."""
        if not self.terms.internal:
            return "none"
        return "learned" if self.internal is None else "given"

    @property
    def substeps(self) -> int:
        """Steps of the scheme from each snapshot to the next, by which the energy predicts."""
        return 1 if self.internal is None or self.weak_form is None else self.internal.substeps


@checked
def prepare(
    snapshots: Snapshots,
    solver: "str | Solver",
    *,
    key: Key,
    scheme: str = "auto",
    couplings: Couplings | None = None,
    densities: Densities | None = None,
    internal: InternalSettings = InternalSettings(),  # noqa: B008 (frozen)
    features: FeatureSettings = FeatureSettings(),  # noqa: B008 (frozen)
    coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    density_settings: DensitySettings = DensitySettings(),  # noqa: B008 (frozen)
    coupling_reports: Sequence[CouplingReport] = (),
    growth: GrowthSettings | None = None,
    masses: Sequence[Any] | ArrayLike | None = None,
) -> Problem:
    """Couples the snapshots, fits their densities and finds beta, as far as the solver needs it.

    With growth, the couplings are those that it is found with.

    Args:
        snapshots: of the population.
        solver: one of `SOLVERS`, or an own one.
        key: of the couplings and densities that are not given.
        scheme: explicit, implicit or midpoint; `auto` is the solver's own.
        couplings: where already computed. Those without `coupling_reports` are taken as chosen:
            `auto` then finds the drift with them, as it does where `features` has a ridge.
        densities: where already computed.
        internal: how beta is found.
        features: of the linear energies with which it is found.
        coupling_settings: used where `couplings` is absent.
        density_settings: used where `densities` is absent.
        coupling_reports: of `couple`, for `couplings` that it made.
        growth: how growth is told from motion; None where nothing grows.
        masses: of the whole population at each snapshot, which make growth absolute.

    Raises:
        ValueError: an unknown solver or scheme, an internal energy without a density, couplings or
            densities of other snapshots, features that do not fit into memory, the weak form for a
            potential that varies in time or for what grows, a circulation on a line, beside an
            internal energy or growth or in another scheme than the explicit one, couplings beside
            growth, masses without it, or masses that are not one positive number per snapshot.
    """
    scheme = scheme_of(scheme, solver)
    terms = known_solver(solver).terms
    if terms.internal and terms.time_varying and internal.drift == "weak-form":
        raise ValueError(
            "drift 'weak-form' has no V(x, t), which this solver learns: it must be 'auto' or "
            "'couplings'"
        )
    if terms.circulation:
        _check_circulation(terms, scheme, snapshots.dimension)
    if growth is not None and internal.drift == "weak-form":
        raise ValueError(
            "drift 'weak-form' is of particles that neither multiply nor die: with growth it must be "
            "'auto' or 'couplings'"
        )
    if growth is not None and terms.circulation:
        raise ValueError(
            "a circulation cannot be learned beside growth: both make couplings of their own"
        )
    if growth is not None and couplings is not None:
        raise ValueError("growth is found with couplings of its own: give no couplings beside it")
    if growth is None and masses is not None:
        raise ValueError("masses are for growth, which is not learned: growth must be True")
    if terms.internal and internal.beta_estimator != "first-order":
        check_memory(features.memory_needs_in(snapshots.dimension))
    if densities is not None and densities.dimension != snapshots.dimension:
        raise ValueError(
            f"the densities have dimension {densities.dimension}, the snapshots "
            f"{snapshots.dimension}"
        )
    couplings_given = couplings is not None
    if couplings is not None:
        check_couplings(couplings, snapshots)
    # Nothing that is drawn along the rows may depend on their order.
    snapshots, rank = in_order(snapshots)
    reports: Sequence[CouplingReport] = coupling_reports
    found: Growth | None = None
    if growth is not None:
        found = estimate_growth(
            snapshots,
            growth,
            key=named_key(key, "growth"),
            masses=masses,
            coupling_settings=coupling_settings,
        )
        couplings, reports = found.couplings, found.reports
    elif couplings is not None:
        couplings = moved_couplings(couplings, rank)
    else:
        couplings, reports = couple(snapshots, coupling_settings, key=named_key(key, "couplings"))
    if terms.circulation and (reports or not couplings_given):
        # Whoever knows which particle went where need not be told by transport.
        couplings, reports = settled_couplings(
            terms,
            snapshots,
            couplings,
            features,
            settings=coupling_settings,
            key=named_key(key, "settled couplings"),
        )
    sources = None if found is None else np.asarray(found.source_weights)
    problem = functools.partial(
        Problem,
        terms=terms,
        scheme=scheme,
        snapshots=snapshots,
        couplings=couplings,
        coupled=coupled_steps(couplings, snapshots, reports, source_weights=sources),
        growth=found,
    )
    if not terms.internal:
        return problem(conditions=_conditions(snapshots, couplings, None, scheme, found))
    if densities is None:
        densities = fit_densities(snapshots, density_settings, key=named_key(key, "densities"))
        if densities is None:
            raise ValueError(
                f"solver {solver!r} learns an internal energy and needs densities, "
                "but n_gmm_components is 0"
            )
    problem = functools.partial(problem, density=density_report(densities))
    conditions = _conditions(snapshots, couplings, densities, scheme, found)
    if internal.beta_estimator == "first-order":
        return problem(conditions=conditions)
    # SciPy's trees, needed here only.
    from jkonet_star.internal_energy.estimate import estimate_internal

    model, constants = linear_model(terms, snapshots, features)
    # A few hundred unknowns: more threads than one would only wait for each other.
    regime = internal.beta_estimator
    if internal.drift == "weak-form":
        regime = "unpaired"
    with threadpool_limits(1, user_api="blas"):
        estimate = estimate_internal(model, constants, snapshots, regime=regime)
    if internal.drift == "weak-form" and estimate.drift is None:
        raise ValueError(
            "drift 'weak-form': these features do not explain how the snapshots differ; "
            "'auto' takes the couplings then"
        )
    # Couplings and a ridge that somebody chose are there to be used.
    chosen = (couplings_given and not coupling_reports) or features.regularization is not None
    wanted = internal.drift == "weak-form" or (
        internal.drift == "auto" and scheme == "explicit" and not chosen and growth is None
    )
    if estimate.drift is not None and wanted and not terms.time_varying:
        own = WeakFormEnergy(
            dataclasses.replace(model, internal="given"),
            {
                **split_coefficients(model, estimate.drift_coefficients),
                "internal": jnp.asarray(estimate.beta, jnp.float32),
            },
            constants,
        )
        return problem(conditions=with_drift_of(*own, conditions), internal=estimate, weak_form=own)
    return problem(
        conditions=with_known_beta(
            conditions, estimate.beta, paired=estimate.paired, scheme=scheme
        ),
        internal=estimate,
    )


def _check_circulation(terms: Terms, scheme: str, dimension: int) -> None:
    """Raises ValueError where a circulation is asked for beside what it cannot go with."""
    if dimension == 1:
        raise ValueError("in dimension 1 every velocity is a gradient: there is no circulation")
    if scheme != "explicit":
        raise ValueError(
            f"a circulation is learned and predicted by the explicit scheme, got {scheme!r}"
        )
    if terms.internal:
        raise ValueError(
            "a circulation cannot be learned beside an internal energy, whose beta is found for a "
            "gradient: take a solver without one, such as jkonet-star-potential"
        )


def _conditions(
    snapshots: Snapshots,
    couplings: Couplings,
    densities: Densities | None,
    scheme: str,
    growth: Growth | None,
) -> FirstOrderConditions:
    """The conditions; with the explicit scheme a population pulls as it is before it grows.

    The others evaluate it later, with the marginals of its couplings, which have grown
    (`FittedEnergy.advanced` does the same).
    """
    conditions = first_order_conditions(snapshots, couplings, densities, scheme)
    if growth is None or scheme != "explicit":
        return conditions
    return dataclasses.replace(conditions, population_weights=snapshots.weights[:-1])
