"""What a reproduction is told, and the names in it. Imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from data_generation.populations.settings import DataSettings
from diffusions.checks import (
    Bounds,
    Count,
    NotNegative,
    PathText,
    Rounds,
    Seed,
    check_fields,
    check_folder_name,
    one_of,
)
from experiments.populations.learning_settings import LearningSettings
from jkonet_star.settings import NetworkSettings
from jkonet_star.solvers.registry import SOLVERS

Experiment = Literal[
    "potentials", "dimensions", "functionals", "couplings", "embryoid-body", "schemes"
]
EXPERIMENTS: tuple[str, ...] = get_args(Experiment)

POTENTIALS = (
    "double_exp",
    "styblinski_tang",
    "rotational",
    "relu",
    "flat",
    "beale",
    "friedman",
    "moon",
    "ishigami",
    "three_hump_camel",
    "bohachevsky",
    "holder_table",
    "cross_in_tray",
    "oakley_ohagan",
    "sphere",
)
"""The paper's fifteen functionals, in its order."""

SUBSTEPS = {"beale": 20}
"""Steps per snapshot where one of the paper's throws the particles out: to 1e17 in five steps."""

OF_ONE_EXPERIMENT = {
    "reference": "potentials",
    "dimensions": "dimensions",
    "particle_counts": "dimensions",
    "betas": "functionals",
    "embryoid_body": "embryoid-body",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Which experiment, and what departs from its protocol.

    Attributes:
        experiment: potentials (section 4.1), dimensions (4.2), functionals (4.3), couplings (the
            ablation), embryoid-body (4.4), schemes (explicit, implicit, midpoint).
        quick: a few small runs of a few epochs, to see that it works; its numbers mean nothing.
        potentials: of the simulations; absent, the experiment's.
        solvers: absent, the experiment's.
        seeds: of the training; absent, the experiment's.
        epochs: absent, the experiment's.
        dimensions: for dimensions; absent, 10 to 50.
        particle_counts: for dimensions; absent, 1000 to 10,000.
        betas: for functionals; absent, 0, 0.1 and 0.2.
        reference: folder of snapshots NAME.npz (`train`, `test`, `dt`) to use, where it has a
            potential's, in place of simulated ones; for potentials.
        embryoid_body: file of the embryoid body's principal components (.npz), which is not part of
            the project.
        data_dir: folder that holds the dataset folders.
        sweep_name: folder below runs_dir; absent, named after the experiment.
    """

    experiment: Experiment | None = None
    quick: bool = False
    potentials: Annotated[tuple[str, ...], Bounds(1, 100)] | None = None
    solvers: Annotated[tuple[str, ...], Bounds(1, 100)] | None = None
    seeds: Annotated[tuple[Seed, ...], Bounds(1, 1000)] | None = None
    epochs: Rounds | None = None
    dimensions: Annotated[tuple[Count, ...], Bounds(1, 100)] | None = None
    particle_counts: Annotated[tuple[Count, ...], Bounds(1, 100)] | None = None
    betas: Annotated[tuple[NotNegative, ...], Bounds(1, 100)] | None = None
    reference: str | None = None
    embryoid_body: str | None = None
    data_dir: PathText = "data"
    sweep_name: str | None = None

    def __post_init__(self):
        if not self.experiment:
            raise ValueError(f"--experiment is required: one of {', '.join(EXPERIMENTS)}")
        check_fields(self)
        if self.sweep_name is not None:
            check_folder_name("sweep_name", self.sweep_name)
        for solver in self.solvers or ():
            one_of("solver", solver, tuple(SOLVERS))
        for name, experiment in OF_ONE_EXPERIMENT.items():
            if getattr(self, name) is not None and self.experiment != experiment:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} is for --experiment={experiment}")
        if self.experiment == "embryoid-body" and self.potentials is not None:
            raise ValueError(
                "--potentials is of simulations; --experiment=embryoid-body reads a file"
            )
        if self.experiment == "embryoid-body" and self.embryoid_body is None:
            raise ValueError(
                "--experiment=embryoid-body needs --embryoid-body=FILE, the principal components "
                "published with TrajectoryNet (eb_velocity_v5.npz)"
            )

    def check_inputs(self) -> None:
        """Raises ValueError where the reference or the file of the embryoid body is missing."""
        if self.reference is not None and not list(Path(self.reference).glob("*.npz")):
            raise ValueError(f"--reference={self.reference} holds no snapshots NAME.npz")
        if self.embryoid_body is not None:
            self.cells_one_step_ahead.check_inputs()

    @property
    def cells_one_step_ahead(self) -> DataSettings:
        """The embryoid body by the protocol that predicts a day from the day before."""
        file = Path(str(self.embryoid_body))
        return DataSettings(
            load_from_file=str(file),
            split_population=True,
            test_ratio=0.4,
            n_gmm_components=0,
            batch_size=-1,
            dataset_name=f"{file.stem}_one_step_ahead",
            data_dir=self.data_dir,
        )

    @property
    def name(self) -> str:
        """Of the sweep's folder."""
        if self.sweep_name is not None:
            return self.sweep_name
        return f"{self.experiment}-quick" if self.quick else str(self.experiment)

    def or_default(self, field: str, full: tuple, quick: tuple) -> tuple:
        """A field as given, or the experiment's."""
        given = getattr(self, field)
        return given if given is not None else (quick if self.quick else full)

    def epochs_or(self, full: int | None) -> int | None:
        """Epochs as given, or the experiment's."""
        if self.epochs is not None:
            return self.epochs
        return 4 if self.quick else full

    def simulation(self, potential: str, **more: Any) -> DataSettings:
        """A simulated population; `more` goes before what `quick` makes small."""
        own: dict[str, Any] = {"potential": potential, "data_dir": self.data_dir}
        own["substeps"] = SUBSTEPS.get(potential, 1)
        small = {"n_particles": 100, "n_timesteps": 2} if self.quick else {}
        return DataSettings(**{**own, **small, **more})

    def learning(self) -> LearningSettings:
        """What the solvers are told: nothing but their defaults, if it is not to be quick."""
        batch_size = 100 if self.quick else None
        return LearningSettings(
            network=NetworkSettings(epochs=self.epochs_or(None), batch_size=batch_size)
        )
