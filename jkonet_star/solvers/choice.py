"""`solver="auto"`: the data choose what is learned, and how.

Of every snapshot a share of the particles is held out. Candidates learn from the rest, and predict from
held-out particles of one snapshot those of the next. With D the energy distance of both that the
refinement minimises (there equation (2)), the candidate with the least mean over the steps is the best;
the simplest one within one standard error of it is taken. By roots of distances, a = .5, the default,
fewer particles tell a V(x) from a V(x, t) than by distances, whose error is mostly that of how many
particles of a branch were held out. Candidates are compared on the same particles, and so the
error is that of the difference: with h_c(x_i) and g_c(y_j) what one particle adds to D of candidate c,

    h_c(x_i) = 2 mean_j |z_i - y_j|^a - 2 mean_i' |z_i - z_i'|^a,
    g_c(y_j) = 2 mean_i |z_i - y_j|^a,                                                             (1)
    Var(D_c - D_b) ~ Var_i(h_c - h_b) / n + Var_j(g_c - g_b) / m,                                  (2)

z_i being where c moves x_i to (the projection of a U-statistic: Hoeffding 1948). Where particles
multiply and die, those of the candidates do, too, and a prediction has the weights that they have
grown to: without, V(x, t) would learn shares that change as motion. The energy distance
hardly sees what is finer than a population. So of those that it leaves the classifier of `two_samples`
has to find one as hard to tell from the observed particles as any other, up to half the error of a
difference of two accuracies of n answers (a whole one would hide what a few hundred particles show),

    A_c <= A_b + sqrt(2 A_b (1 - A_b) / n) / 2,                                                    (3)

A_b being that of the best, or a half where that is more: below it is luck.

What is taken is then trained anew, longer and on all particles.

Candidates: V(x); V(x, t); V(x, t) with a wider network; the one of these that would be taken with
noise, whose beta is found by the refinement, and with half of that beta. All are refined. The simpler
one is that with fewer parameters, and of as many with less noise: what moves at random lies farther
from where it is seen next, and W1 knows.

To compile costs more than to train. So all candidates of a width are one program, and that of the final
training, too: V(x) is V(x, t) on a clock that stands still, no noise is noise with beta = 0, what is
held out has weight zero, and couplings that there are too few of are filled up with pairs of weight
zero. What is returned is the plain V(x), or V(x, t), with or without beta: the same function.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusions.checks import Natural
from diffusions.memory import check_memory
from diffusions.training import Progress
from diffusions.typing import Key, Keys, PyTree
from jkonet_star.energies.models import NetworkEnergy
from jkonet_star.fit_report import ComparedReport, finite_or_none
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import (
    CouplingSettings,
    GrowthSettings,
    NetworkSettings,
    RefinementSettings,
)
from jkonet_star.solvers.first_order import filled_up
from jkonet_star.solvers.held_out import HeldOutDistances, held_out_splits
from jkonet_star.solvers.interface import Solver
from jkonet_star.solvers.learning import Learned, train, with_noise
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import Problem, prepare
from jkonet_star.solvers.refinement import Refining
from jkonet_star.solvers.registry import Terms
from jkonet_star.solvers.side_by_side import SideBySide, as_problems
from jkonet_star.units import data_units

FEWEST = 20
"""Particles of a snapshot, below which nothing can be held out."""
COMPARED_STEPS: dict[str, int] = {"soap": 500, "adam": 2400}
"""Gradient steps of the first-order training of what is compared, however many couplings there are."""
CHOSEN_STEPS: dict[str, int] = {"soap": 1800, "adam": 7200}
"""Of what is chosen. Fine structure takes longer to learn than to be compared."""
MOST_EPOCHS = 1000
"""Of either, where the settings do not say."""
NO_NOISE = -1e9
"""b of `energies`, equation (2), at which beta is zero in single precision, and stays so."""
ROOM = 256
"""Couplings are filled up to a multiple of it: other particles of as many seldom are another shape."""
REFINEMENT_STEPS = 150
WIDE = (128, 128)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """What may be learned.

    Attributes:
        name: in words.
        time_varying: V depends on time.
        noise: there is some.
        network: of V.
        beta: of the noise; None where the refinement learns it.
    """

    name: str
    time_varying: bool
    noise: bool
    network: NetworkSettings
    beta: float | None = None

    def with_noise(self) -> "Candidate":
        """The same, and noise."""
        return dataclasses.replace(self, name=f"{self.name}, noise", noise=True)

    def with_half_the_noise(self, beta: float | None = None) -> "Candidate":
        """The same, and half of the noise that is learned: beta."""
        return dataclasses.replace(self, name=f"{self.name}, half the noise", noise=True, beta=beta)

    def training(
        self,
        problem: Problem | Sequence[Problem],
        steps: Mapping[str, int] = CHOSEN_STEPS,
    ) -> SideBySide:
        """The first-order training, in as many epochs as it takes, or those of the settings.

        Args:
            problem: with room for couplings, see `with_room`; or several, of one shape.
            steps: gradient steps by each optimiser.
        """
        n_pairs = as_problems(problem)[0].conditions.point.shape[0]
        own = self.network.training("soap")
        per_epoch = -(-n_pairs // min(own.batch_size, n_pairs))
        epochs = min(_most_epochs(self.network), -(-steps[own.optimizer] // per_epoch))
        network = dataclasses.replace(self.network, optimizer=own.optimizer, epochs=epochs)
        terms = Terms(potential=True, time_varying=True)
        training = SideBySide(Network(terms=terms, network=network), problem)
        if not self.time_varying:
            units = training.data.units
            still = units.replace(time_step=jnp.full_like(units.time_step, jnp.inf))
            training.data = training.data.replace(units=still)
        return training

    def refining(
        self,
        settings: RefinementSettings,
        problem: Problem | Sequence[Problem],
        energies: FittedEnergy,
    ) -> Refining:
        """The refinement of what `training` gave."""
        if not self.noise:
            return Refining(settings, problem, with_noise(energies, NO_NOISE), learn_noise=False)
        if self.beta is None:
            return Refining(settings, problem, with_noise(energies))
        share = self.beta / np.asarray(energies.constants.noise, np.float64)
        start = share + np.log(-np.expm1(-share))  # whose softplus is the share
        return Refining(settings, problem, with_noise(energies, start), learn_noise=False)

    def plain(self, energies: FittedEnergy, problem: Problem | Sequence[Problem]) -> FittedEnergy:
        """The same functions as what they are: without a clock, or a noise, that stands still."""
        model, params, constants = energies.model, dict(energies.params), energies.constants
        assert isinstance(model, NetworkEnergy)
        if not self.noise:
            del params["internal"]
            model = dataclasses.replace(model, internal="none")
        if not self.time_varying:
            layers = params["potential"]["params"]
            first = {**layers["Dense_0"], "kernel": layers["Dense_0"]["kernel"][..., :-1, :]}
            params["potential"] = {"params": {**layers, "Dense_0": first}}
            model = dataclasses.replace(model, time_varying=False)
            running = jnp.stack(
                [data_units(p.snapshots, p.conditions).time_step for p in as_problems(problem)]
            )
            constants = constants.replace(
                time_step=jnp.broadcast_to(running, constants.time_step.shape)
            )
        return energies.replace(  # type: ignore[attr-defined]
            model=model, params=params, constants=constants
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverChoice:
    """What was chosen, and out of what.

    Attributes:
        candidate: that is to be trained in full.
        refinement: of it.
        compared: all candidates, from simple to rich.
        held_out: particles a side, over all steps.
    """

    candidate: Candidate
    refinement: RefinementSettings
    compared: list[ComparedReport]
    held_out: Natural

    def lines(self) -> list[str]:
        """A table for people."""
        width = max(len(row.name) for row in self.compared)
        lines = [f"{'candidate':{width}}  parameters  C2ST  energy distance of held-out particles"]
        for row in self.compared:
            error = f" (+- {row.standard_error:.2g} from the best)" if row.standard_error else ""
            mark = "  <- chosen" if row.chosen else ""
            distance = "not finite" if row.energy_distance is None else f"{row.energy_distance:.5f}"
            accuracy = "    " if row.c2st is None else f"{row.c2st:.2f}"
            lines.append(
                f"{row.name:{width}}  {row.parameters:>10}  {accuracy}  {distance}{error}{mark}"
            )
        return lines


def candidates(network: NetworkSettings) -> list[Candidate]:
    """Those without noise.

    Args:
        network: what all share; its widths are those of the narrow ones.
    """
    wide = dataclasses.replace(network, hidden=WIDE, activation="silu")
    return [
        Candidate(name="V(x)", time_varying=False, noise=False, network=network),
        Candidate(name="V(x, t)", time_varying=True, noise=False, network=network),
        Candidate(name="V(x, t), wide", time_varying=True, noise=False, network=wide),
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto(Solver):
    """A choice between solvers; what it chooses is trained in its place.

    Attributes:
        terms: of what every candidate learns.
        network: what the candidates share; its widths are those of the narrow ones, and its epochs
            the most that any may take.
    """

    terms: Terms = Terms(potential=True)
    network: NetworkSettings = NetworkSettings()

    @property
    def epochs(self) -> int:
        """The most that any candidate may take."""
        return _most_epochs(self.network)

    def check(self, dimension: int) -> None:
        """Raises ValueError for networks that do not fit into memory."""
        del dimension
        for candidate in candidates(self.network):
            check_memory(candidate.network.memory_needs)

    def check_problem(self, problem: Problem) -> None:
        """Raises ValueError where a snapshot has too few particles to hold some out."""
        weights = np.asarray(problem.snapshots.weights)
        for k, count in enumerate(np.count_nonzero(weights, axis=1)):
            if count < FEWEST:
                raise ValueError(
                    f"solver 'auto' holds particles out, and snapshot {k} has {count}; it needs "
                    f"{FEWEST}: name a solver"
                )

    def prepare(self, problem: Problem) -> tuple[PyTree, dict[str, Any]]:
        """Raises TypeError: only what is chosen can be trained."""
        raise TypeError("a choice between solvers is made by choose, and then trained")

    def choose(
        self,
        problem: Problem,
        *,
        key: Key,
        refinement: RefinementSettings = RefinementSettings(),  # noqa: B008 (frozen)
        coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
        growth: GrowthSettings | None = None,
        masses: Sequence[Any] | ArrayLike | None = None,
        on_candidate: Callable[[str], None] = lambda name: None,
    ) -> SolverChoice:
        """Compares the candidates.

        Args:
            problem: of all particles.
            key: of what is held out, and of the training.
            refinement: of what is taken; `REFINEMENT_STEPS` where it has no steps.
            coupling_settings: of the particles to learn from, which are coupled anew, also where the
                problem's own couplings were given.
            growth: of the problem.
            masses: likewise.
            on_candidate: called with the name of each before it is trained.

        Raises:
            ValueError: as `check_problem`, or no candidate predicts anything finite.
        """
        self.check_problem(problem)
        refinement = _with_steps(refinement)
        exponent = refinement.refine_exponent
        parts, held = [], []
        for learned, judging in held_out_splits(problem.snapshots, key):
            part = prepare(
                learned,
                self,
                scheme=problem.scheme,
                key=key,
                coupling_settings=coupling_settings,
                growth=growth,
                masses=masses,
            )
            parts.append(with_room(part, problem))
            held.append(judging)
        compared: list[_Outcome] = []
        first_order: dict[str, list[FittedEnergy]] = {}

        def compare(candidate: Candidate, starts: Sequence[FittedEnergy] = ()) -> None:
            on_candidate(candidate.name)
            if not starts:
                starts = [train(candidate.training(p, COMPARED_STEPS), key[None])[0] for p in parts]
            first_order[candidate.name] = list(starts)
            # One after the other: side by side they would be another program than the final one.
            refined = [
                train(candidate.refining(refinement, part, start), key[None])[0]
                for part, start in zip(parts, starts, strict=True)
            ]
            plain = candidate.plain(refined[0], parts[0])
            size = sum(leaf.size for leaf in jax.tree.leaves(plain.params))
            energies = [energy.member(0) for energy in refined]
            # As it was asked for: a later session trains with what the table has.
            found = (
                float(np.mean([energy.beta for energy in energies])) if candidate.noise else None
            )
            distances = HeldOutDistances(list(zip(energies, held, strict=True)), exponent)
            compared.append(_Outcome(candidate, size, candidate.beta or found, distances))

        for candidate in candidates(self.network):
            compare(candidate)
        best = compared[_taken(compared)[0]].candidate
        starts = first_order[best.name]
        compare(best.with_noise(), starts)
        if beta := compared[-1].beta:
            compare(best.with_half_the_noise(beta / 2), starts)
        # From simple to rich: a beta is one parameter more, a clock and width are many.
        compared.sort(key=lambda outcome: (outcome.parameters, outcome.beta or 0.0))
        chosen, errors = _taken(compared)
        return SolverChoice(
            candidate=compared[chosen].candidate,
            refinement=refinement,
            compared=[
                ComparedReport(
                    name=outcome.candidate.name,
                    parameters=outcome.parameters,
                    energy_distance=finite_or_none(outcome.distances.mean),
                    standard_error=finite_or_none(error),
                    c2st=finite_or_none(outcome.distances.accuracy),
                    beta=outcome.beta,
                    chosen=i == chosen,
                )
                for i, (outcome, error) in enumerate(zip(compared, errors, strict=True))
            ],
            held_out=sum(len(own.points) for judging in held for own in judging),
        )

    def chosen_before(
        self, compared: Sequence[ComparedReport], refinement: RefinementSettings, held_out: int
    ) -> SolverChoice:
        """A choice that was made earlier, of its table.

        Raises:
            ValueError: it names no candidate of these settings.
        """
        row = next((row for row in compared if row.chosen), None)
        plain = candidates(self.network)
        halves = (
            [] if row is None or not row.beta else [c.with_half_the_noise(row.beta) for c in plain]
        )
        for candidate in (*plain, *(c.with_noise() for c in plain), *halves):
            if row is not None and candidate.name == row.name:
                return SolverChoice(
                    candidate=candidate,
                    refinement=_with_steps(refinement),
                    compared=list(compared),
                    held_out=held_out,
                )
        raise ValueError(f"no candidate is called {None if row is None else row.name!r}")


def _most_epochs(network: NetworkSettings) -> int:
    """Those of the settings, or the usual bound where they do not say."""
    return MOST_EPOCHS if network.epochs is None else network.epochs


def _with_steps(refinement: RefinementSettings) -> RefinementSettings:
    """As they are, or with the usual number of steps where they have none."""
    return dataclasses.replace(refinement, refine=refinement.refine or REFINEMENT_STEPS)


class _Outcome(NamedTuple):
    candidate: Candidate
    parameters: int
    beta: float | None
    distances: "HeldOutDistances"


def _taken(compared: Sequence[_Outcome]) -> tuple[int, list[float]]:
    """Which of candidates, from simple to rich, is taken, and how uncertain each distance is.

    Raises:
        ValueError: none predicts anything finite.
    """
    least = min(compared, key=lambda outcome: outcome.distances.mean).distances
    if not np.isfinite(least.mean):
        raise ValueError(
            "no candidate of solver 'auto' predicts anything finite: take a smaller learning_rate"
        )
    errors = [outcome.distances.error_of_difference(least) for outcome in compared]
    near = [
        i
        for i, (outcome, error) in enumerate(zip(compared, errors, strict=True))
        if outcome.distances is least or outcome.distances.mean <= least.mean + error
    ]
    return near[_hardest_to_tell([compared[i].distances for i in near])], errors


def _hardest_to_tell(compared: "Sequence[HeldOutDistances]") -> int:
    """The first within (3) of the best; the first of all where particles are too few."""
    best = min(compared, key=lambda distances: distances.accuracy)
    accuracy = max(best.accuracy, 0.5)
    most = accuracy + np.sqrt(2 * accuracy * (1 - accuracy) / best.answers) / 2
    return next((i for i, own in enumerate(compared) if own.accuracy <= most), 0)


def learn_chosen(
    choice: SolverChoice,
    problem: Problem | Sequence[Problem],
    keys: Keys,
    *,
    on_progress: Progress | None = None,
) -> Learned:
    """What was chosen, trained and refined on all particles.

    Args:
        choice: of `Auto.choose`.
        problem: that was chosen for; or problems like it, one for each energy.
        keys: one per energy.
        on_progress: called about ten times during each.
    """
    wide: Problem | list[Problem] = (
        with_room(problem) if isinstance(problem, Problem) else [with_room(own) for own in problem]
    )
    training = choice.candidate.training(wide)
    start, losses = train(training, keys, on_progress)
    refining = choice.candidate.refining(choice.refinement, wide, start)
    energies, refined = train(refining, keys, on_progress)
    plain = choice.candidate.plain(energies, problem)
    return Learned(plain, losses, refined, training.facts[0])


def with_room(problem: Problem, like: Problem | None = None) -> Problem:
    """The problem as its candidates are trained: filled up with couplings of weight zero.

    Args:
        problem: of the particles.
        like: of all particles, where these are a part.
    """
    conditions = problem.conditions
    n_pairs = conditions.point.shape[0]
    most = max(n_pairs, 0 if like is None else like.conditions.point.shape[0])
    count = -(-most // ROOM) * ROOM
    return dataclasses.replace(problem, conditions=filled_up(conditions, count))
