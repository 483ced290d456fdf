"""Where cells may have gone among those that were seen later."""

import jax
import numpy as np
from scipy import sparse

from diffusions.keys import named_key
from jkonet_star.snapshots import snapshots_from_arrays
from jkonet_star.transport.couplings import couple


def plan_between(
    points: np.ndarray, weights: np.ndarray, targets: np.ndarray, seed: int
) -> sparse.csr_matrix:
    """The balanced plan from weighted cells to others, rows of sum 1."""
    both = snapshots_from_arrays(
        [points, targets], weights=[weights, np.ones(len(targets))], times=[0.0, 1.0]
    )
    found, _ = couple(both, key=named_key(jax.random.key(seed), "plan"))
    plan = sparse.csr_matrix(
        (
            np.asarray(found.weight, np.float64),
            (np.asarray(found.source), np.asarray(found.target)),
        ),
        (len(points), len(targets)),
    )
    total = np.asarray(plan.sum(axis=1)).ravel()
    return sparse.diags(1.0 / np.where(total > 0, total, np.inf)) @ plan
