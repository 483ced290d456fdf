"""From snapshots to an energy: one `fit` for every solver."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

from diffusions.arguments import checked
from diffusions.memory import check_memory
from diffusions.training import Progress
from diffusions.typing import ArrayLike, Key, Keys
from jkonet_star.diagnostics import (
    data_warnings,
    explanation,
    outliers,
)
from jkonet_star.fit_report import ClosedFormReport, fit_report
from jkonet_star.fitted import FittedEnergy
from jkonet_star.growth import growth_report
from jkonet_star.settings import (
    BilevelSettings,
    BootstrapSettings,
    CirculationSettings,
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    GrowthSettings,
    InternalSettings,
    NetworkSettings,
    RefinementSettings,
)
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.bootstrap import check_bootstrap, check_resampling, replicate
from jkonet_star.solvers.choice import Auto, learn_chosen
from jkonet_star.solvers.coefficient_errors import LinearErrors
from jkonet_star.solvers.divergence import divergence_warning, first_unsound, refinement_warning
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.learning import learn
from jkonet_star.solvers.linear import Linear
from jkonet_star.solvers.problem import Densities, prepare
from jkonet_star.solvers.registry import RegisteredSolver, known_solver, with_circulation
from jkonet_star.transport.couplings import Couplings


@checked
def fit(
    snapshots: Snapshots,
    solver: str | Solver = "jkonet-star-potential",
    *,
    key: Key | Keys,
    scheme: str = "auto",
    circulation: bool = False,
    couplings: Couplings | None = None,
    densities: Densities | None = None,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 (frozen)
    bilevel: BilevelSettings = BilevelSettings(),  # noqa: B008 (frozen)
    features: FeatureSettings = FeatureSettings(),  # noqa: B008 (frozen)
    internal: InternalSettings = InternalSettings(),  # noqa: B008 (frozen)
    refinement: RefinementSettings = RefinementSettings(),  # noqa: B008 (frozen)
    coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    density_settings: DensitySettings = DensitySettings(),  # noqa: B008 (frozen)
    bootstrap: int = 0,
    resample: str = "auto",
    growth: bool | GrowthSettings = False,
    masses: Sequence[Any] | ArrayLike | None = None,
    on_progress: Progress | None = None,
) -> FittedEnergy:
    """Learns the energy of a population.

    Args:
        snapshots: of `snapshots_from_arrays`, or simulated.
        solver: one of `jkonet_star.SOLVERS`, or an object such as `Network(potential=MyModule())`;
            `auto` compares several on held-out particles first (see `solvers.choice`).
        key: of all randomness. An array of keys trains one network per key in a single program, and
            every leaf of the result gains a leading axis.
        scheme: explicit, implicit or midpoint (see `objectives`); `auto` is the solver's own, explicit
            for all but the bilevel ones.
        circulation: a velocity without divergence is learned beside V, by network and linear solvers
            (see `energies.circulation`); couplings that are not given are made along it.
        couplings: where already computed; the drift is then theirs (see `InternalSettings`).
        densities: where already computed.
        network: of the network solvers.
        bilevel: of the bilevel solvers, beside `network`.
        features: of the linear solvers, and of the energies with which beta is found.
        internal: how beta is found, by the solvers that learn it.
        refinement: by the laws that the energy predicts, after it was learned; none by default.
        coupling_settings: used where `couplings` is absent.
        density_settings: used where `densities` is absent.
        bootstrap: energies learned from resampled particles, beside the one of all that is returned:
            its `replicates`, from which `interval` tells how well any function of it is known.
        resample: what they are learned from: `trajectories` of particles that all snapshots show,
            `snapshots`, each resampled alone, or `auto`, which finds out. The sandwich formula of a
            closed form is of trajectories.
        growth: that particles multiply and die is learned, too (`growth` says how): the couplings are
            those of growth, and the energy has a rate and gives its predictions weights.
        masses: of the whole population at each snapshot, counts of cells for instance; without them,
            rates are relative (`FittedEnergy.growth`).
        on_progress: called about ten times during training.

    Returns:
        The learned energy. Where training diverged it is that of the last sound epoch, and its
        `diverged` says since when.

    Raises:
        ValueError: unknown names, shapes or dimensions that do not fit; networks, features, a
            refinement or replicates that do not fit into memory; a circulation where there can be
            none, a bootstrap of what has none; couplings beside growth, or masses without it.

    Warns (UserWarning):
        Training diverged; the energy does not explain how the population moves (see `diagnostics`);
        outliers decide the fit; the couplings look like growth that is not learned; beta was estimated
        as if nothing grew; a batch would exceed the data and is cut; several keys for a solver without
        randomness; replicates diverged.
    """
    single = key.ndim == 0
    keys = key[None] if single else key
    if not len(keys):
        raise ValueError("fit needs at least one key")
    known = known_solver(solver)
    chosen: Solver = (
        known.make(network=network, bilevel=bilevel, features=features)
        if isinstance(known, RegisteredSolver)
        else known
    )
    if CirculationSettings(circulation=circulation).circulation:
        chosen = with_circulation(chosen)
    chosen.check(snapshots.dimension)
    check_memory(refinement.memory_needs_of(snapshots.n_steps, len(keys)))
    name = solver if isinstance(solver, str) else type(solver).__name__
    replication = BootstrapSettings(bootstrap=bootstrap, resample=resample)  # type: ignore[arg-type]
    check_bootstrap(
        replication, chosen, name, snapshots, refinement=refinement, n_energies=len(keys)
    )
    if bootstrap and (couplings is not None or densities is not None):
        raise ValueError(
            "bootstrap couples and fits densities anew: give settings of them, not them"
        )
    growing = (GrowthSettings() if growth else None) if isinstance(growth, bool) else growth
    again = functools.partial(
        prepare,
        solver=chosen if circulation else solver,
        scheme=scheme,
        features=features,
        coupling_settings=coupling_settings,
        density_settings=density_settings,
        growth=growing,
        masses=masses,
    )
    problem = again(
        snapshots, key=keys[0], couplings=couplings, densities=densities, internal=internal
    )
    check_resampling(replication, problem)
    choice = None
    if isinstance(chosen, Auto):
        choice = chosen.choose(
            problem,
            key=keys[0],
            refinement=refinement,
            coupling_settings=coupling_settings,
            growth=growing,
            masses=masses,
        )
    said: list[str] = []
    for line in data_warnings(problem, outliers(snapshots)):
        _warn(line, said)
    if not (chosen.epochs or single):
        _warn(f"solver {name!r} has no randomness: the {len(keys)} keys give the same energy", said)
    _warn(chosen.remark(problem), said)
    learned = (
        learn(chosen, problem, keys, refinement, on_progress=on_progress)
        if choice is None
        else learn_chosen(choice, problem, keys, on_progress=on_progress)
    )
    energies, losses = learned.energies, learned.losses
    diverged = tuple(first_unsound(own, absurd=chosen.absurd) for own in losses)
    _warn(divergence_warning(diverged), said)
    _warn(refinement_warning(learned.refinement_losses), said)
    explained = None
    if not any(diverged):
        explained = explanation(problem, energies)
        _warn(explained.warning(), said)
    facts = learned.facts
    closed_form = facts.get("closed_form")
    report = fit_report(
        problem,
        name,
        diverged=diverged,
        losses=losses if chosen.epochs else None,
        facts=facts,
        closed_form=None if closed_form is None else ClosedFormReport(**closed_form),
        explained=explained,
        warnings=said,
        refinement_losses=learned.refinement_losses,
        compared=() if choice is None else choice.compared,
        growth=growth_report(energies, problem.snapshots, problem.growth),
    )
    energies = energies.with_report(report)
    if isinstance(chosen, Linear) and report.closed_form is not None and not refinement.refine:
        own = LinearErrors(problem, energies.member(0), resample)
        energies = energies.with_errors(own)
    if bootstrap:
        found = replicate(
            replication,
            chosen,
            problem,
            energies.member(0),
            again,
            key=keys[0],
            closed_form=report.closed_form,
            choice=choice,
            refinement=refinement,
            on_progress=on_progress,
        )
        told = found.report(absurd=chosen.absurd)
        _warn(told.warning(), said)
        report = dataclasses.replace(report, bootstrap=told, warnings=said)
        energies = energies.with_report(report).with_replicates(found.energies)
    return energies.member(0) if single else energies


def _warn(line: str | None, said: list[str]) -> None:
    """Says a line, where there is one, and adds it to what was said."""
    if line is not None:
        warnings.warn(line, stacklevel=3)
        said.append(line)
