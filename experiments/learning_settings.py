"""What the solvers may be told, in one piece: each takes the part that concerns it. Imports no JAX."""

import dataclasses
from typing import Any

from absl import flags

from data_generation.command_line import define_flags, settings_from_flags
from jkonet_star.settings import (
    SOLVERS,
    BilevelSettings,
    FeatureSettings,
    InternalSettings,
    NetworkSettings,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Hyper-parameters of every kind of solver.

    Attributes:
        internal: of the solvers that learn an internal energy.
        network: of the network energies.
        features: of the linear energies.
        bilevel: of the bilevel solvers, beside `network`.
    """

    internal: InternalSettings = InternalSettings()
    network: NetworkSettings = NetworkSettings()
    features: FeatureSettings = FeatureSettings()
    bilevel: BilevelSettings = BilevelSettings()

    def of(self, solver: str) -> tuple[Any, ...]:
        """The parts that decide what a solver learns: what is recorded of a run."""
        kind = SOLVERS[solver]
        if kind.parametrisation == "bilevel":
            return (self.network, self.bilevel)
        learner = self.network if kind.parametrisation == "network" else self.features
        return (learner, self.internal) if kind.internal else (learner,)


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
