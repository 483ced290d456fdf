"""Writes the energy that a run learned back to the cells of an AnnData file.

obs gets jkonet_potential, jkonet_energy and, where cells interact or multiply, jkonet_interaction and
jkonet_growth; obsm gets jkonet_velocity, in the coordinates of the representation, and the same as
jkonet_drift; uns["jkonet"] says how they were made and keeps the energy, for jkonet_star.cells.
"""

from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing
from diffusions.late_imports import import_extra
from experiments.populations.settings import AnnotateSettings

FLAGS = define_flags(AnnotateSettings)

EXAMPLE = """
python -m experiments.annotate --run=runs/cells --h5ad=cells.h5ad --out=annotated.h5ad
"""


def main() -> None:
    """Annotates the cells of the flags."""
    settings = settings_from_flags(AnnotateSettings, FLAGS)
    import_extra("anndata", str(settings.h5ad))  # what is missing is said before anything is loaded
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from experiments.populations.annotation import annotate

    annotate(settings)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
