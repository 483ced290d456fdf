"""A sweep: the grid of its runs, from flags or from a YAML file. Imports no JAX."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from absl import flags

from data_generation.formats.plain_numbers import plain_float
from data_generation.populations.dataset_place import dataset_place
from data_generation.populations.settings import DataSettings, InternalEnergy
from diffusions.checks import (
    Bounds,
    Count,
    Natural,
    NotNegative,
    PathText,
    Positive,
    Rounds,
    Seed,
    check_fields,
    check_folder_name,
    conform,
    one_of,
    shown,
)
from experiments.populations.learning_settings import LearningSettings
from experiments.populations.settings import EvaluationPopulation, WassersteinOrder
from experiments.run.settings import DeviceSettings, changed
from experiments.sweeps.grid_file import Entries, read_grids
from jkonet_star.settings import SCHEMES
from jkonet_star.solvers.registry import SOLVERS, scheme_of

Executor = Literal["local", "slurm"]
_SIMULATED = (
    *("potentials", "interactions", "betas", "dimensions", "particle_counts", "couplings"),
    *("substeps", "data_seeds", "internal"),
)
_OF_SLURM = ("jobs", "partition", "time_limit", "job_memory", "job_cores", "job_gpus")
MOST_RUNS = 100_000
GRIDS = Path(__file__).parents[1] / "grids"
"""Grids that ship with the project, found by their names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of these is a run; without a solver, a dataset to be made.

    Attributes:
        potentials: potential energies.
        interactions: interaction energies.
        betas: weights of the internal energy.
        dimensions: of the state space.
        particle_counts: particles of the training population.
        couplings: auto, exact, low-rank, semidiscrete, or Sinkhorn's epsilon, relative to the
            mean squared distance.
        substeps: Euler-Maruyama steps per dt.
        data_seeds: of the simulations.
        solvers: which energies are learned, and how.
        schemes: explicit, implicit, midpoint, or auto, the solver's own.
        seeds: of the training.
        internal: internal energy of the simulations; absent, wiener where beta is positive.
        datasets: names or paths of existing datasets, instead of simulated ones.
    """

    potentials: Annotated[tuple[str, ...], Bounds(1, 1000)] = ("styblinski_tang",)
    interactions: Annotated[tuple[str, ...], Bounds(1, 1000)] = ("none",)
    betas: Annotated[tuple[NotNegative, ...], Bounds(1, 1000)] = (0.0,)
    dimensions: Annotated[tuple[Count, ...], Bounds(1, 1000)] = (2,)
    particle_counts: Annotated[tuple[Count, ...], Bounds(1, 1000)] = (1000,)
    couplings: Annotated[tuple[str, ...], Bounds(1, 1000)] = ("auto",)
    substeps: Annotated[tuple[Rounds, ...], Bounds(1, 1000)] = (1,)
    data_seeds: Annotated[tuple[Seed, ...], Bounds(1, 1000)] = (0,)
    solvers: Annotated[tuple[str, ...], Bounds(0, 1000)] = dataclasses.field(
        default=("jkonet-star-potential",), metadata={"names": SOLVERS}
    )
    schemes: Annotated[tuple[str, ...], Bounds(1, 1000)] = ("auto",)
    seeds: Annotated[tuple[Seed, ...], Bounds(1, 1000)] = (0,)
    internal: InternalEnergy | None = None
    datasets: Annotated[tuple[str, ...], Bounds(0, 1000)] = ()

    def __post_init__(self):
        check_fields(self)
        for name in GRID_FIELDS:
            values = getattr(self, name)
            if isinstance(values, tuple) and len(set(values)) != len(values):
                raise ValueError(f"{name} names a value twice: {shown(values)}")
        for solver in self.solvers:
            one_of("solver", solver, tuple(SOLVERS))
        for scheme in self.schemes:
            one_of("scheme", scheme, ("auto", *SCHEMES))


GRID_FIELDS = tuple(field.name for field in dataclasses.fields(Grid))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """What all simulated datasets of a sweep share; as in `DataSettings`.

    Attributes:
        n_timesteps: steps between snapshots; there is one snapshot more.
        dt: time between snapshots.
        coupling_block: particles coupled at a time; negative couples each snapshot in one block.
        n_gmm_components: components of each snapshot's density; 0 fits no density.
        unpaired: makes each snapshot an independent simulation, so that no particle is seen twice.
        data_dir: folder that holds the dataset folders.
    """

    n_timesteps: Rounds = 5
    dt: Positive = 0.01
    coupling_block: int = 1000
    n_gmm_components: Natural = 10
    unpaired: bool = False
    data_dir: PathText = "data"

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionSettings(DeviceSettings):
    """How runs are carried out; it decides nothing of their results.

    Attributes:
        runs_dir: where sweeps go.
        batched: trains networks on data of one shape side by side in one program.
        memory_budget: GiB that the networks trained side by side, and their data, may take, and as
            much again for what is prepared at once.
        eval: the population that metrics are computed on.
        eval_every: epochs between evaluations, each followed by a checkpoint; absent, a tenth of all,
            or half where an interaction is learned, whose evaluation takes all pairs of particles.
        wasserstein_order: 1 or 2, of the reported distances.
        plots: draws the figures.
        executor: local runs here; slurm sends jobs to a cluster (extra `slurm`).
        jobs: of slurm, among which the runs are divided.
        partition: of slurm; absent, the cluster's default.
        time_limit: of a slurm job, in minutes.
        job_memory: of a slurm job, in GiB; 0 asks for nothing.
        job_cores: of a slurm job.
        job_gpus: of a slurm job.
    """

    runs_dir: PathText = "runs"
    batched: bool = True
    memory_budget: Positive = 2.0
    eval: EvaluationPopulation = "test_data"
    eval_every: Count | None = None
    wasserstein_order: WassersteinOrder = 1
    plots: bool = True
    executor: Executor = "local"
    jobs: Count = 4
    partition: str | None = None
    time_limit: Count = 240
    job_memory: NotNegative = 8.0
    job_cores: Count = 2
    job_gpus: Natural = 0

    @property
    def unused(self) -> list[str]:
        """Names of settings that are given, by flags, and that the executor has no use for."""
        return changed(self, _OF_SLURM if self.executor == "local" else ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """Which sweep.

    Attributes:
        grid: YAML file of one grid, or of several under `grids`, or the name of one that ships with
            the project; its entries are flags of this script, and the command line goes before them.
        sweep_name: folder below runs_dir; absent, the grid's name or `sweep`.
    """

    grid: str | None = None
    sweep_name: str | None = None

    def __post_init__(self):
        check_fields(self)
        if self.sweep_name is not None:
            check_folder_name("sweep_name", self.sweep_name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
        data: what to simulate or read, or the name or path of an existing dataset.
        data_dir: where named datasets are.
        solver: which energies are learned; absent, the dataset is only made.
        scheme: of the fit and the predictions.
        seed: of the training.
        variant: tells runs apart that differ in their hyper-parameters only.
        learning: hyper-parameters.
    """

    data: DataSettings | str
    data_dir: str = "data"
    solver: str | None = None
    scheme: str = "explicit"
    seed: int = 0
    variant: str = ""
    learning: LearningSettings = LearningSettings()

    @property
    def dataset_name(self) -> str:
        """Name of the dataset's folder."""
        return Path(self.data).name if isinstance(self.data, str) else self.data.name

    @property
    def dataset_path(self) -> Path:
        """The dataset's folder, as far as the settings say it."""
        if isinstance(self.data, DataSettings):
            return Path(self.data.data_dir) / self.data.name
        return Path(self.data)

    @property
    def name(self) -> str:
        """Of the run's folder."""
        if self.solver is None:
            return self.dataset_name
        parts = [self.solver, self.scheme, self.variant, self.dataset_name, f"seed_{self.seed}"]
        return "__".join(part for part in parts if part)

    @property
    def solver_name(self) -> str:
        """The solver of a run that has one; raises ValueError where data are made and nothing else."""
        if self.solver is None:
            raise ValueError(f"the run {self.name} makes data only")
        return self.solver


