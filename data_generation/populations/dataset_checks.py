"""What the arrays of a dataset must be: the one check of those that are made and those that are read.

A checksum says that a file is what was written, not that what was written makes sense.
"""

from collections.abc import Mapping

import numpy as np

from diffusions.checks import shown
from jkonet_star.spread import check_spread

Arrays = Mapping[str, np.ndarray]
"""The arrays of one archive."""

_SNAPSHOTS = {"points": "t n d", "weights": "t n", "times": "t"}
_ORIGIN = {"origin": "d", "start": ""}
_COUPLINGS = {"step": "c", "source": "c", "target": "c", "weight": "c"}
_DENSITIES = {
    "gaussian-mixtures": {"log_weights": "t k", "means": "t k d", "precision_factors": "t k d d"},
    "kernel-densities": {
        "points": "t blocks block d",
        "log_weights": "t blocks block",
        "precision_factor": "t d d",
    },
}
_PROJECTION = {"mean": "p", "loadings": "p d", "explained": "d"}
_WHOLE = ("step", "source", "target")
_LOGARITHMS = ("log_weights",)  # of zero, where there is padding

REQUIRED, OPTIONAL = ("train", "test", "couplings"), ("densities", "projection")
"""The archives of a dataset."""

_SUM_TOLERANCE = 1e-3


def check_archives_content(archives: Mapping[str, Arrays]) -> None:
    """Checks every array of a dataset, and that they belong together.

    Args:
        archives: name -> arrays, those of `REQUIRED` and of some of `OPTIONAL`.

    Raises:
        ValueError: what is wrong with which array of which archive.
    """
    _check_names("the dataset", archives, REQUIRED, OPTIONAL)
    sizes: dict[str, int] = {}
    for part in ("train", "test"):
        _check_snapshots(part, archives[part], sizes)
    times, test_times = (_times(archives[part]) for part in ("train", "test"))
    # A snapshot that was left out of training is in the test population only.
    near = 0.01 * np.diff(test_times).min()
    missing = [t for t in times if np.abs(test_times - t).min() > near]
    if missing:
        raise ValueError(f"test has no snapshot at the training time {missing[0]:g}")
    _check_couplings(archives["couplings"], archives["train"])
    if "densities" in archives:
        _check_densities(archives["densities"], len(times), sizes["d"])
    if "projection" in archives:
        projection = archives["projection"]
        _check_names("projection", projection, tuple(_PROJECTION))
        _check_arrays("projection", projection, _PROJECTION, {"d": sizes["d"]}, np.float64)


def _check_names(
    what: str, found: Mapping, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{what} has no {missing[0]}")
    unknown = [name for name in found if name not in (*required, *optional)]
    if unknown:
        raise ValueError(f"{what} has the unknown entry {shown(unknown[0])}")


def _check_arrays(
    archive: str,
    arrays: Arrays,
    axes: Mapping[str, str],
    sizes: dict[str, int],
    precision: type = np.float32,
) -> None:
    """Checks types, shapes and that numbers are finite; adds the lengths of new axes to `sizes`."""
    for name, described in axes.items():
        what, array = f"{name} of {archive}", arrays[name]
        if array.dtype != (dtype := np.dtype(np.int32 if name in _WHOLE else precision)):
            raise ValueError(f"{what} must be {dtype}, got {array.dtype}")
        names = described.split()
        if array.ndim != len(names):
            raise ValueError(f"{what} must have {len(names)} axes, got shape {array.shape}")
        if 0 in array.shape:
            raise ValueError(f"{what} is empty: shape {array.shape}")
        for axis, length in zip(names, array.shape, strict=True):
            if sizes.setdefault(axis, length) != length:
                raise ValueError(
                    f"{what} has shape {array.shape}, where {axis} is {sizes[axis]} elsewhere"
                )
        finite = np.isfinite(array)
        if name in _LOGARITHMS:
            finite |= np.isneginf(array)
        if not finite.all():
            raise ValueError(f"{what} has {np.count_nonzero(~finite)} NaN or infinite entries")


def _check_snapshots(part: str, arrays: Arrays, sizes: dict[str, int]) -> None:
    _check_names(part, arrays, tuple(_SNAPSHOTS), tuple(_ORIGIN))
    for axis in ("t", "n"):  # each part has its own; the dimension is one
        sizes.pop(axis, None)
    axes = {name: axes for name, axes in (_SNAPSHOTS | _ORIGIN).items() if name in arrays}
    _check_arrays(part, arrays, axes, sizes)
    if len(arrays["times"]) < 2:
        raise ValueError(f"{part} has one snapshot; a step needs two")
    if not (np.diff(arrays["times"]) > 0).all():
        raise ValueError(
            f"times of {part} must be strictly increasing, got {shown(arrays['times'].tolist())}"
        )
    weights = arrays["weights"].astype(np.float64)
    if (weights < 0).any():
        raise ValueError(f"weights of {part} has negative entries")
    _check_sums(f"weights of {part}, of one snapshot,", weights.sum(axis=1))
    there = [
        x if (w > 0).all() else x[w > 0] for x, w in zip(arrays["points"], weights, strict=True)
    ]
    check_spread(there, f"points of {part}")


def _times(arrays: Arrays) -> np.ndarray:
    return arrays["times"].astype(np.float64) + float(arrays.get("start", np.zeros(())))


def _check_sums(what: str, sums: np.ndarray) -> None:
    if not (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        worst = sums[np.abs(sums - 1).argmax()]
        raise ValueError(f"{what} must sum to 1, got {worst:.6g}")


def _check_couplings(arrays: Arrays, train: Arrays) -> None:
    _check_names("couplings", arrays, tuple(_COUPLINGS))
    _check_arrays("couplings", arrays, _COUPLINGS, {})
    step, weight = arrays["step"], arrays["weight"].astype(np.float64)
    present = train["weights"] > 0
    n_steps, n = len(present) - 1, present.shape[1]
    for name, most in (("step", n_steps), ("source", n), ("target", n)):
        outside = arrays[name][(arrays[name] < 0) | (arrays[name] >= most)]
        if len(outside):
            raise ValueError(
                f"{name} of couplings must lie between 0 and {most - 1}, got {outside[0]}"
            )
    for name, snapshot in (("source", step), ("target", step + 1)):
        if not present[snapshot, arrays[name]].all():
            raise ValueError(f"{name} of couplings names particles that are padding")
    if (weight < 0).any():
        raise ValueError("weight of couplings has negative entries")
    _check_sums("weight of couplings, of one step,", np.bincount(step, weight, n_steps))


def _check_densities(arrays: Arrays, n_snapshots: int, dimension: int) -> None:
    kind = str(arrays["kind"]) if "kind" in arrays and arrays["kind"].ndim == 0 else ""
    if kind not in _DENSITIES:
        raise ValueError(
            f"densities are of the unknown kind {shown(kind)} (accepted: {', '.join(_DENSITIES)})"
        )
    axes = _DENSITIES[kind]
    _check_names("densities", arrays, ("kind", *axes))
    _check_arrays("densities", arrays, axes, {"t": n_snapshots, "d": dimension})
    with np.errstate(under="ignore"):
        mass = np.exp(arrays["log_weights"].astype(np.float64)).reshape(n_snapshots, -1)
    _check_sums("the weights of densities, of one snapshot,", mass.sum(axis=1))
    factors = arrays[next(name for name in axes if name.startswith("precision"))]
    if not (np.diagonal(factors, axis1=-2, axis2=-1) > 0).all() or np.triu(factors, 1).any():
        raise ValueError("precision factors of densities must be lower triangular and positive")
