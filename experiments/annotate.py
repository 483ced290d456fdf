"""Writes the energy that a run learned back to the cells of an AnnData file.

obs gets jkonet_potential, jkonet_energy and, where cells interact, jkonet_interaction; obsm gets
jkonet_drift, in the coordinates of the representation; uns["jkonet"] says how they were made.
"""

from collections.abc import Sequence

from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
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
    from experiments.populations.annotation import annotate

    annotate(settings)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
