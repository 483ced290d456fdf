"""JKOnet* with network energies: trained by stochastic gradients on the first-order conditions."""

import dataclasses
import functools
from types import NoneType
from typing import TYPE_CHECKING, Any

import flax.struct
import optax
from flax import linen as nn

from diffusions.keys import named_key
from diffusions.memory import check_memory
from diffusions.optimizers import soap
from diffusions.training import (
    TrainingState,
    cut_batch,
    initial_state,
    shuffled_batches,
    train_epochs,
)
from diffusions.typing import Array, Key, PyTree
from jkonet_star.energies.circulation import coordinate_planes
from jkonet_star.energies.models import NetworkEnergy, Units
from jkonet_star.fitted import FittedEnergy
from jkonet_star.settings import (
    BATCH_OF_MANY,
    EPOCHS_OF_MANY,
    MANY_COUPLINGS,
    NetworkSettings,
    NetworkTraining,
    Optimizer,
)
from jkonet_star.solvers.divergence import sound_epochs
from jkonet_star.solvers.first_order import FirstOrderConditions, compactly_ordered, jko_loss
from jkonet_star.solvers.interface import Frame, Solver, check_kinds, frame
from jkonet_star.solvers.registry import Terms
from jkonet_star.units import data_units

if TYPE_CHECKING:
    from jkonet_star.solvers.problem import Problem


