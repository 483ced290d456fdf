"""Learning the energy of a population from its snapshots.

    from jkonet_star import fit, snapshots_from_arrays

Names are loaded on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from diffusions.late_imports import names_on_first_use

if TYPE_CHECKING:
    from jkonet_star.couplings import Couplings, couple
    from jkonet_star.densities import fit_densities
    from jkonet_star.evaluation import evaluate
    from jkonet_star.fitted import FittedEnergy
    from jkonet_star.settings import (
        SOLVERS,
        BilevelSettings,
        CouplingSettings,
        DensitySettings,
        FeatureSettings,
        InternalSettings,
        NetworkSettings,
    )
    from jkonet_star.snapshots import Snapshots, snapshots_from_arrays
    from jkonet_star.solvers import fit

_HOME = {
    "Couplings": "couplings",
    "couple": "couplings",
    "fit_densities": "densities",
    "evaluate": "evaluation",
    "FittedEnergy": "fitted",
    "SOLVERS": "settings",
    "BilevelSettings": "settings",
    "CouplingSettings": "settings",
    "DensitySettings": "settings",
    "FeatureSettings": "settings",
    "InternalSettings": "settings",
    "NetworkSettings": "settings",
    "Snapshots": "snapshots",
    "snapshots_from_arrays": "snapshots",
    "fit": "solvers",
}

__all__ = [
    "SOLVERS",
    "BilevelSettings",
    "CouplingSettings",
    "Couplings",
    "DensitySettings",
    "FeatureSettings",
    "FittedEnergy",
    "InternalSettings",
    "NetworkSettings",
    "Snapshots",
    "couple",
    "evaluate",
    "fit",
    "fit_densities",
    "snapshots_from_arrays",
]

__getattr__ = names_on_first_use("jkonet_star", _HOME)
