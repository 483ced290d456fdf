"""Couplings that agree with the motion that is learned from them.

Optimal transport couples as if every step were a gradient: a cloud that turns is coupled by the
symmetric map between its two shapes, and what is learned from that turns too little. With S_theta the
explicit step of a linear energy, and gamma_p optimal between its prediction and the next snapshot,

    gamma_p = OT(law of S_{theta_p}(X), X ~ mu_k; mu_{k+1}),
    theta_{p+1} = argmin_theta sum_k E_{gamma_p} |S_theta(x) - y|^2 + ridge,                       (1)

each half of a pass lowers sum_k W_2^2(law of S_theta(X); mu_{k+1}) or leaves it: where S_theta can lead
to the laws seen, the couplings end as those of its motion. `PASSES` are enough by far (a Gaussian of
axes 2 and 1 that turns by 30 degrees a step: the angle is within .5 % after five), and fewer are made
where (1) has come to rest. Motion that no law shows, as that of a round cloud about its centre, is not
found: it costs nothing to leave it out.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusions.keys import named_key
from diffusions.typing import Array, Float, HostArray, Key, Params, PyTree
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.settings import CouplingSettings, FeatureSettings
from jkonet_star.snapshots import Snapshots
from jkonet_star.solvers.closed_form import fit_linear
from jkonet_star.solvers.first_order import (
    FirstOrderConditions,
    first_order_conditions,
    residuals,
)
from jkonet_star.solvers.linear_model import linear_model
from jkonet_star.solvers.registry import Terms
from jkonet_star.transport.couplings import CouplingReport, Couplings, couple

PASSES = 10
DEGREE = 3
"""Total, of the monomials of S_theta: what is richer follows the chance in few particles."""
RIDGE = 1e-4
"""Of every fit: next to none, because a ridge would hold the motion back in every pass."""
AT_REST = 0.01
"""Relative change of the squared distance by one pass, below which no further one is made."""


def settled_couplings(
    terms: Terms,
    snapshots: Snapshots,
    couplings: Couplings,
    features: FeatureSettings,
    *,
    settings: CouplingSettings = CouplingSettings(),  # noqa: B008 (frozen)
    key: Key,
) -> tuple[Couplings, list[CouplingReport]]:
    """The couplings of equation (1).

    Args:
        terms: of S_theta, whose V does not depend on time.
        snapshots: of the population.
        couplings: gamma_0.
        features: of S_theta, of which it has the low monomials only.
        settings: of the transport in every pass.
        key: decides the blocks of couplings.

    Returns:
        The couplings, and one report per step.
    """
    smooth = dataclasses.replace(
        features, degree=DEGREE, total_degree=DEGREE, trigonometric=False, radial="none"
    )
    model, constants = linear_model(terms, snapshots, smooth)
    before, reports = np.inf, list[CouplingReport]()
    for number in range(PASSES):
        conditions = first_order_conditions(snapshots, couplings, None, "explicit")
        params, _ = fit_linear(model, constants, conditions, regularization=RIDGE)
        moved = np.array(snapshots.points[:-1])
        step, source = np.asarray(couplings.step), np.asarray(couplings.source)
        moved[step, source] = _ends(model, params, constants, conditions)
        couplings, reports = _coupled(moved, snapshots, settings, jax.random.fold_in(key, number))
        cost = float(np.mean([report.cost for report in reports]))
        if not cost < (1 - AT_REST) * before:
            break
        before = cost
    return couplings, reports


@functools.partial(jax.jit, static_argnames=("model",))
def _ends(
    model: LinearEnergy, params: Params, constants: PyTree, conditions: FirstOrderConditions
) -> Float[Array, "c d"]:
    """S_theta(x) of every pair."""
    rows = jnp.arange(conditions.point.shape[0])
    missing, _ = residuals(model, params, constants, conditions, rows)
    return conditions.point + conditions.displacement - missing


def _coupled(
    moved: Float[HostArray, "k n d"], snapshots: Snapshots, settings: CouplingSettings, key: Key
) -> tuple[Couplings, list[CouplingReport]]:
    """Optimal transport of the moved particles of every snapshot to the next one."""
    parts, reports = [], []
    for k in range(snapshots.n_steps):
        pair = Snapshots(
            points=jnp.stack([jnp.asarray(moved[k], jnp.float32), snapshots.points[k + 1]]),
            weights=snapshots.weights[k : k + 2],
            times=snapshots.times[k : k + 2],
        )
        own_key = named_key(jax.random.fold_in(key, k), "settled couplings")
        own, told = couple(pair, settings, key=own_key)
        parts.append(dataclasses.replace(own, step=jnp.full_like(own.step, k)))
        reports.append(dataclasses.replace(told[0], step=k))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), reports