def make_optimizer(training: NetworkTraining, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser, behind a clipped gradient."""
    rate: optax.ScalarOrSchedule = training.learning_rate
    if training.schedule == "cosine":
        steps = training.epochs * steps_per_epoch
        rate = optax.cosine_decay_schedule(training.learning_rate, steps)
    clipped = [optax.clip_by_global_norm(training.gradient_clip)] * bool(training.gradient_clip)
    kinds = {"soap": soap, "adam": optax.adamw if training.weight_decay else optax.adam}
    decay = {"weight_decay": training.weight_decay} if training.weight_decay else {}
    return optax.chain(*clipped, kinds[training.optimizer](rate, **decay))


@flax.struct.dataclass
class NetworkData:
    """What the training is given."""

    frame: Frame
    units: Units
    conditions: FirstOrderConditions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network(Solver):
    """Network energies.

        fit(snapshots, Network(potential=MyModule(), optimizer=optax.lion(1e-4)), key=key)

    Attributes:
        terms: what is learned.
        network: of the training. A batch holds all couplings where there are fewer.
        potential: an own Flax module of V, from (..., d), or (..., d + 1) with the time last, to
            (...); absent, the multilayer perceptron of `network`.
        interaction: likewise of U, from (..., d).
        optimizer: any of Optax; absent, that of `network`.
    """

    terms: Terms = Terms(potential=True)
    network: NetworkSettings = NetworkSettings()
    potential: nn.Module | None = None
    interaction: nn.Module | None = None
    optimizer: optax.GradientTransformation | None = None

    def __post_init__(self):
        check_kinds(
            self,
            terms=(Terms,),
            network=(NetworkSettings,),
            potential=(nn.Module, NoneType),
            interaction=(nn.Module, NoneType),
            optimizer=(optax.GradientTransformation, NoneType),
        )
        # Whatever sequence a user wrote: a program is found by the value.
        hidden = tuple(self.network.hidden)
        object.__setattr__(self, "network", dataclasses.replace(self.network, hidden=hidden))

    @property
    def default_optimizer(self) -> Optimizer:
        """SOAP. An optimiser of the user's own has Adam's epochs."""
        return "soap" if self.optimizer is None else "adam"

    @property
    def training(self) -> NetworkTraining:
        """That of the settings, with nothing absent."""
        return self.network.training(self.default_optimizer)

    @property
    def may_circulate(self) -> bool:
        """It may."""
        return True

    @property
    def epochs(self) -> int:
        """Of the settings, or the optimiser's."""
        return self.training.epochs

    def facts(self, batch_size: int) -> dict[str, Any]:
        """Of the training, for the report."""
        own, training = self.optimizer is not None, self.training
        return {
            "epochs": training.epochs,
            "batch_size": batch_size,
            "optimizer": None if own else training.optimizer,
            "learning_rate": None if own else training.learning_rate,
        }

    def model(self, data: Any) -> NetworkEnergy:
        """What is learned of data that have a `frame` and `units`."""
        return NetworkEnergy(
            dimension=data.units.center.shape[-1],
            hidden=self.network.hidden,
            activation=self.network.activation,
            has_potential=self.terms.potential,
            has_interaction=self.terms.interaction,
            internal=data.frame.internal,
            time_varying=self.terms.time_varying,
            circulation_planes=(
                coordinate_planes(data.units.center.shape[-1]) if self.terms.circulation else ()
            ),
            potential_module=self.potential,
            interaction_module=self.interaction,
        )

    def transformation(self, updates_per_epoch: int) -> optax.GradientTransformation:
        """The optimiser, for this many gradient steps in an epoch."""
        if self.optimizer is not None:
            return self.optimizer
        return make_optimizer(self.training, updates_per_epoch)

    def settled(self, problem: "Problem") -> "Network":
        """With fewer pairs of particles, where nobody says how many and there are enough."""
        network = self.network
        # Whoever says one of the two means it beside the other's usual value.
        absent = network.epochs is None and network.batch_size is None
        soap = self.optimizer is None and self.training.optimizer == "soap"
        many = problem.conditions.point.shape[0] >= MANY_COUPLINGS
        if not (self.terms.interaction and absent and soap and many):
            return self
        network = dataclasses.replace(network, epochs=EPOCHS_OF_MANY, batch_size=BATCH_OF_MANY)
        return dataclasses.replace(self, network=network)

    def _batch(self, n_pairs: int) -> tuple[int, optax.GradientTransformation]:
        size = min(self.training.batch_size, n_pairs)
        return size, self.transformation(-(-n_pairs // size))

    def check(self, dimension: int) -> None:
        """Raises ValueError for a network that does not fit into memory."""
        del dimension
        check_memory(self.network.memory_needs)

    def remark(self, problem: "Problem") -> str | None:
        """That a batch is cut."""
        n_pairs = problem.conditions.point.shape[0]
        return cut_batch(self.training.batch_size, n_pairs, "couplings of the data")

    def prepare(self, problem: "Problem") -> tuple[NetworkData, dict[str, Any]]:
        """The first-order conditions, and units to learn in."""
        beta = 0.0 if problem.internal is None else problem.internal.beta
        units = data_units(problem.snapshots, problem.conditions, beta)
        size, _ = self._batch(problem.conditions.point.shape[0])
        facts = self.facts(size)
        conditions = problem.conditions
        if self.terms.interaction and self.network.interaction_samples:
            conditions = compactly_ordered(conditions)
        return NetworkData(frame=frame(problem), units=units, conditions=conditions), facts

    def init(self, key: Key, data: NetworkData) -> TrainingState:
        """Random parameters."""
        _, optimizer = self._batch(data.conditions.point.shape[0])
        return initial_state(self.model(data).init(named_key(key, "initial")), optimizer)

    def advance(
        self, state: TrainingState, key: Key, data: NetworkData, n_epochs: int
    ) -> tuple[TrainingState, dict[str, Array]]:
        """Gradient steps of `objectives`, equation (2)."""
        model, conditions, units = self.model(data), data.conditions, data.units
        n_pairs = conditions.point.shape[0]
        batch_size, optimizer = self._batch(n_pairs)

        def loss(params: PyTree, rows: Array, key: Key) -> tuple[Array, dict[str, Array]]:
            value = jko_loss(
                model,
                params,
                units,
                conditions,
                rows,
                speed=units.speed,
                key=key,
                interaction_samples=self.network.interaction_samples,
                pull_ridge=self.network.pull_ridge,
            )
            return value, {}

        one_epoch = functools.partial(
            train_epochs,
            key=named_key(key, "training"),
            batches=lambda k: shuffled_batches(k, n_pairs, batch_size),
            loss=loss,
            optimizer=optimizer,
            n_epochs=1,
            ema_decay=self.network.ema_decay,
        )
        return sound_epochs(one_epoch, state, n_epochs)

    def energy(self, state: TrainingState, data: Any) -> FittedEnergy:
        """That of the last sound epoch."""
        return data.frame.energy(self.model(data), state.ema, data.units)

    def diverged(self, state: TrainingState) -> Array:
        """Whether the parameters have ceased to be finite."""
        return super().diverged(state.params)
