"""Learning the energy of a population from its snapshots.

    from jkonet_star import fit, snapshots_from_arrays

Names are loaded on first use, so that importing the package costs nothing.
"""

from diffusions.late_imports import names_on_first_use

__getattr__, __dir__, __all__ = names_on_first_use("jkonet_star")
