"""Imports weights that PyTorch trained into a folder that this repository reads; needs no PyTorch.

The file is read without executing anything in it. The folder is complete or absent.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checkpoints.settings import ImportSettings
from data_generation.scripts.command_line import define_flags, run_script, say, settings_from_flags
from diffusions.files import kind_of

FLAGS = define_flags(ImportSettings)

EXAMPLE = """
python -m checkpoints.import_torch --kind=message-passing --weights=model.pth --out=denoiser
python -m checkpoints.import_torch --kind=ddpm-unet --weights=ddpm.safetensors --out=unet
"""


def main() -> None:
    """Reads, maps and saves the weights of the flags."""
    settings = settings_from_flags(ImportSettings, FLAGS)
    weights_file, out = Path(str(settings.weights)), Path(str(settings.out))
    if kind_of(out) is not None:
        raise ValueError(f"{out} already exists; an import never overwrites")
    from checkpoints.torch.state_dict import read_state_dict

    weights = read_state_dict(weights_file)
    n_parameters = sum(array.size for array in weights.values())
    say(f"{weights_file}: {len(weights)} tensors, {n_parameters:,} parameters")
    if settings.kind == "message-passing":
        from checkpoints.torch.message_passing import import_message_passing

        n, k = settings.problem
        made: Any = import_message_passing(weights, out, n=n, k=k).model
    else:
        from checkpoints.torch.ddpm_unet import import_ddpm_unet

        made = import_ddpm_unet(weights, out, source=weights_file.name).module
    own = [f.name for f in dataclasses.fields(made) if f.name not in ("parent", "name")]
    fields = ", ".join(f"{name}={getattr(made, name)}" for name in own if name != "dtype")
    say(f"{out}: {type(made).__name__}({fields})")


def run(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return run_script(main, FLAGS, argv=argv, description=__doc__, example=EXAMPLE)


if __name__ == "__main__":
    raise SystemExit(run())
