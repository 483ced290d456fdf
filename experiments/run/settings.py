"""What every script is told of its run, and the JKOnet* scripts of theirs. Imports no JAX."""

import dataclasses
from typing import Annotated, Literal

from diffusions.checks import (
    Bounds,
    Count,
    PathText,
    Seed,
    check_fields,
    check_folder_name,
    one_of,
    shown,
)
from jkonet_star.settings import Scheme
from jkonet_star.solvers.registry import SOLVERS, scheme_of

EvaluationPopulation = Literal["test_data", "train_data"]
WassersteinOrder = Annotated[int, Bounds(1, 2)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSettings:
    """Where a run goes, and what becomes of an older one there.

    Attributes:
        run_name: folder of the run below runs_dir; absent, named after what it does.
        runs_dir: where runs go.
        resume: continue the run of this name where it was interrupted.
        overwrite: replace a run of this name.
        plots: draw the figures.
        wandb: also log to Weights & Biases (extra `track`).
    """

    run_name: str | None = None
    runs_dir: PathText = "runs"
    resume: bool = False
    overwrite: bool = False
    plots: bool = True
    wandb: bool = False

    def __post_init__(self):
        check_fields(self)
        if self.resume and self.run_name is None:
            raise ValueError("resume needs run_name, the run to continue")
        if self.resume and self.overwrite:
            raise ValueError("resume continues a run and overwrite deletes it: give one of them")
        if self.run_name is not None:
            check_folder_name("run_name", self.run_name)


FOLDER_FIELDS = tuple(field.name for field in dataclasses.fields(FolderSettings))
"""Fields that say nothing of a run's results, so that a resumed run may have others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(FolderSettings):
    """What every script with one random seed shares.

    Attributes:
        seed: random seed.
    """

    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(FolderSettings):
    """What a training run does.

    Attributes:
        solver: which energies are learned, and how.
        dataset: name of a dataset in data_dir, or path of one; absent, the Styblinski-Tang
            demonstration, generated where it is missing.
        data_dir: where named datasets are.
        scheme: explicit, implicit or midpoint; the learned energy predicts in the same one. auto is
            the solver's own: implicit for jkonet, jkonet-vanilla and jkonet-monge-gap, else explicit.
        seeds: random seeds, trained side by side in one program.
        eval: the population that metrics are computed on, test_data or train_data.
        eval_every: epochs between evaluations, each followed by a checkpoint.
        wasserstein_order: 1 or 2, of the reported distances.
    """

    solver: str = "jkonet-star-potential"
    dataset: str | None = None
    data_dir: PathText = "data"
    scheme: Scheme | Literal["auto"] = "auto"
    seeds: Annotated[tuple[Seed, ...], Bounds(1, 1000)] = (0,)
    eval: EvaluationPopulation = "test_data"
    eval_every: Count = 100
    wasserstein_order: WassersteinOrder = 1

    def __post_init__(self):
        super().__post_init__()
        one_of("solver", self.solver, tuple(SOLVERS))
        object.__setattr__(self, "scheme", scheme_of(self.scheme, self.solver))
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different, got {shown(self.seeds)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What an evaluation does.

    Attributes:
        run: folder of a finished run.
        dataset: another dataset, by name or path; absent, the one of the run.
        data_dir: where named datasets are.
        eval: the population, test_data or train_data.
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
