"""Few weighted points in place of many, with the same mean."""

import numpy as np

from diffusions.typing import Float


def representatives(
    points: Float[np.ndarray, "n d"], weights: Float[np.ndarray, "n"], most: int
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m"]]:
    """Means and masses of at most `most` cells, halved along their widest coordinate in turn.

    Means of affine functions are exact, those of smooth ones to second order in a cell's size.
    """
    cells = [np.arange(len(points))]
    while 2 * len(cells) <= most and max(len(own) for own in cells) > 1:
        halves: list[np.ndarray] = []
        for own in cells:
            if len(own) == 1:
                halves.append(own)
                continue
            axis = int(np.ptp(points[own], axis=0).argmax())
            order = own[np.argpartition(points[own, axis], len(own) // 2)]
            halves += [order[: len(own) // 2], order[len(own) // 2 :]]
        cells = halves
    mass = np.array([weights[own].sum() for own in cells])
    means = [weights[own] @ points[own] / m for own, m in zip(cells, mass, strict=True)]
    return np.stack(means), mass
