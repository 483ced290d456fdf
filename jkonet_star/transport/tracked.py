"""Couplings of particles that were followed: who is who is known, and nothing has to be transported."""

from collections.abc import Hashable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusions.arguments import checked
from diffusions.typing import ArrayLike
from jkonet_star.snapshots import Snapshots
from jkonet_star.transport.couplings import Couplings


@checked
def tracked_couplings(names: Sequence[Any] | ArrayLike, snapshots: Snapshots) -> Couplings:
    """Pairs of particles that have one name in a snapshot and in the next, all of one weight in a step.

    A particle that is lost on the way, or found, is in the populations of its snapshots and in no pair.

    Args:
        names: of the particles of each snapshot, (n_k,), in the order of its points: numbers, text or
            tuples of them, such as (film, number).
        snapshots: of these particles.

    Returns:
        For `fit(..., couplings=...)`.

    Raises:
        ValueError: not a name for each particle of each snapshot, a name twice in one of them, or two
            snapshots that share none.
    """
    if isinstance(names, str) or not (isinstance(names, Sequence) or np.ndim(names)):
        raise ValueError("names must be a list with the names of each snapshot's particles")
    lists: list[Any] = list(names)  # type: ignore[arg-type]
    counts = [len(own) for own in snapshots.array_weights()]
    if len(lists) != len(counts):
        raise ValueError(f"{len(counts)} snapshots need as many lists of names, got {len(lists)}")
    rows = [_row_of_each(k, own, counts[k]) for k, own in enumerate(lists)]
    step, pairs, weight = [], [], []
    for k, (before, after) in enumerate(zip(rows[:-1], rows[1:], strict=True)):
        both = [(i, after[name]) for name, i in before.items() if name in after]
        if not both:
            raise ValueError(
                f"snapshots {k} and {k + 1} have no particle in common: leave couplings out"
            )
        step.append(np.full(len(both), k, np.int32))
        pairs.append(np.asarray(both, np.int32))
        weight.append(np.full(len(both), 1.0 / len(both), np.float32))
    source, target = np.concatenate(pairs).T
    return Couplings(
        *(jnp.asarray(a) for a in (np.concatenate(step), source, target, np.concatenate(weight)))
    )


def _row_of_each(k: int, names: Any, count: int) -> dict[Hashable, int]:
    """The row of each name in snapshot k, of `count` particles."""
    if not isinstance(names, list | tuple):
        array = np.asarray(names)
        if array.ndim != 1:
            raise ValueError(f"the names of snapshot {k} must be a list, got shape {array.shape}")
        names = array.tolist()
    if len(names) != count:
        raise ValueError(
            f"snapshot {k} has {count} particles and {len(names)} names: give each of its points one"
        )
    found: dict[Hashable, int] = {}
    for i, name in enumerate(names):
        try:
            twice = name in found
        except TypeError:
            raise ValueError(
                f"the names of snapshot {k} must be numbers, text or tuples of them, got {name!r} in "
                f"row {i}"
            ) from None
        if twice:
            raise ValueError(
                f"snapshot {k} has the particle {name} more than once: names must be those of tracks"
            )
        if _missing(name):
            raise ValueError(
                f"row {i} of snapshot {k} has no name ({name!r}): leave the point out, or give it a "
                "name that no other has"
            )
        found[name] = i
    return found


def _missing(name: Hashable) -> bool:
    """Whether it is what tables have for no entry: None, NaN or NA, which do not equal themselves."""
    same = name == name
    return name is None or not isinstance(same, bool | np.bool_) or not same
