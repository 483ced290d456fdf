"""What a report is told. Imports no JAX."""

import dataclasses
from pathlib import Path

from diffusions.checks import PathText, check_fields
from experiments.reports.place import check_reported


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What a report is of.

    Attributes:
        run: folder of a run of any experiment, or of a sweep.
        out: file of the page; absent, `report.html` in that folder.
    """

    run: str | None = None
    out: PathText | None = None

    def __post_init__(self):
        check_fields(self)
        if not self.run:
            raise ValueError("--run is required: the folder of a run, such as runs/demo")

    def check_inputs(self) -> None:
        """Raises ValueError where there is nothing to report of."""
        check_reported(Path(str(self.run)))
