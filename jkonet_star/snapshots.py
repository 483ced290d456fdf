"""A population seen at several times: the one input of every solver.

Snapshots of unequal size are stored in one rectangular array: the rows past a snapshot's end repeat
its first particle and carry weight zero, so that every algorithm works on static shapes and no row
is ever non-finite.
"""

from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from diffusions.typing import Array, ArrayLike, Float


@flax.struct.dataclass
class Snapshots:
    """Particles of one population at increasing times.

    Build it with `snapshots_from_arrays`, which validates; the constructor does not.
    """

    points: Float[Array, "t n d"]
    weights: Float[Array, "t n"]  # each row sums to 1; zero marks padding
    times: Float[Array, "t"]  # strictly increasing, in the units of the data

    @property
    def n_snapshots(self) -> int:
        """Number of snapshots."""
        return self.points.shape[0]

    @property
    def n_steps(self) -> int:
        """Number of steps between consecutive snapshots."""
        return self.points.shape[0] - 1

    @property
    def dimension(self) -> int:
        """Dimension d of the state space."""
        return self.points.shape[-1]

    @property
    def dt(self) -> Float[Array, "steps"]:
        """Length tau of each step, times[1:] - times[:-1]."""
        return self.times[1:] - self.times[:-1]

    def arrays(self) -> list[np.ndarray]:
        """The snapshots as a list of (n_i, d) arrays on the host, padding removed."""
        points, weights = np.asarray(self.points), np.asarray(self.weights)
        return [p[w > 0] for p, w in zip(points, weights, strict=True)]

    def array_weights(self) -> list[np.ndarray]:
        """The weights belonging to `arrays()`."""
        weights = np.asarray(self.weights)
        return [w[w > 0] for w in weights]


def snapshots_from_arrays(
    points: Sequence[ArrayLike] | ArrayLike,
    times: Sequence[float] | ArrayLike | None = None,
    *,
    dt: float = 1.0,
    weights: Sequence[ArrayLike] | None = None,
) -> Snapshots:
    """Validates and packs snapshots.

    Args:
        points: one (n_i, d) array per snapshot, or one (t, n, d) array.
        times: one time per snapshot, strictly increasing; `dt * (0, 1, 2, ...)` when absent.
        dt: time between snapshots, used only where `times` is absent.
        weights: one (n_i,) array of positive weights per snapshot; uniform when absent.

    Returns:
        The packed `Snapshots`, float32.

    Raises:
        ValueError: fewer than two snapshots, an empty one, a wrong rank, mismatched dimensions,
            NaN or infinite entries, times that do not increase, weights that are not positive.
    """
    arrays = [np.asarray(p, dtype=np.float32) for p in points]  # type: ignore[union-attr]
    if len(arrays) < 2:
        raise ValueError(f"at least two snapshots are needed to learn a step, got {len(arrays)}")
    for i, p in enumerate(arrays):
        if p.ndim != 2:
            raise ValueError(
                f"snapshot {i} has shape {p.shape}; each must be (particles, dimension)"
            )
        if p.shape[0] == 0 or p.shape[1] == 0:
            raise ValueError(f"snapshot {i} is empty: shape {p.shape}")
        if p.shape[1] != arrays[0].shape[1]:
            raise ValueError(
                f"snapshot {i} has dimension {p.shape[1]}, snapshot 0 has {arrays[0].shape[1]}"
            )
        bad = np.count_nonzero(~np.isfinite(p).all(axis=1))
        if bad:
            raise ValueError(f"snapshot {i} has {bad} of {len(p)} particles with NaN or inf")
    if times is None:
        if not (np.isfinite(dt) and dt > 0):
            raise ValueError(f"dt must be positive and finite, got {dt}")
        times = dt * np.arange(len(arrays), dtype=np.float64)
    host_times = np.asarray(times, dtype=np.float32)
    if host_times.shape != (len(arrays),):
        raise ValueError(f"{len(arrays)} snapshots need as many times, got {host_times.shape}")
    if not np.isfinite(host_times).all() or not (np.diff(host_times) > 0).all():
        raise ValueError(f"times must be finite and strictly increasing, got {host_times.tolist()}")
    if weights is None:
        weights = [np.full(len(p), 1.0 / len(p)) for p in arrays]
    n = max(len(p) for p in arrays)
    packed = np.stack([np.concatenate([p, np.repeat(p[:1], n - len(p), axis=0)]) for p in arrays])
    packed_weights = np.zeros((len(arrays), n), np.float32)
    for i, (p, w) in enumerate(zip(arrays, weights, strict=True)):
        w = np.asarray(w, dtype=np.float64)
        if w.shape != (len(p),) or not np.isfinite(w).all() or not (w > 0).all():
            raise ValueError(f"snapshot {i} needs {len(p)} positive finite weights")
        packed_weights[i, : len(p)] = w / w.sum()
        if not (packed_weights[i, : len(p)] > 0).all():
            raise ValueError(f"snapshot {i} has weights too small against their sum for float32")
    return Snapshots(
        points=jnp.asarray(packed),
        weights=jnp.asarray(packed_weights),
        times=jnp.asarray(host_times),
    )
