"""What learning a density is given, whatever the data, and what validation data say of it."""

import abc
import dataclasses
from typing import Any

import flax.linen as nn
import jax

from diffusions.density.error_curves import ErrorCurves
from diffusions.density.gaussian_reference import GaussianReference, preconditioned
from diffusions.density.likelihood import Likelihood
from diffusions.density.log_snr import LogSNRLaw
from diffusions.objectives import Denoiser
from diffusions.typing import Array, Key, Params
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.run.folder import RunFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What validation data say of the network and of the Gaussian reference.

    Attributes:
        nll: of the network, in nats, continuous.
        gaussian_nll: likewise, exactly.
        curves: denoising errors of the network.
        gaussian_curves: those of the Gaussian, on the same examples and noises.
    """

    nll: Likelihood
    gaussian_nll: Likelihood
    curves: ErrorCurves
    gaussian_curves: ErrorCurves


class Task(abc.ABC):
    """Data, network, and what is particular about their evaluation.

    Attributes:
        settings: resolved.
        module: the network.
        params: initial ones.
        train: training data on the device.
        validation: likewise.
        reference: Gaussian of the training data's moments.
        dimension: of one example.
        checksums: of data that come from files; None where a seed makes them.
        shown: whether a preconditioned network sees what the Gaussian predicts.
    """

    settings: ResolvedInformationTheoreticSettings
    module: nn.Module
    params: Params
    train: Array
    validation: Array
    reference: GaussianReference
    dimension: int
    checksums: dict[str, str] | None = None
    shown: bool = False

    @property
    def n_parameters(self) -> int:
        """Of the network."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @abc.abstractmethod
    def examples(self, key: Key, indices: Array) -> Array:
        """A training batch, as the network sees it."""

    @abc.abstractmethod
    def validation_examples(self) -> Array:
        """All validation data, as the network sees them."""

    @abc.abstractmethod
    def evaluated(self, run: RunFolder, params: Params, law: LogSNRLaw, epoch: int) -> None:
        """Pictures on the way."""

    @abc.abstractmethod
    def concluded(
        self, run: RunFolder, params: Params, law: LogSNRLaw, measured: Measured
    ) -> dict[str, Any]:
        """Pictures at the end, and more for the summary."""

    def discrete(self, params: Params, law: LogSNRLaw) -> dict[str, Likelihood]:
        """Bounds by name of -log P of data on a grid; none of other data."""
        return {}

    def denoiser(self, params: Params, *, dropout: Key | None = None) -> Denoiser:
        """The denoiser of some parameters, with dropout where there is a key for it."""

        def network(z: Array, a: Array) -> Array:
            if dropout is None or not self.settings.dropout:
                return self.module.apply(params, z, a)  # type: ignore[return-value]
            rngs = {"dropout": dropout}
            return self.module.apply(params, z, a, deterministic=False, rngs=rngs)  # type: ignore[return-value]

        if self.settings.precondition == "none":
            return network
        return preconditioned(network, self.reference, shown=self.shown)
