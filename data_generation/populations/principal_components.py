"""Principal components of many columns, for data whose first columns are not its leading ones.

With the mean m and the singular value decomposition X - m = A S W^T of all particles, the components of
a particle x are

    z = W_k^T (x - m),                                                                              (1)

W_k the first k columns of W. Each is turned so that its largest loading is positive.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from diffusions.short_repr import short_repr
from diffusions.typing import Float, HostArray

_COMPONENT = re.compile(r"(?:x_?)?(?:pca?|pcs?|comp(?:onent)?|lsi|svd|dm|dc)[ _.-]?([0-9]+)", re.I)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projection:
    """Equation (1), so that particles that come later can be mapped as well.

    Attributes:
        mean: (p,) m.
        loadings: (p, k) W_k.
        explained: (k,) share of the variance along each component.
    """

    mean: Float[HostArray, "p"]
    loadings: Float[HostArray, "p k"]
    explained: Float[HostArray, "k"]

    __repr__ = short_repr

    def __call__(self, points: Float[HostArray, "*batch p"]) -> Float[HostArray, "*batch k"]:
        """Equation (1) of each particle, in double precision."""
        return (np.asarray(points, np.float64) - self.mean) @ self.loadings


def principal_components(points: Float[HostArray, "n p"], n_components: int) -> Projection:
    """The leading components of all particles.

    Args:
        points: finite.
        n_components: k.

    Raises:
        ValueError: there are fewer particles or columns than components.
    """
    if n_components > min(points.shape):
        raise ValueError(
            f"n_components is {n_components}, which {points.shape[0]} particles of "
            f"{points.shape[1]} columns do not have"
        )
    from sklearn.decomposition import PCA  # a second to import, and few data sets need it

    # The solver is random where there are many columns, but not from one run to the next.
    fitted = PCA(n_components, random_state=0).fit(np.asarray(points, np.float64))
    loadings = fitted.components_.T
    largest = loadings[np.abs(loadings).argmax(axis=0), np.arange(n_components)]
    return Projection(
        mean=fitted.mean_,
        loadings=loadings * np.where(largest < 0, -1.0, 1.0),
        explained=fitted.explained_variance_ratio_,
    )


def named_as_components(names: Sequence[str]) -> bool:
    """Whether columns are numbered components, such as PC1, PC2: the first are the leading ones."""
    numbers = [int(found[1][:9]) if (found := _COMPONENT.fullmatch(n)) else None for n in names]
    first = numbers[0] if numbers else None
    return first in (0, 1) and numbers == list(range(first, first + len(numbers)))
