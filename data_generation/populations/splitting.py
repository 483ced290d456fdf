"""Held-out particles and held-out snapshots."""

import jax
import numpy as np

from data_generation.populations.settings import check_left_out
from diffusions.typing import Key
from jkonet_star.snapshots import Snapshots, snapshots_from_arrays


def split_particles(
    snapshots: Snapshots, test_ratio: float, key: Key
) -> tuple[Snapshots, Snapshots]:
    """Holds out the same rows of every snapshot: whole trajectories where rows are particles.

    Args:
        snapshots: equally many particles at every time.
        test_ratio: fraction held out, in [0, 1); 0 holds nothing out and returns all twice.
        key: a typed key.

    Returns:
        Training and test snapshots; the rows keep their order.

    Raises:
        ValueError: unequal counts, a ratio out of range, one that leaves either side empty.
    """
    _check_ratio(test_ratio)
    counts = sorted(set(snapshots.counts()))
    if len(counts) > 1:
        raise ValueError(
            f"the snapshots hold {counts[0]} to {counts[-1]} particles, so none can be followed "
            "through time; split inside each snapshot instead (--split-population)"
        )
    chosen = _held_out(counts[0], test_ratio, _generator(key))
    return _split(snapshots, test_ratio, [chosen] * snapshots.n_snapshots)


def split_population(
    snapshots: Snapshots, test_ratio: float, key: Key
) -> tuple[Snapshots, Snapshots]:
    """Holds out particles of every snapshot, chosen independently at each time.

    Arguments, results and errors are those of `split_particles`; the counts may differ.
    """
    _check_ratio(test_ratio)
    generator = _generator(key)
    chosen = [_held_out(n, test_ratio, generator) for n in snapshots.counts()]
    return _split(snapshots, test_ratio, chosen)


def leave_one_out(snapshots: Snapshots, index: int) -> Snapshots:
    """All snapshots but an inner one; the step across the gap is as long as the two it replaces.

    Raises:
        ValueError: fewer than three snapshots, or an index that is not inner.
    """
    check_left_out(index, snapshots.n_snapshots)
    kept = [i for i in range(snapshots.n_snapshots) if i != index]
    points, weights = snapshots.arrays(), snapshots.array_weights()
    return snapshots_from_arrays(
        [points[i] for i in kept],
        snapshots.time_values()[kept],
        weights=[weights[i] for i in kept],
    )


def _check_ratio(test_ratio: float) -> None:
    if not 0 <= test_ratio < 1:
        raise ValueError(f"test_ratio must lie in [0, 1), got {test_ratio}")


def _generator(key: Key) -> np.random.Generator:
    """Host randomness from a typed key: a permutation on device would compile for every count."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _held_out(n: int, test_ratio: float, generator: np.random.Generator) -> np.ndarray:
    """A mask (n,) of the held-out particles."""
    n_test = round(test_ratio * n)
    if test_ratio > 0 and not 0 < n_test < n:
        raise ValueError(
            f"test_ratio {test_ratio} of {n} particles leaves {n_test} to test and {n - n_test} to "
            "train; both need at least one"
        )
    mask = np.zeros(n, bool)
    mask[generator.permutation(n)[:n_test]] = True
    return mask


def _split(
    snapshots: Snapshots, test_ratio: float, chosen: list[np.ndarray]
) -> tuple[Snapshots, Snapshots]:
    if test_ratio == 0:
        return snapshots, snapshots
    pairs = list(zip(snapshots.arrays(), snapshots.array_weights(), chosen, strict=True))
    times = snapshots.time_values()

    def part(masks: list[np.ndarray]) -> Snapshots:
        return snapshots_from_arrays(
            [p[m] for (p, _, _), m in zip(pairs, masks, strict=True)],
            times,
            weights=[w[m] for (_, w, _), m in zip(pairs, masks, strict=True)],
        )

    return part([~m for m in chosen]), part(chosen)