def cells_of(
    grids: Iterable[Grid], simulation: SimulationSettings, learning: LearningSettings
) -> list[Cell]:
    """Every run of the grids once, datasets in the outer loops.

    Raises:
        ValueError: what makes no dataset, named; or there are more than `MOST_RUNS` runs.
    """
    cells: dict[str, Cell] = {}
    for grid in grids:
        _check_number(grid)
        data: list[DataSettings | str] = list(grid.datasets) or _simulations(grid, simulation)
        runs: Sequence[tuple] = list(itertools.product(grid.solvers, grid.schemes, grid.seeds))
        for source in data:
            for solver, scheme, seed in runs or [(None, "explicit", 0)]:
                cell = Cell(
                    data=source,
                    data_dir=simulation.data_dir,
                    solver=solver,
                    scheme=scheme_of(scheme, solver) if solver else scheme,
                    seed=seed,
                    learning=learning,
                )
                cells.setdefault(cell.name, cell)
    return list(cells.values())


def check_datasets(cells: Iterable[Cell], sweep: Path) -> None:
    """Refuses a sweep of datasets by name where one is missing that a run still needs.

    Args:
        cells: the runs.
        sweep: the folder, which may be missing.

    Raises:
        ValueError: there is no such dataset; the near misses are named.
    """
    for cell in cells:
        if (
            isinstance(cell.data, str)
            and not (sweep / "runs" / cell.name / "summary.json").is_file()
        ):
            dataset_place(cell.data, cell.data_dir)


