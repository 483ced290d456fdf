"""Network energies that are learned from whole populations, and not from pairs of particles."""

import dataclasses
from typing import Any

import flax.struct
import numpy as np

from diffusions.training import cut_batch
from diffusions.typing import Array, Float
from jkonet_star.energies.models import Units
from jkonet_star.settings import Optimizer
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.bilevel_batches import BilevelData, bilevel_data
from jkonet_star.solvers.interface import Frame, frame
from jkonet_star.solvers.network import Network
from jkonet_star.solvers.problem import Problem
from jkonet_star.units import data_units


@flax.struct.dataclass
class PopulationData:
    """What the training is given."""

    n_particles: int = flax.struct.field(pytree_node=False)  # of the largest snapshot
    frame: Frame
    units: Units
    batches: BilevelData

    @property
    def normalised(self) -> Float[Array, "t n d"]:
        """The particles, u = (x - c) / l."""
        units = self.units
        return (self.batches.points - units.center[None, None]) / units.length

    @property
    def ratio(self) -> Float[Array, "steps"]:
        """The typical displacement of each step, r = s tau / l."""
        return self.units.speed * self.batches.tau / self.units.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationNetwork(Network):
    """Network energies by batches of particles of every snapshot; an epoch takes each particle once."""

    @property
    def default_optimizer(self) -> Optimizer:
        """Adam: these objectives are of few particles at a time, and of an inner problem cut short."""
        return "adam"

    @property
    def may_circulate(self) -> bool:
        """Not where nothing but an energy is compared."""
        return False

    def settled(self, problem: Problem) -> "PopulationNetwork":
        """As it is: its batches are of particles."""
        del problem
        return self

    def batches(self, data: PopulationData) -> tuple[int, int]:
        """Size and number of batches."""
        size = min(self.training.batch_size, data.n_particles)
        return size, -(-data.n_particles // size)

    def remark(self, problem: Problem) -> str | None:
        """That a batch is cut."""
        return cut_batch(
            self.training.batch_size, particles_of(problem.snapshots), "particles of the data"
        )

    def prepare(self, problem: Problem) -> tuple[PopulationData, dict[str, Any]]:  # type: ignore[override]
        """Snapshots, couplings, and units to learn in."""
        beta = 0.0 if problem.internal is None else problem.internal.beta
        data = PopulationData(
            n_particles=particles_of(problem.snapshots),
            frame=frame(problem).replace(substeps=1),  # type: ignore[attr-defined]
            units=data_units(problem.snapshots, problem.conditions, beta),
            batches=bilevel_data(
                problem.snapshots,
                problem.couplings,
                None if problem.growth is None else problem.growth.source_weights,
            ),
        )
        return data, self.facts(self.batches(data)[0])


def at_scheme(scheme: str, values: Float[Array, "t ..."]) -> Float[Array, "steps ..."]:
    """Of values at every snapshot, what a scheme takes of each step: its start, its end or the mean."""
    if scheme == "explicit":
        return values[:-1]
    if scheme == "implicit":
        return values[1:]
    return 0.5 * (values[:-1] + values[1:])


def particles_of(snapshots: Snapshots) -> int:
    """Of the largest snapshot."""
    return int(np.count_nonzero(np.asarray(snapshots.weights), axis=1).max())
