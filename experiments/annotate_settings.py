"""What an annotation of cells is told. Imports no JAX."""

import dataclasses

from diffusions.checks import Natural, PathText, check_fields, shown


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotateSettings:
    """Which cells are annotated with which energy.

    Attributes:
        run: folder of a finished run of experiments.train.
        h5ad: AnnData file with the cells.
        out: AnnData file to write; it must not exist.
        data_dir: where the run's dataset is, if it is not where the run found it.
        time_key: entry of `obs` with the times; absent, that of the run's dataset.
        representation: entry of `obsm`; absent, that of the run's dataset.
        seed_index: which of the run's seeds, counted from 0.
        prefix: of the names that are written.
    """

    run: str | None = None
    h5ad: str | None = None
    out: PathText | None = None
    data_dir: PathText = "data"
    time_key: str | None = None
    representation: str | None = None
    seed_index: Natural = 0
    prefix: str = "jkonet"

    def __post_init__(self):
        for name in ("run", "h5ad", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required")
        check_fields(self)
        if not self.prefix.isidentifier():
            raise ValueError(f"prefix must be a name, got {shown(self.prefix)}")
