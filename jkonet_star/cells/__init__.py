"""AnnData in, biology out: `cells.fit`, `cells.tl` for what it says of cells, `cells.pl` for pictures.

    from jkonet_star import cells
    model = cells.fit(adata, time_key="day")
    cells.tl.potential(adata)
    cells.tl.fates(adata, groups="cell_type", terminal=["A", "B"])
    cells.pl.fates(adata)

Everything is written into the AnnData object, under `jkonet`.
"""

from jkonet_star.cells import plotting as pl
from jkonet_star.cells import tools as tl
from jkonet_star.cells.model import CellEnergy, fit, keep, kept

__all__ = ["CellEnergy", "fit", "keep", "kept", "pl", "tl"]
