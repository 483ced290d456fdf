"""Coordinates of cells: an entry of `obsm`, whatever holds it."""

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from diffusions.checks import shown
from diffusions.typing import Float

REPRESENTATION = "X_pca"
MOST_DENSE_BYTES = 1 << 30
EVEN = 1.05
"""Ratio of the largest and the least deviation of components that were standardised."""
IDLE = 1e-8
"""Of the largest variance of a coordinate, below which one says nothing."""
FEW_PER_DIMENSION = 5
_NAMED = 5
# Entries of obsm whose columns are in the order of their importance.
_ORDERED = re.compile(r"(?:^|[^a-z])(?:pca?|pcs|lsi|svd|diffmap)(?:[^a-z]|$)", re.IGNORECASE)


def coordinates(data: Any, use_rep: str | None = None) -> np.ndarray:
    """Coordinates of every cell, (n, d), of an array, a sparse matrix, a table, or what reads later.

    Args:
        data: AnnData, in memory or backed.
        use_rep: entry of `obsm`; `X_pca` where not given.

    Raises:
        ValueError: there is no such entry, it holds anything but real numbers, or is a sparse matrix
            that would be too large as an array.
    """
    use_rep = use_rep or REPRESENTATION
    if use_rep not in data.obsm:
        said = absent("obsm", use_rep, data.obsm.keys(), "use_rep")
        if use_rep == REPRESENTATION:
            said += "; scanpy.pp.pca makes it"
        elif use_rep == "X":
            said += "; X is the expression, of which scanpy.pp.pca makes X_pca"
        raise ValueError(said)
    found, name = data.obsm[use_rep], f"obsm[{use_rep!r}]"
    if hasattr(found, "to_memory"):  # kept on disk, read when asked for
        found = found.to_memory()
    if hasattr(found, "compute"):
        found = found.compute()
    if hasattr(found, "columns"):  # a data frame
        texts = [c for c, kind in found.dtypes.items() if getattr(kind, "kind", "O") not in "fiu"]
        if texts:
            raise ValueError(
                f"{name} has columns that are no numbers: {listed(texts)}; remove them, or name "
                f"another entry with use_rep (available: {listed(data.obsm.keys())})"
            )
        found = found.to_numpy()
    elif hasattr(found, "toarray"):  # a sparse matrix
        n_bytes = math.prod(found.shape) * 8
        if n_bytes > MOST_DENSE_BYTES:
            raise ValueError(
                f"{name} is a sparse matrix of shape {found.shape}, which would take "
                f"{n_bytes / 2**30:.3g} GiB as an array: reduce it first, as scanpy.pp.pca does, and "
                "name the result with use_rep"
            )
        found = found.toarray()
    points = np.asarray(found)
    if points.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must hold real numbers, got {points.dtype}; another entry is named by use_rep "
            f"(available: {listed(data.obsm.keys())})"
        )
    return points


def embedding(data: Any, basis: str) -> np.ndarray:
    """`obsm["X_BASIS"]`, of `BASIS` and `X_BASIS` alike, in double precision.

    Raises:
        ValueError: there is no such entry.
    """
    name = f"X_{basis.removeprefix('X_')}"
    if name not in data.obsm:
        raise ValueError(absent("obsm", name, data.obsm.keys(), "basis"))
    return np.asarray(data.obsm[name], np.float64)


def leading_coordinates(
    data: Any, use_rep: str | None, n_components: int | None = None
) -> Float[np.ndarray, "n d"]:
    """The first coordinates of every cell, in double precision.

    Args:
        data: AnnData.
        use_rep: entry of `obsm`.
        n_components: how many; all where not given.

    Raises:
        ValueError: there are fewer, or some cells have none that are finite; they are named.
    """
    use_rep = use_rep or REPRESENTATION
    name, points = f"obsm[{use_rep!r}]", coordinates(data, use_rep)
    if points.ndim != 2:
        raise ValueError(f"{name} must be cells x coordinates, got shape {points.shape}")
    wanted = points.shape[1] if n_components is None else n_components
    if not isinstance(wanted, int | np.integer) or isinstance(wanted, bool):
        raise ValueError(f"n_components must be an integer, got {shown(wanted)}")
    if points.shape[1] < wanted or wanted < 1:
        raise ValueError(f"{name} has shape {points.shape}; {wanted} coordinates are asked for")
    points = np.asarray(points[:, :wanted], np.float64)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        names = listed(np.asarray(data.obs_names)[bad[:_NAMED]])
        raise ValueError(
            f"{bad.size} of {len(points)} cells have NaN or inf in {name}: {names}"
            + (", ..." if bad.size > _NAMED else "")
        )
    return points


def remarks(points: Float[np.ndarray, "n d"], counts: np.ndarray, name: str) -> list[str]:
    """What is odd about a representation, a line each.

    Args:
        points: of all cells.
        counts: cells of each time.
        name: of the representation.
    """
    variance, d = points.var(axis=0), points.shape[1]
    found = []
    if d > 2 and variance.max() < EVEN**2 * variance.min() and in_order(name):
        found.append(
            f"the {d} coordinates of {name} have the same variance, as standardised components have, "
            "which makes noise as large as the signal: take them as the PCA makes them"
        )
    idle = np.flatnonzero(variance <= IDLE * variance.max())
    if idle.size:
        found.append(
            f"{idle.size} of {d} coordinates of {name} hardly vary, the first of them {idle[0]}: "
            "n_components leaves the last ones out"
        )
    least = int(counts.min())
    if least < FEW_PER_DIMENSION * d:
        found.append(
            f"a time has {least} cells for {d} coordinates: fewer coordinates (n_components) are "
            "learned more surely"
        )
    return found


def obs_column(data: Any, name: str) -> Any:
    """A column of `obs`, in memory."""
    column = data.obs[name]
    return column.to_series() if hasattr(column, "to_series") else column


def in_order(use_rep: str) -> bool:
    """Whether the first columns of an entry of `obsm`, by its name, are its leading ones."""
    return bool(_ORDERED.search(use_rep))


def absent(place: str, name: str, names: Iterable[object], argument: str) -> str:
    """That an entry is not there, which are, and which one may have been meant."""
    there = [str(n) for n in names]
    near = difflib.get_close_matches(name, there, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"no {name!r} in {place} ({argument}); available: {listed(there)}{meant}"


def listed(names: Iterable[object]) -> str:
    """The first names, those that are not printable as Python writes them."""
    texts = [name if (name := str(n)).isprintable() else shown(name) for n in names]
    return ", ".join(texts[:20]) + (", ..." if len(texts) > 20 else "") or "none"
