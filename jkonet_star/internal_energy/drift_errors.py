"""How well the drift of a weak form is known, at any point.

With G the features of the drift at x and S the covariance of their coefficients,

    Cov b(x) = s^2 G S G^T,                                                                        (1)

s being the speed of the energy's units.
"""

import numpy as np

from diffusions.typing import Float, HostArray
from jkonet_star.energies.models import LinearEnergy
from jkonet_star.fitted import FittedEnergy
from jkonet_star.internal_energy.euler_steps import drift_features


def drift_standard_errors(
    energy: FittedEnergy,
    x: Float[HostArray, "n d"],
    population: Float[HostArray, "m d"] | None = None,
) -> Float[np.ndarray, "n d"]:
    """Square roots of the diagonal of (1), of `energy.drift(x, population)`.

    For a model that holds, with the features that were chosen as if they had been known.

    Args:
        energy: a linear one whose drift is that of the weak form, with its report.
        x: where.
        population: over which the interaction is averaged; x itself where not given.

    Raises:
        ValueError: the energy is of another kind, or a stack of several.
    """
    energy.check_single()
    report, model = energy.report, energy.model
    if not isinstance(model, LinearEnergy) or report is None or report.weak_form is None:
        raise ValueError(
            "standard errors are those of a linear energy whose drift is of the weak form "
            "(independent snapshots, an internal energy, --drift=auto or weak-form)"
        )
    units = energy.constants["units"]
    origin = 0.0 if energy.origin is None else np.asarray(energy.origin, np.float64)
    center, length = np.asarray(units.center, np.float64), float(units.length)
    points = [
        (np.asarray(p, np.float64) - origin - center) / length
        for p in (x, x if population is None else population)
    ]
    m = len(points[1])
    (features,) = drift_features(
        model, energy.constants, points[:1], points[1:], [np.full(m, 1.0 / m)]
    )
    kept = features[..., report.weak_form.kept]
    covariance = np.array(report.weak_form.covariance)[1:, 1:]
    variance = np.einsum("dnf,fg,dng->nd", kept, covariance, kept)
    return float(units.speed) * np.sqrt(np.maximum(variance, 0.0))
