"""Couplings of particles that were followed: who is who is known, and nothing has to be transported."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusions.typing import HostArray
from jkonet_star.transport.couplings import Couplings


def tracked_couplings(names: Sequence[Sequence[Any] | HostArray]) -> Couplings:
    """Pairs of particles that have one name in a snapshot and in the next, all of one weight in a step.

    A particle that is lost on the way, or found, is in the populations of its snapshots and in no pair.

    Args:
        names: of the particles of each snapshot, (n_k,), in the order of its points: numbers or text.

    Returns:
        For `fit(..., couplings=...)`.

    Raises:
        ValueError: fewer than two snapshots, a name twice in one of them, or two that share none.
    """
    rows = [np.asarray(own) for own in names]
    if len(rows) < 2:
        raise ValueError(f"names must be those of at least two snapshots, got {len(rows)}")
    for k, own in enumerate(rows):
        if own.ndim != 1:
            raise ValueError(f"the names of snapshot {k} must be a list, got shape {own.shape}")
        found, counts = np.unique(own, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"snapshot {k} has the particle {found[counts > 1][0]} more than once: names must "
                "be those of tracks"
            )
    step, source, target, weight = [], [], [], []
    for k, (before, after) in enumerate(zip(rows[:-1], rows[1:], strict=True)):
        _, i, j = np.intersect1d(before, after, assume_unique=True, return_indices=True)
        if not len(i):
            raise ValueError(
                f"snapshots {k} and {k + 1} have no particle in common: leave couplings out"
            )
        step.append(np.full(len(i), k))
        source.append(i)
        target.append(j)
        weight.append(np.full(len(i), 1.0 / len(i), np.float32))
    return Couplings(
        *(jnp.asarray(np.concatenate(parts)) for parts in (step, source, target, weight))
    )
