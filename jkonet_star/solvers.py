"""From snapshots to an energy: one `fit` for every solver.

A network solver is trained by `NetworkFit`, many seeds in one program; a linear one is solved by
`closed_form.fit_linear`. Both see the same first-order conditions and return `FittedEnergy`.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits

from diffusions.arguments import checked
from diffusions.memory import check_memory
from diffusions.short_repr import short_repr
from diffusions.training import (
    TrainingState,
    cut_batch,
    initial_state,
    shuffled_batches,
    train_epochs,
)
from diffusions.typing import Array, Float, Key, Keys, PyTree
from jkonet_star.closed_form import ClosedFormReport, fit_linear
from jkonet_star.couplings import (
    CouplingReport,
    Couplings,
    check_couplings,
    couple,
    coupled_steps,
    moved_couplings,
)
from jkonet_star.densities import (
    GaussianMixtures,
    KernelDensities,
    density_report,
    fit_densities,
)
from jkonet_star.diagnostics import explanation, outlier_warning, outliers
from jkonet_star.divergence import ABSURD, divergence_warning, first_unsound, sound_epochs
from jkonet_star.energies import Internal, LinearEnergy, NetworkEnergy, Units
from jkonet_star.features import Features, make_features
from jkonet_star.fit_report import CoupledStep, DensityReport, fit_report
from jkonet_star.fitted import FittedEnergy
from jkonet_star.objectives import (
    FirstOrderConditions,
    first_order_conditions,
    jko_loss,
    with_known_beta,
)
from jkonet_star.settings import (
    SOLVERS,
    BilevelSettings,
    CouplingSettings,
    DensitySettings,
    FeatureSettings,
    InternalSettings,
    NetworkSettings,
    SolverKind,
    scheme_of,
)
from jkonet_star.snapshots import Snapshots, in_order
from jkonet_star.units import data_units, population_units

if TYPE_CHECKING:
    from jkonet_star.internal_energy import InternalEstimate

Densities = GaussianMixtures | KernelDensities
Progress = Callable[[int, dict[str, Array]], None]
"""Called with the number of finished epochs and the mean scalars of the last chunk."""

KMEANS_SAMPLE = 20_000
PROGRESS_CALLS = 10


def make_optimizer(settings: NetworkSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam (AdamW with weight decay) behind a clipped gradient, on the settings' schedule."""
    rate: optax.ScalarOrSchedule = settings.learning_rate
    if settings.schedule == "cosine":
        rate = optax.cosine_decay_schedule(
            settings.learning_rate, settings.epochs * steps_per_epoch
        )
    parts = []
    if settings.gradient_clip:
        parts.append(optax.clip_by_global_norm(settings.gradient_clip))
    if settings.weight_decay:
        parts.append(optax.adamw(rate, weight_decay=settings.weight_decay))
    else:
        parts.append(optax.adam(rate))
    return optax.chain(*parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """How the network energy of one population is trained: pure, and hashable.

    It is the static argument of the compiled programs (`start_training`, `train`), so that problems of
    one shape and one way of training share them: the second fit compiles nothing.

    Attributes:
        model: what is learned.
        settings: of the training; a batch is at most the data.
        updates: gradient steps in an epoch.
    """

    model: NetworkEnergy
    settings: NetworkSettings
    updates: int

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Of the settings, and of the number of steps."""
        return make_optimizer(self.settings, self.updates)

    def initial(self, key: Key, data: PyTree, units: Units) -> TrainingState:
        """Random parameters."""
        del data, units
        return initial_state(self.model.init(jax.random.fold_in(key, 0)), self.optimizer)

    def advance(
        self, state: TrainingState, key: Key, data: PyTree, units: Units, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """Some epochs; `n_epochs` is static."""
        conditions: FirstOrderConditions = data
        n_pairs, batch_size = conditions.point.shape[0], self.settings.batch_size

        def loss(params: PyTree, rows: Array, key: Key) -> tuple[Array, dict[str, Array]]:
            value = jko_loss(
                self.model,
                params,
                units,
                conditions,
                rows,
                speed=units.speed,
                key=key,
                interaction_samples=self.settings.interaction_samples,
            )
            return value, {}

        one_epoch = functools.partial(
            train_epochs,
            key=jax.random.fold_in(key, 1),
            batches=lambda k: shuffled_batches(k, n_pairs, batch_size),
            loss=loss,
            optimizer=self.optimizer,
            n_epochs=1,
            ema_decay=self.settings.ema_decay,
        )
        return sound_epochs(one_epoch, state, n_epochs)


@functools.partial(jax.jit, static_argnames=("training", "several"))
def start_training(
    training: NetworkTraining, keys: Keys, data: PyTree, units: Units, *, several: bool
) -> TrainingState:
    """The states before the first epoch, one per key; `several` have data of their own."""
    axis = 0 if several else None
    return jax.vmap(training.initial, in_axes=(0, axis, axis))(keys, data, units)


@functools.partial(
    jax.jit, static_argnames=("training", "n_epochs", "several"), donate_argnames=("state",)
)
def train(
    training: NetworkTraining,
    state: TrainingState,
    keys: Keys,
    data: PyTree,
    units: Units,
    *,
    n_epochs: int,
    several: bool,
) -> tuple[TrainingState, dict[str, Float[Array, "s epochs"]]]:
    """Some epochs of every seed; `state` is consumed."""
    axis = 0 if several else None
    advance = functools.partial(training.advance, n_epochs=n_epochs)
    return jax.vmap(advance, in_axes=(0, 0, axis, axis))(state, keys, data, units)


class NetworkFit:
    """Training of a network energy, for several seeds side by side.

    Every array of a state carries a leading seed axis. Given a sequence of problems that differ in
    nothing but the numbers, each has a network of its own, and a key of its own in `initial`. A batch
    holds all examples where there are fewer than `batch_size`.
    """

    absurd = ABSURD
    """The loss from which on an epoch is not sound (see `divergence`)."""

    def __init__(self, problem: "Problem | Sequence[Problem]", settings: NetworkSettings):
        self._several = not isinstance(problem, Problem)
        problems = [problem] if isinstance(problem, Problem) else list(problem)
        self.settings = dataclasses.replace(
            settings,
            batch_size=min(settings.batch_size, n_examples(problems[0])),
            hidden=tuple(settings.hidden),
        )
        trainings = [self._training(p) for p in problems]
        if len({(t, p.scheme, _shapes(p)) for t, p in zip(trainings, problems, strict=True)}) > 1:
            raise ValueError("problems that are trained side by side must have one shape")
        self.training, self.scheme = trainings[0], problems[0].scheme
        self.origin: Array | None
        self.start: Array | None
        if self._several:
            self.origin, self.start = _common_origin([p.snapshots for p in problems])
        else:
            self.origin, self.start = problems[0].snapshots.origin, problems[0].snapshots.start
        betas = [0.0 if p.internal is None else p.internal.beta for p in problems]
        data = [
            (p.snapshots.times, self._data(p), data_units(p.snapshots, p.conditions, beta))
            for p, beta in zip(problems, betas, strict=True)
        ]
        self.times: Array
        self.data: PyTree
        self.units: Units
        self.times, self.data, self.units = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *data) if self._several else data[0]
        )

    def _training(self, problem: "Problem") -> NetworkTraining:
        return NetworkTraining(
            model=network_model(problem, self.settings),
            settings=self.settings,
            updates=-(-n_examples(problem) // self.settings.batch_size),
        )

    def _data(self, problem: "Problem") -> PyTree:
        """What the training program is given of a problem."""
        return problem.conditions

    @property
    def model(self) -> NetworkEnergy:
        """What is learned."""
        return self.training.model

    def initial(self, keys: Keys) -> TrainingState:
        """Random parameters, one set per key."""
        return start_training(self.training, keys, self.data, self.units, several=self._several)

    def compile(self, state: TrainingState, keys: Keys, n_epochs: int) -> None:
        """Makes the program of `advance` for this many epochs, without running it."""
        train.lower(
            self.training,
            state,
            keys,
            self.data,
            self.units,
            n_epochs=n_epochs,
            several=self._several,
        ).compile()

    def advance(
        self, state: TrainingState, keys: Keys, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Float[Array, "s epochs"]]]:
        """Trains every seed for some epochs; `state` is consumed. Returns it with the losses."""
        return train(
            self.training,
            state,
            keys,
            self.data,
            self.units,
            n_epochs=n_epochs,
            several=self._several,
        )

    def diverged(self, state: TrainingState) -> np.ndarray:
        """Whether each seed's parameters have ceased to be finite."""
        finite = [np.isfinite(leaf) for leaf in map(np.asarray, jax.tree.leaves(state.params))]
        return ~np.all([f.reshape(len(f), -1).all(axis=1) for f in finite], axis=0)

    def energies(self, state: TrainingState) -> FittedEnergy:
        """The energies of all seeds, stacked along the leading axis of every leaf."""
        constants, times, origin, start = self.units, self.times, self.origin, self.start
        if not self._several:
            fixed = (constants, times, origin, start)
            constants, times, origin, start = stack_copies(fixed, state.epoch.shape[0])
        # Copies: the state that these arrays come from is consumed by the next `advance`.
        return FittedEnergy(
            model=self.model,
            scheme=self.scheme,
            params=jax.tree.map(jnp.array, state.ema),
            constants=constants,
            times=times,
            origin=origin,
            start=start,
        )


def n_examples(problem: "Problem") -> int:
    """What an epoch passes over: the particles of the largest snapshot, or the couplings."""
    if problem.kind.parametrisation == "bilevel":
        return int(np.count_nonzero(np.asarray(problem.snapshots.weights), axis=1).max())
    return problem.conditions.point.shape[0]


def batch_warning(problem: "Problem", settings: NetworkSettings) -> str | None:
    """One line, where a batch would hold more than there is."""
    what = "particles" if problem.kind.parametrisation == "bilevel" else "couplings"
    return cut_batch(settings.batch_size, n_examples(problem), f"{what} of the data")


def network_fit(
    problem: "Problem", network: NetworkSettings, bilevel: BilevelSettings
) -> NetworkFit:
    """The training program of a solver that is trained."""
    if problem.kind.parametrisation != "bilevel":
        return NetworkFit(problem, network)
    from jkonet_star.bilevel import BilevelFit  # it builds on this module

    return BilevelFit(problem, network, bilevel)


def _common_origin(populations: Sequence[Snapshots]) -> tuple[Array | None, Array | None]:
    """Origins and starts, stacked; None where no population has one."""
    origins: list[Array | None] = [s.origin for s in populations]
    starts: list[Array | None] = [s.start for s in populations]

    def stacked(values: list[Array | None], zero: Array) -> Array | None:
        if all(value is None for value in values):
            return None
        return jnp.stack([zero if value is None else value for value in values])

    return stacked(origins, jnp.zeros(populations[0].dimension)), stacked(starts, jnp.zeros(()))


def _shapes(problem: "Problem") -> tuple:
    return tuple(leaf.shape for leaf in jax.tree.leaves(problem.conditions))


def stack_copies(tree: PyTree, n: int) -> PyTree:
    """The tree n times, along a new leading axis of every leaf."""
    return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], n, axis=0), tree)


