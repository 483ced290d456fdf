"""What a training, an evaluation and an annotation are told. Imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from data_generation.formats.plain_numbers import pairs
from data_generation.populations.dataset_place import dataset_place
from diffusions.checks import (
    Bounds,
    Count,
    Natural,
    PathText,
    Seed,
    check_fields,
    one_of,
    shown,
)
from diffusions.late_imports import check_extra
from experiments.run.place import dataset_of_run
from experiments.run.settings import FolderSettings
from jkonet_star.settings import Scheme
from jkonet_star.solvers.registry import SOLVERS, scheme_of

EvaluationPopulation = Literal["test_data", "train_data"]
WassersteinOrder = Annotated[int, Bounds(1, 2)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(FolderSettings):
    """What a training run does.

    Attributes:
        solver: which energies are learned, and how.
        dataset: name of a dataset in data_dir, or path of one; absent, the Styblinski-Tang
            demonstration, generated where it is missing.
        data_dir: where named datasets are.
        scheme: of the time step; the learned energy predicts in the same one. auto is
            the solver's own: implicit for jkonet, jkonet-vanilla and jkonet-monge-gap, else explicit.
        seeds: random seeds, trained side by side in one program.
        eval: the population that metrics are computed on.
        eval_every: epochs between evaluations, each followed by a checkpoint; absent, a tenth of all,
            or half where an interaction is learned, whose evaluation takes all pairs of particles.
        wasserstein_order: 1 or 2, of the reported distances.
    """

    solver: str = dataclasses.field(default="jkonet-star-potential", metadata={"names": SOLVERS})
    dataset: str | None = None
    data_dir: PathText = "data"
    scheme: Scheme | Literal["auto"] = "auto"
    seeds: Annotated[tuple[Seed, ...], Bounds(1, 1000)] = (0,)
    eval: EvaluationPopulation = "test_data"
    eval_every: Count | None = None
    wasserstein_order: WassersteinOrder = 1

    def __post_init__(self):
        super().__post_init__()
        one_of("solver", self.solver, tuple(SOLVERS))
        object.__setattr__(self, "scheme", scheme_of(self.scheme, self.solver))
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different, got {shown(self.seeds)}")

    def check_inputs(self) -> None:
        """Raises ValueError where the dataset is missing, too."""
        super().check_inputs()
        if self.dataset is not None:
            dataset_place(self.dataset, self.data_dir)

    @property
    def seeds_in_words(self) -> str:
        """All of them."""
        return f"seeds {','.join(map(str, self.seeds))}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What an evaluation does.

    Attributes:
        run: folder of a finished run.
        dataset: another dataset, by name or path; absent, the one of the run.
        data_dir: where named datasets are.
        eval: the population.
        wasserstein_order: 1 or 2.
        plots: draw the figures.
        output: file of the result, with the figures in a folder `<stem>_plots` beside it; absent,
            `evaluation.json` in the run's folder.
    """

    run: str | None = None
    dataset: str | None = None
    data_dir: PathText = "data"
    eval: EvaluationPopulation = "test_data"
    wasserstein_order: WassersteinOrder = 1
    plots: bool = True
    output: PathText | None = None

    def __post_init__(self):
        if not self.run:
            raise ValueError("--run is required: the folder of a run, such as runs/demo")
        check_fields(self)

    def check_inputs(self) -> None:
        """Raises ValueError where the run or the dataset is missing."""
        learned_from = dataset_of_run(str(self.run))
        dataset = self.dataset or learned_from
        if dataset is not None:
            dataset_place(dataset, self.data_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifySettings:
    """Of which run it is asked what its data can tell.

    Attributes:
        run: folder of a finished run of experiments.train.
        data_dir: where the run's dataset is, if it is not where the run found it.
        seed_index: which of the run's seeds, counted from 0.
        plots: draw the figure.
    """

    run: str | None = None
    data_dir: PathText = "data"
    seed_index: Natural = 0
    plots: bool = True

    def __post_init__(self):
        if not self.run:
            raise ValueError("--run is required: the folder of a run, such as runs/demo")
        check_fields(self)

    def check_inputs(self) -> None:
        """Raises ValueError where the run or its dataset is missing."""
        dataset = dataset_of_run(str(self.run))
        if dataset is not None:
            dataset_place(dataset, self.data_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotateSettings:
    """Which cells are annotated with which energy.

    Attributes:
        run: folder of a finished run of experiments.train.
        h5ad: AnnData file with the cells.
        out: AnnData file to write; it must not exist.
        data_dir: where the run's dataset is, if it is not where the run found it.
        time_key: entry of `obs` with the times; absent, that of the run's dataset.
        time_map: times of labels, such as early=0,late=2.5; absent, that of the run's dataset.
        representation: entry of `obsm`; absent, that of the run's dataset.
        seed_index: which of the run's seeds, counted from 0.
        prefix: of the names that are written.
    """

    run: str | None = None
    h5ad: str | None = None
    out: PathText | None = None
    data_dir: PathText = "data"
    time_key: str | None = None
    time_map: str | None = None
    representation: str | None = None
    seed_index: Natural = 0
    prefix: str = "jkonet"

    def __post_init__(self):
        for name in ("run", "h5ad", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required")
        check_fields(self)
        pairs(self.time_map, "time_map")
        if not self.prefix.isidentifier():
            raise ValueError(f"prefix must be a name, got {shown(self.prefix)}")

    def check_inputs(self) -> None:
        """Raises ValueError where the run or the cells are missing, ImportError where the extra is."""
        check_extra("anndata", str(self.h5ad))
        dataset_of_run(str(self.run), "holds no energy: it is unfinished, or no run of a solver")
        source = Path(str(self.h5ad))
        if source.suffix.lower() == ".zarr":
            raise ValueError(
                f"{source}: is of zarr; anndata.read_zarr(FOLDER).write_h5ad(FILE) makes .h5ad of it"
            )
        if not source.is_file():
            raise ValueError(f"{source}: no such file")
