"""Published and small configurations of the U-Net, as keyword arguments. Imports no JAX.

name              parameters  what it is
ddpm-cifar10      35,746,307  Ho, Jain, Abbeel 2020, their CIFAR-10 network (3 channels in)
improved-cifar10  52,542,979  Nichol, Dhariwal 2021, their CIFAR-10 network (3 channels in)
sparse            56,909,571  sparsity-aware diffusion, 9 channels in (3 C)
small              1,113,955  for a CPU and 32 x 32 images (3 channels in)
tiny                 164,563  for tests and demonstrations (3 channels in)
"""

from typing import Any, Literal

Style = Literal["ddpm", "improved"]
"""Of the blocks, the paddings and the sinusoids: see `diffusions.networks.unet`."""

NoiseSteps = Literal["linear-1000", "cosine-4000"]
"""That published networks were trained on."""

UNetPreset = Literal["ddpm-cifar10", "improved-cifar10", "sparse", "small", "tiny"]

UNET_PRESETS: dict[str, dict[str, Any]] = {
    "ddpm-cifar10": {
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "blocks_per_level": 2,
        "attention_levels": (1,),
    },
    "improved-cifar10": {
        "width": 128,
        "multipliers": (1, 2, 2, 2),
        "blocks_per_level": 3,
        "attention_levels": (1, 2),
        "style": "improved",
        "heads": 4,
    },
    "sparse": {
        "width": 64,
        "multipliers": (1, 2, 4, 8),
        "blocks_per_level": 2,
        "attention_levels": (1,),
    },
    "small": {
        "width": 32,
        "multipliers": (1, 2, 2),
        "blocks_per_level": 1,
        "attention_levels": (2,),
    },
    "tiny": {
        "width": 16,
        "multipliers": (1, 2),
        "blocks_per_level": 1,
        "attention_levels": (),
        "groups": 8,
    },
}