def network_model(problem: "Problem", settings: NetworkSettings) -> NetworkEnergy:
    """The network energy of a prepared problem."""
    return NetworkEnergy(
        dimension=problem.snapshots.dimension,
        hidden=tuple(settings.hidden),
        activation=settings.activation,
        has_potential=problem.kind.potential,
        has_interaction=problem.kind.interaction,
        internal=problem.beta_source,
        time_varying=problem.kind.time_varying,
    )


def linear_model(
    kind: SolverKind, snapshots: Snapshots, settings: FeatureSettings
) -> tuple[LinearEnergy, PyTree]:
    """The linear drift of a solver, without an internal energy; its radial centres, and the units."""
    rng = np.random.default_rng(0)
    units = population_units(snapshots)
    center, length = np.asarray(units.center, np.float64), float(units.length)
    present = np.asarray(snapshots.weights) > 0
    particles = (np.asarray(snapshots.points, np.float64)[present] - center) / length
    sample = particles[rng.permutation(len(particles))[:KMEANS_SAMPLE]]
    differences = sample - sample[rng.permutation(len(sample))]
    features: dict[str, Features | None] = {}
    constants: dict[str, PyTree] = {"units": units}
    for name, wanted, points, middle in (
        ("potential", kind.potential, sample, center),
        ("interaction", kind.interaction, differences, 0.0),
    ):
        features[name] = None
        if wanted:
            # Differences span twice the particles' range: a grid over all of it would have four times
            # the functions, which are no use where few pairs are that far apart.
            features[name], centers = make_features(
                settings, points, center=middle, length=length, extend=name == "potential"
            )
            constants[name] = jnp.asarray(centers, jnp.float32)
    model = LinearEnergy(
        dimension=snapshots.dimension,
        potential_features=features["potential"],
        interaction_features=features["interaction"],
    )
    return model, constants


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A solver's input, ready: the coupled snapshots in the form that every loss uses.

    Attributes:
        kind: what is learned.
        scheme: explicit, implicit or midpoint.
        snapshots: of the population.
        conditions: with the term of a given beta in the displacement.
        couplings: of the snapshots; the bilevel solvers draw batches along them.
        internal: the estimate of beta; None where there is none, or it is learned by first-order
            conditions.
        coupled: how each step was coupled.
        density: which densities the internal energy uses.
    """

    kind: SolverKind
    scheme: str
    snapshots: Snapshots
    conditions: FirstOrderConditions
    couplings: Couplings
    internal: "InternalEstimate | None" = None
    coupled: tuple[CoupledStep, ...] = ()
    density: DensityReport | None = None

    __repr__ = short_repr

    @property
    def beta_source(self) -> Internal:
        """Where beta comes from."""
        if not self.kind.internal:
            return "none"
        return "learned" if self.internal is None else "given"


@checked
def prepare(
    snapshots: Snapshots,
    solver: str,
    *,
    key: Key,
    scheme: str = "auto",
    couplings: Couplings | None = None,
    densities: Densities | None = None,
    internal: InternalSettings = InternalSettings(),  # noqa: B008 (frozen)
    coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    density_settings: DensitySettings = DensitySettings(),  # noqa: B008 (frozen)
    coupling_reports: Sequence[CouplingReport] = (),
) -> Problem:
    """Couples the snapshots, fits their densities and finds beta, as far as the solver needs it.

    Args:
        snapshots: of the population.
        solver: one of `SOLVERS`.
        key: of the couplings and densities that are not given.
        scheme: explicit, implicit or midpoint; `auto` is the solver's own.
        couplings: where already computed.
        densities: where already computed.
        internal: how beta is found.
        coupling_settings: used where `couplings` is absent.
        density_settings: used where `densities` is absent.
        coupling_reports: of `couple`, for `couplings` that it made.

    Raises:
        ValueError: an unknown solver or scheme, an internal energy without a density, couplings or
            densities of other snapshots.
    """
    scheme = scheme_of(scheme, solver)
    kind = SOLVERS[solver]
    if densities is not None and densities.dimension != snapshots.dimension:
        raise ValueError(
            f"the densities have dimension {densities.dimension}, the snapshots "
            f"{snapshots.dimension}"
        )
    if couplings is not None:
        check_couplings(couplings, snapshots)
    # Nothing that is drawn along the rows may depend on their order.
    snapshots, rank = in_order(snapshots)
    reports: Sequence[CouplingReport] = coupling_reports
    if couplings is not None:
        couplings = moved_couplings(couplings, rank)
    else:
        couplings, reports = couple(snapshots, coupling_settings, key=jax.random.fold_in(key, 2))
    problem = functools.partial(
        Problem,
        kind=kind,
        scheme=scheme,
        snapshots=snapshots,
        couplings=couplings,
        coupled=coupled_steps(couplings, snapshots, reports),
    )
    if not kind.internal:
        return problem(conditions=first_order_conditions(snapshots, couplings, None, scheme))
    if densities is None:
        densities = fit_densities(snapshots, density_settings, key=jax.random.fold_in(key, 3))
        if densities is None:
            raise ValueError(
                f"solver {solver!r} learns an internal energy and needs densities, "
                "but n_gmm_components is 0"
            )
    problem = functools.partial(problem, density=density_report(densities))
    conditions = first_order_conditions(snapshots, couplings, densities, scheme)
    if internal.beta_estimator == "first-order":
        return problem(conditions=conditions)
    from jkonet_star.internal_energy import estimate_internal  # SciPy's trees, needed here only

    model, constants = linear_model(kind, snapshots, FeatureSettings())
    # A few hundred unknowns: more threads than one would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        estimate = estimate_internal(model, constants, snapshots, regime=internal.beta_estimator)
    return problem(
        conditions=with_known_beta(
            conditions, estimate.beta, paired=estimate.paired, scheme=scheme
        ),
        internal=estimate,
    )


def solve_linear(
    problem: Problem, settings: FeatureSettings
) -> tuple[FittedEnergy, ClosedFormReport]:
    """The closed-form energy of a prepared problem.

    Raises:
        ValueError: the settings ask for more features than fit into memory.
    """
    check_memory(settings.memory_needs_in(problem.snapshots.dimension))
    model, constants = linear_model(problem.kind, problem.snapshots, settings)
    model = dataclasses.replace(model, internal=problem.beta_source)
    params, report = fit_linear(
        model, constants, problem.conditions, regularization=settings.regularization
    )
    if problem.internal is not None:
        params = {**params, "internal": jnp.asarray(problem.internal.beta, jnp.float32)}
    energy = FittedEnergy(
        model=model,
        scheme=problem.scheme,
        params=params,
        constants=constants,
        times=problem.snapshots.times,
        origin=problem.snapshots.origin,
        start=problem.snapshots.start,
    )
    return energy, report


@checked
def fit(
    snapshots: Snapshots,
    solver: str = "jkonet-star-potential",
    *,
    key: Key | Keys,
    scheme: str = "auto",
    couplings: Couplings | None = None,
    densities: Densities | None = None,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 (frozen)
    bilevel: BilevelSettings = BilevelSettings(),  # noqa: B008 (frozen)
    features: FeatureSettings = FeatureSettings(),  # noqa: B008 (frozen)
    internal: InternalSettings = InternalSettings(),  # noqa: B008 (frozen)
    coupling_settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    density_settings: DensitySettings = DensitySettings(),  # noqa: B008 (frozen)
    on_progress: Progress | None = None,
) -> FittedEnergy:
    """Learns the energy of a population.

    Args:
        snapshots: of `snapshots_from_arrays`, or simulated.
        solver: one of `jkonet_star.SOLVERS`.
        key: of all randomness. An array of keys trains one network per key in a single program, and
            every leaf of the result gains a leading axis.
        scheme: explicit, implicit or midpoint (see `objectives`); `auto` is the solver's own, explicit
            for all but the bilevel ones.
        couplings: where already computed.
        densities: where already computed.
        network: of the network solvers.
        bilevel: of the bilevel solvers, beside `network`.
        features: of the linear solvers.
        internal: how beta is found, by the solvers that learn it.
        coupling_settings: used where `couplings` is absent.
        density_settings: used where `densities` is absent.
        on_progress: called about ten times during training.

    Returns:
        The learned energy. Where training diverged it is that of the last sound epoch, and its
        `diverged` says since when.

    Raises:
        ValueError: unknown names, shapes or dimensions that do not fit.

    Warns (UserWarning):
        Training diverged; the energy does not explain how the population moves (see `diagnostics`);
        outliers decide the fit; a batch would exceed the data and is cut; several keys for a solver
        without randomness.
    """
    single = key.ndim == 0
    keys = key[None] if single else key
    if not len(keys):
        raise ValueError("fit needs at least one key")
    problem = prepare(
        snapshots,
        solver,
        scheme=scheme,
        key=keys[0],
        couplings=couplings,
        densities=densities,
        internal=internal,
        coupling_settings=coupling_settings,
        density_settings=density_settings,
    )
    said: list[str] = []
    _warn(outlier_warning(outliers(snapshots)), said)
    diverged: tuple[int | None, ...] = (None,) * len(keys)
    losses = batch_size = closed_form = explained = None
    if problem.kind.parametrisation == "linear":
        if not single:
            line = f"solver {solver!r} has no randomness: the {len(keys)} keys give the same energy"
            _warn(line, said)
        energy, closed_form = solve_linear(problem, features)
        energies = stack_copies(energy, len(keys))
    else:
        _warn(batch_warning(problem, network), said)
        training = network_fit(problem, network, bilevel)
        energies, losses = _train(training, keys, on_progress)
        diverged = tuple(first_unsound(own, absurd=training.absurd) for own in losses)
        batch_size = training.settings.batch_size
        _warn(divergence_warning(diverged), said)
    if not any(diverged):
        explained = explanation(problem, energies)
        _warn(explained.warning(), said)
    report = fit_report(
        problem,
        solver,
        diverged=diverged,
        losses=losses,
        batch_size=batch_size,
        closed_form=closed_form,
        explained=explained,
        warnings=said,
    )
    energies = energies.with_report(report)
    return energies.member(0) if single else energies


def _train(
    training: NetworkFit, keys: Keys, on_progress: Progress | None
) -> tuple[FittedEnergy, Float[np.ndarray, "s epochs"]]:
    """The energies, and the losses."""
    epochs = training.settings.epochs
    state = training.initial(keys)
    chunk = -(-epochs // PROGRESS_CALLS)
    losses = []
    for start in range(0, epochs, chunk):
        stop = min(start + chunk, epochs)
        state, scalars = training.advance(state, keys, stop - start)
        losses.append(np.asarray(scalars["loss"]))
        if on_progress is not None:
            on_progress(stop, jax.tree.map(jnp.mean, scalars))
    return training.energies(state), np.concatenate(losses, axis=1)


def _warn(line: str | None, said: list[str]) -> None:
    """Says a line, where there is one, and adds it to what was said."""
    if line is not None:
        warnings.warn(line, stacklevel=3)
        said.append(line)
