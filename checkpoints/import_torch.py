"""Imports weights that PyTorch trained into a folder that this repository reads; needs no PyTorch.

The file is read without executing anything in it. The folder is complete or absent.
"""

from collections.abc import Sequence

from checkpoints.settings import ImportSettings
from data_generation.scripts.command_line import define_flags, run_script, settings_from_flags
from data_generation.scripts.garbage import importing

FLAGS = define_flags(ImportSettings)

EXAMPLE = """
python -m checkpoints.import_torch --kind=message-passing --weights=model.pth --out=denoiser
python -m checkpoints.import_torch --kind=ddpm-unet --weights=ddpm.safetensors --out=unet
python -m checkpoints.import_torch --kind=improved-ddpm-unet --weights=improved.pt --out=unet
"""


def main() -> None:
    """Reads, maps and saves the weights of the flags."""
    settings = settings_from_flags(ImportSettings, FLAGS)
    with importing():  # only now: `--help` and a mistyped flag need none of it
        from checkpoints.torch.importing import import_weights

    import_weights(settings)


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
