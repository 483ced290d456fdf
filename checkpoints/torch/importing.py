"""A file of PyTorch weights becomes a folder of ours."""

import dataclasses
from pathlib import Path
from typing import Any

from checkpoints.settings import ImportSettings
from checkpoints.torch.ddpm_unet import unet_from_state_dict
from checkpoints.torch.improved_unet import improved_unet_from_state_dict
from checkpoints.torch.message_passing import import_message_passing
from checkpoints.torch.state_dict import read_state_dict
from data_generation.scripts.command_line import say
from diffusions.files import kind_of


def import_weights(settings: ImportSettings) -> None:
    """Reads, maps and saves what the settings name.

    Raises:
        ValueError: the folder exists, the file is damaged, or it holds another network.
    """
    weights_file, out = Path(str(settings.weights)), Path(str(settings.out))
    if kind_of(out) is not None:
        raise ValueError(f"{out} already exists; an import never overwrites")
    weights = read_state_dict(weights_file)
    n_parameters = sum(array.size for array in weights.values())
    say(f"{weights_file}: {len(weights)} tensors, {n_parameters:,} parameters")
    if settings.kind == "message-passing":
        n, k = settings.problem
        made: Any = import_message_passing(weights, out, n=n, k=k).model
    else:
        if settings.kind == "improved-ddpm-unet":
            heads, noise_steps = settings.unshown
            found = improved_unet_from_state_dict(weights, heads=heads, noise_steps=noise_steps)
        else:
            found = unet_from_state_dict(weights)
        found.save(out, source=weights_file.name)
        made = found.module
    own = [f.name for f in dataclasses.fields(made) if f.name not in ("parent", "name")]
    fields = ", ".join(f"{name}={getattr(made, name)}" for name in own if name != "dtype")
    say(f"{out}: {type(made).__name__}({fields})")
