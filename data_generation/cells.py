"""Coordinates and times of the cells of an AnnData object, for learning and for annotating alike."""

from collections.abc import Iterable
from typing import Any

import numpy as np

TIME_KEY = "time"
REPRESENTATION = "X_pca"


def cell_times(data: Any, time_key: str | None = None) -> np.ndarray:
    """Time of every cell, (n,); numbers, or text and categories that spell numbers.

    Args:
        data: AnnData.
        time_key: entry of `obs`.

    Raises:
        ValueError: there is no such entry, or it holds no numbers.
    """
    time_key = time_key or TIME_KEY
    if time_key not in data.obs:
        available = ", ".join(map(str, data.obs.columns)) or "none"
        raise ValueError(f"no {time_key!r} in obs (--time-key); available: {available}")
    return times_from_text(data.obs[time_key], f"obs[{time_key!r}]")


def cell_coordinates(data: Any, representation: str | None = None) -> np.ndarray:
    """Coordinates of every cell, (n, d).

    Args:
        data: AnnData.
        representation: entry of `obsm`.

    Raises:
        ValueError: there is no such entry.
    """
    representation = representation or REPRESENTATION
    if representation not in data.obsm:
        available = ", ".join(map(str, data.obsm.keys())) or "none"
        raise ValueError(
            f"no {representation!r} in obsm (--representation); available: {available}"
        )
    return np.asarray(data.obsm[representation])


def times_from_text(values: Iterable[object], what: str) -> np.ndarray:
    """Numbers from labels that may be strings or categories.

    Raises:
        ValueError: one of them is no number.
    """
    texts = [str(v) for v in values]
    try:
        return np.array([float(t) for t in texts])
    except ValueError:
        distinct = sorted(set(texts))
        shown = ", ".join(repr(t) for t in distinct[:5]) + (", ..." if len(distinct) > 5 else "")
        raise ValueError(f"{what} must be numbers to be times, got {shown}") from None
