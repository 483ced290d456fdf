"""How `diffusions.fit` trains. Imports no JAX."""

import dataclasses
from typing import Literal

from diffusions.checks import Count, Decay, InnerShare, Positive, Rounds, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How long, how fast and with how much noise a denoiser is trained.

    Attributes:
        epochs: passes over the training data. The learning rate stays for four fifths of them and falls
            to zero, along a cosine, in the last.
        batch_size: examples per gradient step.
        noises: log SNRs and noises drawn for every example of a batch.
        learning_rate: of Adam.
        weighting: likelihood makes the loss an estimate of the nll in nats; uniform counts all drawn
            log SNRs alike, which is less noisy and has the same minimiser.
        ema_decay: of the averaged parameters, per step, that are evaluated and kept; 0 for none.
        validation_ratio: share of the examples that is held out.
    """

    epochs: Rounds = 100
    batch_size: Count = 128
    noises: Count = 4
    learning_rate: Positive = 1e-3
    weighting: Literal["likelihood", "uniform"] = "likelihood"
    ema_decay: Decay = 0.99
    validation_ratio: InnerShare = 0.1

    def __post_init__(self):
        check_fields(self)
