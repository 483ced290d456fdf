"""What every transport solver returns: the pairs that carry mass."""

import dataclasses

from diffusions.typing import HostArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsePlan:
    """The pairs of a transport plan that carry mass.

    Attributes:
        rows: (c,) rows in the source.
        cols: (c,) rows in the target.
        mass: (c,) mass; it sums to the plan's mass, 1 unless transport is unbalanced.
        converged: whether the marginal error fell below the threshold.
        iterations: of the solver.
        marginal_error: of the solver, in the L1 norm.
        dropped_mass: fraction of the mass that lay below (3), before rows were scaled back.
    """

    rows: HostArray
    cols: HostArray
    mass: HostArray
    converged: bool
    iterations: int
    marginal_error: float
    dropped_mass: float
