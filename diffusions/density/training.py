"""Training of a denoiser by its likelihood, whatever the data and the network.

The loss of a batch is the mean over its examples, each with several log SNRs and noises, of
`diffusions.density.likelihood.nll_terms`: an estimate of the mean of -log p(x), in nats. It is a
closure over everything but parameters and keys, for `diffusions.training.train_epochs`.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from diffusions.arguments import checked
from diffusions.density.likelihood import nll_loss
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.reference import Reference
from diffusions.objectives import Denoiser
from diffusions.training import TrainingState, shuffled_batches, train_epochs
from diffusions.typing import Array, Int, Key, Params


@runtime_checkable
class HowToTrain(Protocol):
    """The settings that a training has: those of `TrainingSettings`, and of scripts."""

    @property
    def batch_size(self) -> int:
        """Examples per gradient step."""

    @property
    def noises(self) -> int:
        """Log SNRs and noises per example of a batch."""

    @property
    def weighting(self) -> str:
        """Likelihood or uniform."""

    @property
    def ema_decay(self) -> float:
        """Of the averaged parameters."""


def n_steps(n_examples: int, batch_size: int) -> int:
    """Gradient steps of an epoch."""
    return -(-n_examples // batch_size)


@checked
def likelihood_training(
    denoiser: Callable[[Params, Key], Denoiser],
    examples: Callable[[Key, Int[Array, "batch"]], Array],
    n_examples: int,
    law: LogSNRLaw,
    reference: Reference,
    optimizer: optax.GradientTransformation,
    settings: HowToTrain,
    key: Key,
) -> Callable[..., tuple[TrainingState, dict[str, Any]]]:
    """`train_epochs` with all but the state and its length filled in.

    Args:
        denoiser: of parameters, and of a key for whatever is random in training, such as dropout; it
            predicts eps at log SNR a.
        examples: some by their numbers, and a key for data that are altered at random.
        n_examples: how many there are.
        law: of the log SNRs.
        reference: G, or another law.
        optimizer: any Optax transformation.
        settings: see there.
        key: of the run.
    """
    batch_size = settings.batch_size

    def batches(key: Key) -> Array:
        return shuffled_batches(key, n_examples, batch_size)

    def loss(params: Params, indices: Array, key: Key) -> tuple[Array, dict[str, Array]]:
        data_key, noise_key, dropout_key = jax.random.split(key, 3)
        indices = jnp.tile(indices, settings.noises)
        terms = nll_loss(
            denoiser(params, dropout_key),
            noise_key,
            examples(data_key, indices),
            law,
            reference,
            weighted=settings.weighting == "likelihood",
        )
        # The last batch of an epoch is filled up with examples that do not count.
        counts = indices >= 0
        return jnp.where(counts, terms, 0.0).sum() / counts.sum(), {}

    return functools.partial(
        train_epochs,
        key=key,
        batches=batches,
        loss=loss,
        optimizer=optimizer,
        ema_decay=settings.ema_decay,
    )
