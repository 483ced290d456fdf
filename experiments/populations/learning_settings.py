"""What the solvers may be told, in one piece: each takes the part that concerns it. Imports no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from data_generation.scripts.command_line import define_flags, settings_from_flags
from experiments.run.settings import changed
from jkonet_star.settings import (
    BilevelSettings,
    BootstrapSettings,
    CirculationSettings,
    FeatureSettings,
    GrowthChoice,
    InternalSettings,
    NetworkSettings,
    RefinementSettings,
)
from jkonet_star.solvers.registry import AUTO, SOLVERS, with_circulation

if TYPE_CHECKING:
    from jkonet_star.solvers.interface import Solver


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Hyper-parameters of every kind of solver.

    Attributes:
        internal: of the solvers that learn an internal energy.
        network: of the network energies.
        features: of the linear energies, and of those with which beta is found.
        bilevel: of the bilevel solvers, beside `network`.
        refinement: of any energy, after it was learned.
        circulation: of the network and the linear energies.
        bootstrap: of these, too.
        growth: beside any energy.
    """

    internal: InternalSettings = InternalSettings()
    network: NetworkSettings = NetworkSettings()
    features: FeatureSettings = FeatureSettings()
    bilevel: BilevelSettings = BilevelSettings()
    refinement: RefinementSettings = RefinementSettings()
    circulation: CirculationSettings = CirculationSettings()
    bootstrap: BootstrapSettings = BootstrapSettings()
    growth: GrowthChoice = GrowthChoice()

    def __post_init__(self):
        if self.growth != GrowthChoice() and not self.growth.growth:
            raise ValueError("settings of growth need --growth")

    def of(self, solver: str) -> tuple[Any, ...]:
        """The parts that decide what a solver learns: what is recorded of a run."""
        entry = SOLVERS[solver]
        learner = tuple(getattr(self, name, kind()) for name, kind in entry.settings.items())
        if self.refinement != RefinementSettings():
            learner = (*learner, self.refinement)
        if self.circulation != CirculationSettings():
            learner = (*learner, self.circulation)
        if self.bootstrap != BootstrapSettings():
            learner = (*learner, self.bootstrap)
        if self.growth.growth:
            learner = (*learner, self.growth)
        if not entry.terms.internal:
            return learner
        first_order = self.internal.beta_estimator == "first-order"
        if first_order or self.features == FeatureSettings():
            return (*learner, self.internal)
        # Beta is found with them, whatever the energies are.
        return (*learner, self.internal, self.features)

    def unused(self, *solvers: str) -> list[str]:
        """Names of hyper-parameters that are given, by flags, and concern none of the solvers."""
        used = [part for solver in solvers for part in self.of(solver)]
        if not self.refinement.refine and AUTO not in solvers:
            used = [part for part in used if part is not self.refinement]
        parts = [part for part in vars(self).values() if part not in used]
        return [
            name
            for part in parts
            for name in changed(part, [field.name for field in dataclasses.fields(part)])
        ]

    def masses_of(self, metadata: Mapping[str, Any]) -> list[float] | None:
        """Of a dataset's whole population, where they are known and growth is learned."""
        return metadata.get("masses") if self.growth.growth else None

    def solver(self, name: str) -> "Solver":
        """The solver of a name, with its part of these.

        Raises:
            ValueError: it has no circulation, and is to have one.
        """
        made = SOLVERS[name].make(**{part: getattr(self, part) for part in PARTS})
        return with_circulation(made) if self.circulation.circulation else made


PARTS: dict[str, type] = {
    field.name: type(field.default) for field in dataclasses.fields(LearningSettings)
}


def define_learning_flags(into: flags.FlagValues) -> flags.FlagValues:
    """One flag per hyper-parameter of any solver."""
    for part in PARTS.values():
        define_flags(part, into=into)
    return into


def learning_from_flags(values: flags.FlagValues) -> LearningSettings:
    """The hyper-parameters that the parsed flags describe."""
    parts: dict[str, Any] = {
        name: settings_from_flags(kind, values) for name, kind in PARTS.items()
    }
    return LearningSettings(**parts)