def simulated_in_vain(grids: Sequence[Grid], simulation: SimulationSettings) -> list[str]:
    """Names of settings of simulations that are given, by flags, where no grid has any."""
    if not grids or not all(grid.datasets for grid in grids):
        return []
    shared = [f.name for f in dataclasses.fields(simulation) if f.name != "data_dir"]
    return [*changed(grids[0], _SIMULATED), *changed(simulation, shared)]


def _check_number(grid: Grid) -> None:
    axes = [len(v) for name in GRID_FIELDS if isinstance(v := getattr(grid, name), tuple) and v]
    if math.prod(axes) > MOST_RUNS:
        raise ValueError(f"a grid may have {MOST_RUNS} runs, this one has {math.prod(axes)}")


def _simulations(grid: Grid, shared: SimulationSettings) -> list[DataSettings | str]:
    axes = (
        grid.potentials,
        grid.betas,
        grid.interactions,
        grid.dimensions,
        grid.particle_counts,
        grid.couplings,
        grid.substeps,
        grid.data_seeds,
    )
    found: list[DataSettings | str] = []
    for potential, beta, interaction, dimension, n, coupling, substeps, seed in itertools.product(
        *axes
    ):
        found.append(
            DataSettings(
                potential=potential,  # type: ignore[arg-type]
                beta=beta,
                internal=grid.internal or ("wiener" if beta > 0 else "none"),
                interaction=interaction,  # type: ignore[arg-type]
                dimension=dimension,
                n_particles=n,
                substeps=substeps,
                seed=seed,
                n_timesteps=shared.n_timesteps,
                dt=shared.dt,
                batch_size=shared.coupling_block,
                n_gmm_components=shared.n_gmm_components,
                unpaired=shared.unpaired,
                data_dir=shared.data_dir,
                **coupling_fields(coupling),
            )
        )
    return found


def coupling_fields(coupling: str) -> dict[str, Any]:
    """The fields of `DataSettings` for one word or number of the couplings' axis.

    Raises:
        ValueError: a number that is no epsilon; words are checked where they are used.
    """
    try:
        return {"sinkhorn": positive_number(coupling)}
    except ValueError:
        if coupling[:1].isdigit() or coupling[:1] in "+-.":
            raise ValueError(
                "couplings must be auto, exact, low-rank, semidiscrete or a positive epsilon, "
                f"got {coupling!r}"
            ) from None
    return {"coupling": coupling}


def positive_number(text: str) -> float:
    """The number; ValueError where it is none, or not positive."""
    return conform(plain_float(text), Positive, "epsilon")


def find_grid(name_or_path: str) -> Path:
    """The file of a grid.

    Raises:
        ValueError: there is none; those that ship are named.
    """
    for candidate in (Path(name_or_path), GRIDS / f"{name_or_path}.yaml"):
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(file.stem for file in GRIDS.glob("*.yaml")))
    raise ValueError(f"no grid file {name_or_path!r}; with the project come {shipped}")


def grids_from_flags(values: flags.FlagValues, grid: str | None) -> list[Grid]:
    """The grids of the parsed flags and of a file; what the command line gives goes first.

    Entries of the file that belong to no grid set their flags.

    Args:
        values: parsed flags.
        grid: the file or its name, if there is one.

    Raises:
        ValueError: an entry that is no flag, or holds what the flag does not accept.
    """
    given: dict[str, Any] = {name: values[name].value for name in GRID_FIELDS}
    if grid is None:
        return [Grid(**given)]
    file = find_grid(grid)
    shared, grids = read_grids(file)
    known = tuple(name for name in values if name not in ("grid", "debug"))

    def parsed(entries: Entries, accepted: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in entries.items():
            one_of(f"entry of {file}", name, accepted)
            try:
                text = ",".join(value) if isinstance(value, list) else value
                found[name] = values[name].parser.parse(text)
            except ValueError as error:
                raise ValueError(f"{file}: {name}: {error}") from error
        # `present` counts how often the command line gives a flag.
        return {name: value for name, value in found.items() if not values[name].present}

    common = parsed(shared, known)
    for name in common.keys() - set(GRID_FIELDS):
        values[name].value = common[name]
    axes = given | {name: common[name] for name in common.keys() & set(GRID_FIELDS)}
    return [Grid(**(axes | parsed(entries, GRID_FIELDS))) for entries in grids]
