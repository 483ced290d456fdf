"""Snapshots in .npz files, by the names of their arrays.

    points (n, d) with times or labels (n,)         the rows of one time are one snapshot
    points, train or snapshots (T, N, d)            dense, with times (T,) or a number dt, and test
    pcs (n, k) with sample_labels (n,)              TrajectoryNet's layout

Of arrays with other names it is said how to rename them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_generation.formats.array_files import npz_names, read_npz
from data_generation.populations.raw_populations import (
    Population,
    Raw,
    dense,
    grouped,
    labelled_times,
    numeric,
)
from diffusions.checks import shown
from jkonet_star.cells.masses import masses_of_times
from jkonet_star.cells.representation import absent

TRAJECTORYNET_COMPONENTS = 5

_LABELS = ("times", "labels")
_DENSE = ("points", "train", "snapshots")


def read_layouts(
    path: Path,
    n_components: int | None,
    *,
    time_map: Mapping[str, float] | None = None,
    mass_key: str | None = None,
) -> Raw:
    """Reads a file.

    Args:
        path: the file.
        n_components: of TrajectoryNet's layout.
        time_map: label -> time, for texts that say none by themselves.
        mass_key: array with the number of the whole population, at each time or beside each particle.

    Raises:
        ValueError: it is none of the layouts, or damaged; without the file's name.
    """
    names = npz_names(path)
    masses: np.ndarray | None = None
    if mass_key is not None:
        if mass_key not in names:
            raise ValueError(absent("the file", mass_key, names, "mass_key"))
        masses = read_npz(path, (mass_key,))[mass_key]
    if "pcs" in names:
        if "sample_labels" not in names:
            raise ValueError("`pcs` needs `sample_labels` beside it")
        kept = TRAJECTORYNET_COMPONENTS if n_components is None else n_components
        arrays = read_npz(path, ("pcs", "sample_labels"))
        points, labels = _standardised(arrays["pcs"], kept), arrays["sample_labels"]
        return _rows(points, labels, "labels", time_map, components=True, masses=masses)
    label = next((name for name in _LABELS if name in names), None)
    key = next((name for name in _DENSE if name in names), None)
    if key is None:
        raise ValueError(
            f"holds {', '.join(map(shown, names)) or 'nothing'}; expected `points` with `times`, "
            f"`pcs` with `sample_labels`, or `train`{_conversion(path, names)}"
        )
    wanted = [name for name in (key, label, "dt", "test") if name in names]
    arrays = read_npz(path, wanted)
    points = arrays[key]
    if points.ndim == 2:
        if label is None:
            raise ValueError(f"`{key}` (n, d) needs `times` (n,) beside it")
        return _rows(points, arrays[label], label, time_map, components=False, masses=masses)
    points = dense(points, f"`{key}`")
    times: np.ndarray | None = None
    unit = ""
    if label is not None:
        if arrays[label].shape == points.shape[:1]:
            times, unit = labelled_times(arrays[label], label, time_map)
        else:
            times = numeric(arrays[label], label)
    elif "dt" in names:
        step = numeric(arrays["dt"], "dt")
        if step.ndim:
            raise ValueError(f"dt must be one number, got shape {step.shape}")
        times = float(step) * np.arange(len(points))
    populations = [Population(points, times)]
    if key == "train" and "test" in names:
        test = dense(arrays["test"], "`test`")
        if (len(test), test.shape[2]) != (len(points), points.shape[2]):
            raise ValueError(f"`train` {points.shape} and `test` {test.shape} do not match")
        populations.append(Population(test, times))
    if masses is not None:
        masses = masses_of_times(masses, np.arange(len(points)) if times is None else times)
    return Raw(populations, False, unit, masses)


def _rows(
    points: np.ndarray,
    labels: np.ndarray,
    what: str,
    time_map: Mapping[str, float] | None,
    *,
    components: bool,
    masses: np.ndarray | None,
) -> Raw:
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        turned = (
            "; rows must be particles: give points.T"
            if points.ndim == 2 and labels.shape == points.shape[1:]
            else ""
        )
        raise ValueError(
            f"points {points.shape} and {what} {labels.shape} must be (n, d) and (n,) for one n"
            + turned
        )
    times = labelled_times(labels, what, time_map)
    return grouped(points, times, what, components=components, masses=masses)


def _standardised(components: np.ndarray, kept: int) -> np.ndarray:
    """The first `kept` components, each with mean 0 and standard deviation 1 over all cells."""
    components = numeric(components, "`pcs`")
    if components.ndim != 2 or components.shape[1] < kept:
        raise ValueError(f"`pcs` has shape {components.shape}; {kept} components are asked for")
    components = components[:, :kept].astype(np.float64)
    if not np.isfinite(components).all():
        raise ValueError("`pcs` has NaN or inf entries")
    spread = components.std(axis=0)
    if not (spread > 0).all():
        raise ValueError(f"component {int(np.argmin(spread))} of `pcs` is constant")
    return (components - components.mean(axis=0)) / spread


def _conversion(path: Path, names: list[str]) -> str:
    """How to rename arrays that have the shapes of snapshots; nothing where none have."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        try:
            shapes[name] = numeric(read_npz(path, (name,))[name], name).shape
        except ValueError:  # texts and objects are no coordinates
            continue
    start = "; if "
    ending = ", after a = np.load(FILE)"
    for name, shape in shapes.items():
        if len(shape) == 3 and name.isprintable():
            return (
                f"{start}{name!r} {shape} is (snapshots, particles, dimension), write "
                f"np.savez(NEW, points=a[{name!r}]){ending}, or a[{name!r}].swapaxes(0, 1) if it is "
                "(particles, snapshots, dimension)"
            )
    for name, shape in shapes.items():
        for times, length in shapes.items():
            if len(shape) == 2 and length in (shape[:1], (*shape[:1], 1)) and times != name:
                return (
                    f"{start}{name!r} {shape} has the particles and {times!r} their times, write "
                    f"np.savez(NEW, points=a[{name!r}], times=a[{times!r}].ravel()){ending}"
                )
    return ""
