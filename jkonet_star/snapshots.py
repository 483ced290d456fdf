"""A population seen at several times: the one input of every solver.

Snapshots of unequal size are stored in one rectangular array: the rows past a snapshot's end repeat
its first particle and carry weight zero, so that every algorithm works on static shapes and no row
is ever non-finite.

Single precision tells points apart to 6e-8 of their distance from zero, which is too little where that
is large against their spread: map coordinates in metres, times in seconds since 1970. There what is
stored is relative to an origin x_0 and a start t_0, chosen in double precision,

    points = x - x_0,   times = t - t_0,                                                           (1)

and nothing in between depends on them: `arrays`, `time_values` and `FittedEnergy` speak of x and t.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffusions.alignment import aligned_empty
from diffusions.arguments import check_unmasked
from diffusions.short_repr import count, known, short_repr
from diffusions.typing import Array, ArrayLike, Float, HostArray, Int
from jkonet_star.spread import FAR, check_spread


@flax.struct.dataclass
class Snapshots:
    """Particles of one population at increasing times.

    Build it with `snapshots_from_arrays`, which validates; the constructor does not.
    """

    points: Float[Array, "t n d"]  # relative to the origin, where there is one
    weights: Float[Array, "t n"]  # each row sums to 1; zero marks padding
    times: Float[Array, "t"]  # strictly increasing, relative to the start, where there is one
    origin: Float[Array, "d"] | None = None  # x_0 of equation (1); None for zero
    start: Float[Array, ""] | None = None  # t_0 of equation (1); None for zero

    def __repr__(self) -> str:
        start = () if self.start is None else (self.start,)
        if not known(self.points, self.weights, self.times, *start) or self.points.ndim != 3:
            return short_repr(self)
        counts = self.counts()
        fewest, most = min(counts), max(counts)
        times, digits = self.time_values(), 7 if self.start is None else 12
        return (
            f"Snapshots({self.n_snapshots} of "
            + (f"{fewest:,} to " if fewest < most else "")
            + f"{count(most, 'particle')} in dimension {self.dimension}, "
            + f"times {times[0]:.{digits}g} to {times[-1]:.{digits}g})"
        )

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

    def counts(self) -> list[int]:
        """How many particles each snapshot has, padding left out."""
        return np.count_nonzero(np.asarray(self.weights), axis=1).tolist()

    def arrays(self) -> list[np.ndarray]:
        """The snapshots as a list of (n_i, d) arrays on the host, padding removed.

        In double precision where there is an origin, which is added again.
        """
        points, weights = np.asarray(self.points), np.asarray(self.weights)
        if self.origin is not None:
            points = points.astype(np.float64) + np.asarray(self.origin, np.float64)
        return [p[w > 0] for p, w in zip(points, weights, strict=True)]

    def time_values(self) -> np.ndarray:
        """The (t,) times on the host, in double precision, the start added."""
        times = np.asarray(self.times, np.float64)
        return times if self.start is None else times + np.asarray(self.start, np.float64)

    def array_weights(self) -> list[np.ndarray]:
        """The weights belonging to `arrays()`."""
        weights = np.asarray(self.weights)
        return [w[w > 0] for w in weights]


def snapshots_from_arrays(
    points: Sequence[Any] | ArrayLike,
    times: Sequence[float] | ArrayLike | None = None,
    *,
    dt: float | None = None,
    weights: Sequence[Any] | ArrayLike | None = None,
) -> Snapshots:
    """Validates and packs snapshots.

    Args:
        points: one (n_i, d) array per snapshot, or one (t, n, d) array.
        times: one time per snapshot, strictly increasing; `dt * (0, 1, 2, ...)` when absent.
        dt: time between snapshots, in place of `times`; 1 when both are absent.
        weights: one (n_i,) array of positive weights per snapshot; uniform when absent.

    Returns:
        The packed `Snapshots`, float32, relative to an origin where the points lie far from zero.

    Raises:
        ValueError: fewer than two snapshots, an empty one, a wrong rank, mismatched dimensions,
            NaN, infinite, masked or complex entries, dates, times that do not increase, times beside
            dt, weights that are not positive or not one array per snapshot, points or times too large
            or too small for single precision.
    """
    if not isinstance(points, Sequence) and np.ndim(points) == 0:
        raise ValueError("points must be a list of arrays (particles, dimension), or one array")
    arrays = [_numbers(f"snapshot {i}", p) for i, p in enumerate(points)]  # type: ignore[arg-type]
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
    if times is not None and dt is not None:
        raise ValueError("times and dt both say when the snapshots are: give one of them")
    if times is None:
        dt = 1.0 if dt is None else dt
        is_number = isinstance(dt, int | float | np.integer | np.floating) and not isinstance(
            dt, bool | np.timedelta64
        )
        if not (is_number and np.isfinite(dt) and dt > 0):
            raise ValueError(f"dt must be positive and finite, got {dt!r}")
        times = dt * np.arange(len(arrays), dtype=np.float64)
    host_times = _numbers("times", times, "one per snapshot")
    if host_times.shape != (len(arrays),):
        raise ValueError(f"{len(arrays)} snapshots need as many times, got {host_times.shape}")
    if not np.isfinite(host_times).all() or not (np.diff(host_times) > 0).all():
        raise ValueError(f"times must be finite and strictly increasing, got {host_times.tolist()}")
    masses: list[Any] = (
        [np.full(len(p), 1.0 / len(p)) for p in arrays] if weights is None else list(weights)  # type: ignore[arg-type]
    )
    if len(masses) != len(arrays):
        raise ValueError(f"{len(arrays)} snapshots need as many weights, got {len(masses)}")
    origin = _origin(arrays, "points")
    start = _origin([host_times[:, None]], "times")
    packed_times = (host_times if start is None else host_times - start).astype(np.float32)
    if not (np.diff(packed_times) > 0).all():
        raise ValueError(
            f"times must differ by more than single precision tells apart, got {host_times.tolist()}"
        )
    n = max(len(p) for p in arrays)
    packed = aligned_empty((len(arrays), n, arrays[0].shape[1]), np.float32)
    for i, p in enumerate(arrays):
        packed[i, : len(p)] = p if origin is None else p - origin
        packed[i, len(p) :] = packed[i, 0]
    packed_weights = np.zeros((len(arrays), n), np.float32)
    for i, (p, w) in enumerate(zip(arrays, masses, strict=True)):
        w = _numbers(f"weights of snapshot {i}", w, "particles").astype(np.float64)
        if w.shape != (len(p),) or not np.isfinite(w).all() or not (w > 0).all():
            raise ValueError(f"snapshot {i} needs {len(p)} positive finite weights")
        packed_weights[i, : len(p)] = w / w.sum()
        if not (packed_weights[i, : len(p)] > 0).all():
            raise ValueError(f"snapshot {i} has weights too small against their sum for float32")
    return Snapshots(
        points=taken_over(packed),
        weights=jnp.asarray(packed_weights),
        times=jnp.asarray(packed_times),
        origin=None if origin is None else jnp.asarray(origin, jnp.float32),
        start=None if start is None else jnp.asarray(start[0], jnp.float32),
    )


def _origin(parts: Sequence[np.ndarray], what: str) -> np.ndarray | None:
    """The origin that values, each (n, d), need, exact in single precision; None for zero.

    Raises:
        ValueError: values whose spread or size single precision does not hold.
    """
    center, spread = check_spread(parts, what)
    if spread == 0 or np.abs(center).max() <= FAR * spread:
        return None
    return center.astype(np.float32).astype(np.float64)


def sorted_rows(
    points: Float[np.ndarray, "n d"], weights: Float[np.ndarray, "n"]
) -> Int[np.ndarray, "present"]:
    """The rows of positive weight in the order of their coordinates, whatever their own order."""
    present = np.flatnonzero(weights)
    if len(present) < len(weights):
        points, weights = points[present], weights[present]
    return present[np.lexsort((weights, *points.T))]


def fewer_particles(snapshots: Snapshots, most: int) -> Snapshots:
    """At most so many particles of each snapshot, at random; the same rows where all are there."""
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    if points.shape[1] <= most:
        return snapshots
    rows = np.empty((len(points), most), np.int64)
    for k, mass in enumerate(weights):
        # Padding, which has no weight, comes where a snapshot has too few.
        order = np.argsort(mass == 0, kind="stable")
        there = np.count_nonzero(mass)
        order[:there] = np.random.default_rng(0).permutation(order[:there])
        rows[k] = np.sort(order[:most])
    kept = np.take_along_axis(weights, rows, axis=1)
    return snapshots.replace(  # type: ignore[attr-defined]
        points=jnp.asarray(np.take_along_axis(points, rows[..., None], axis=1)),
        weights=jnp.asarray(kept / kept.sum(axis=1, keepdims=True)),
    )


def take_rows(
    points: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "m"], out: Float[np.ndarray, "m d"]
) -> None:
    """Copies some rows, which are there, into `out`."""
    # In its other modes NumPy takes them into an array of its own first.
    np.take(points, rows, axis=0, out=out, mode="clip")


def taken_over(array: HostArray) -> Array:
    """An array as JAX's, to which nobody writes any more; on a processor without a copy.

    What does not begin where XLA wants it to (`diffusions.alignment`) is copied there, too.
    """
    return jax.device_put(array, may_alias=True)


def relative(values: Any, origin: Array | None) -> Any:
    """Values of the data less the origin, in double precision where neither is traced."""
    if origin is None or values is None:
        return values
    if isinstance(values, jax.Array) or isinstance(origin, jax.core.Tracer):
        return values - origin
    difference = np.asarray(values, np.float64) - np.asarray(origin, np.float64)
    return jnp.asarray(difference, jnp.float32)


def in_order(snapshots: Snapshots) -> tuple[Snapshots, Int[np.ndarray, "t n"]]:
    """The same population with sorted rows, and the new row of each old one."""
    points, weights = np.asarray(snapshots.points), np.asarray(snapshots.weights)
    order = np.empty(weights.shape, np.int32)
    moved_points = aligned_empty(points.shape, points.dtype)
    for k, (x, w) in enumerate(zip(points, weights, strict=True)):
        order[k] = np.concatenate([sorted_rows(x, w), np.flatnonzero(w == 0)])
        take_rows(x, order[k], moved_points[k])
    rank = np.argsort(order, axis=1).astype(np.int32)
    moved = snapshots.replace(  # type: ignore[attr-defined]
        points=taken_over(moved_points),
        weights=jnp.asarray(np.take_along_axis(weights, order, axis=1)),
    )
    return moved, rank


def _numbers(name: str, values: Any, of: str = "particles, dimension") -> np.ndarray:
    """An array of real numbers, whatever holds them: in single or in double precision."""
    check_unmasked(name, values)
    if isinstance(values, np.ndarray | jax.Array) and values.dtype == np.float32:
        return np.asarray(values)
    try:
        found = np.asarray(values)
        # Their conversion would drop a part, or count in the unit that they are stored in.
        kinds = {found.dtype.kind}
        if found.dtype.kind == "O":
            examples = {type(value): value for value in found.ravel()}
            kinds = {np.asarray(value).dtype.kind for value in examples.values()}
        if not kinds & set("cmM"):
            return np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array ({of}) of numbers") from None
    what = "complex ones" if "c" in kinds else "dates or durations"
    remedy = "" if "c" in kinds else ": write (dates - dates[0]) / np.timedelta64(1, 'D'), or hours"
    raise ValueError(f"{name} must be an array ({of}) of real numbers, got {what}{remedy}")
