"""Writes a model for others: safetensors, programs that run with JAX alone, and a card.

Needs the extra `exchange`. The folder is complete or absent; `load_energy` and `load_network` open its
`model.safetensors`.
"""

from collections.abc import Sequence

from checkpoints.settings import ExportSettings
from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing

FLAGS = define_flags(ExportSettings)

EXAMPLE = """
python -m checkpoints.export --model=runs/demo --out=shared/demo
python -m checkpoints.export --model=dino --out=shared/dino
python -m checkpoints.export --model=sparse_pixels --image-size=32,32 --out=shared/sparse_pixels
"""


def main() -> None:
    """Reads and writes the model of the flags."""
    settings = settings_from_flags(ExportSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from checkpoints.exchange.model_folder import export_model

    export_model(settings)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
