"""What learning a density is given, whatever the data, and what validation data say of it."""

import abc
import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn

from diffusions.density.correction import Gate, preconditioned
from diffusions.density.error_curves import ErrorCurves
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.likelihood import MeanLikelihood
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.reference import Reference
from diffusions.devices import Replicated
from diffusions.objectives import Denoiser
from diffusions.typing import Array, HostArray, Key, Params
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.run.folder import RunFolder


class Learned(NamedTuple):
    """What is learned of a density beside the reference.

    Attributes:
        params: of the network.
        gate: where it is let in; everywhere while it is trained.
    """

    params: Params
    gate: Gate | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What validation data say of what was learned and of a Gaussian.

    Attributes:
        nll: of what was learned, in nats, continuous.
        gaussian_nll: likewise, exactly.
        curves: denoising errors of what was learned.
        gaussian_curves: those of the Gaussian, on the same examples and noises.
    """

    nll: MeanLikelihood
    gaussian_nll: MeanLikelihood
    curves: ErrorCurves
    gaussian_curves: ErrorCurves


class Task(abc.ABC):
    """Data, network, and what is particular about their evaluation.

    Attributes:
        settings: resolved.
        module: the network.
        params: initial ones; none where nothing is trained.
        train: training data on the device; after `prepare` those that the network is trained on.
        judges: training data that it is not trained on, and that say where it is let in; None where it
            is let in everywhere.
        validation: likewise.
        gaussian: of the training data's moments.
        reference: that densities are measured against and the network corrects: the Gaussian, or a
            mixture from `prepare` on.
        dimension: of one example.
        checksums: of data that come from files; None where a seed makes them.
        shown: whether a preconditioned network sees what the Gaussian predicts.
        evaluated_denoiser: that is evaluated instead of a network that is trained here.
    """

    settings: ResolvedInformationTheoreticSettings
    module: nn.Module
    params: Params | None = None
    train: Array
    validation: Array
    gaussian: GaussianReference
    reference: Reference
    judges: Array | None = None
    dimension: int
    checksums: dict[str, str] | None = None
    shown: bool = False
    evaluated_denoiser: Denoiser | None = None

    @functools.cached_property
    def devices(self) -> Replicated:
        """Among which batches of the training, and of likelihoods, are divided."""
        settings = self.settings
        return Replicated.of(min(settings.batch_size, len(self.train)) * settings.noises)

    def prepare(self) -> dict[str, Any]:
        """What needs no network and takes a while; facts for the summary."""
        return {}

    def resolving(self) -> Reference:
        """A law as narrow as that of the data, which says whether log SNRs reach far enough."""
        return self.reference

    @abc.abstractmethod
    def examples(self, key: Key, indices: Array) -> Array:
        """A training batch, as the network sees it."""

    @abc.abstractmethod
    def training_examples(self, number: int) -> Array:
        """The first of the training data, as the network sees them, unaltered."""

    @abc.abstractmethod
    def validation_examples(self) -> Array:
        """All validation data, as the network sees them."""

    @abc.abstractmethod
    def evaluated(self, run: RunFolder, learned: Learned, law: LogSNRLaw, epoch: int) -> None:
        """Pictures on the way."""

    @abc.abstractmethod
    def concluded(
        self, run: RunFolder, learned: Learned, law: LogSNRLaw, measured: Measured
    ) -> dict[str, Any]:
        """Pictures at the end, and more for the summary."""

    def exact_log_density(self) -> HostArray | None:
        """Of every validation example, (examples,); None where their law is not known."""
        return None

    def discrete(self, learned: Learned, law: LogSNRLaw) -> dict[str, MeanLikelihood]:
        """Bounds by name of -log P of data on a grid; none of other data."""
        return {}

    def denoiser(self, learned: Learned, *, dropout: Key | None = None) -> Denoiser:
        """The denoiser that was learned, with dropout where there is a key for it."""
        if self.evaluated_denoiser is not None:
            return self.evaluated_denoiser

        def network(z: Array, a: Array) -> Array:
            if dropout is None or not self.settings.dropout:
                return self.module.apply(learned.params, z, a)  # type: ignore[return-value]
            rngs = {"dropout": dropout}
            return self.module.apply(learned.params, z, a, deterministic=False, rngs=rngs)  # type: ignore[return-value]

        if self.settings.precondition == "none":
            return network
        return preconditioned(network, self.reference, shown=self.shown, gate=learned.gate)
