"""Two populations cut at the same levels of mass, so that each part can be coupled with its own.

A particle that straddles a cut belongs to both parts with a share of its weight: couplings of all parts
together have the marginals of the whole.
"""

import numpy as np

from diffusions.typing import HostArray


def blocks_of_mass(
    a: HostArray, b: HostArray, n_blocks: int
) -> list[tuple[HostArray, HostArray, HostArray, HostArray]]:
    """Cuts both populations at the same levels of mass.

    Args:
        a: (n,) source weights of sum 1.
        b: (m,) target weights of sum 1.
        n_blocks: number of blocks.

    Returns:
        Per block the rows of the source, the rows of the target, and their weights in the block.
    """
    if n_blocks == 1:
        return [(np.arange(len(a)), np.arange(len(b)), a, b)]
    if len(a) == len(b):
        # Cuts between particles wherever weights allow it: uniform blocks couple much faster.
        cuts = np.cumsum([len(part) for part in np.array_split(a, n_blocks)])
        levels = np.cumsum(a)[cuts - 1]
    else:
        levels = np.arange(1, n_blocks + 1) / n_blocks
    levels = np.concatenate([[0.0], levels / levels[-1]])
    blocks = []
    for low, high in zip(levels[:-1], levels[1:], strict=True):
        blocks.append((*_slice_of_mass(a, low, high), *_slice_of_mass(b, low, high)))
    return [(i, j, a_block, b_block) for i, a_block, j, b_block in blocks]


def _slice_of_mass(weights: HostArray, low: float, high: float) -> tuple[HostArray, HostArray]:
    """Rows with mass between two levels of the cumulative weight, and that mass."""
    top = np.cumsum(weights)
    top /= top[-1]
    bottom = np.concatenate([[0.0], top[:-1]])
    inside = np.minimum(top, high) - np.maximum(bottom, low)
    # Cuts that fall between two particles up to rounding shall not make a sliver of either.
    rows = np.flatnonzero(inside > 1e-6 * weights)
    return rows, np.minimum(inside[rows], weights[rows])
