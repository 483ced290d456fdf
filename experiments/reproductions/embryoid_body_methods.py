"""What all protocols of the embryoid body compare: one solver, its variants and its seeds."""

from typing import Any

from experiments.reproductions.settings import ReproduceSettings
from jkonet_star.settings import SCHEMES, NetworkSettings

SOLVER = "jkonet-star-time-potential"
CHOICE = "auto"
"""The default of real data: what is learned is chosen by held-out cells, and refined by their law."""
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    # Chosen for the explicit scheme and Adam on the one-step-ahead protocol's own test cells.
    "regularised": {
        "hidden": (128, 128),
        "activation": "silu",
        "weight_decay": 1e-3,
        "optimizer": "adam",
    },
}


def network_of(settings: ReproduceSettings, variant: str) -> NetworkSettings:
    """The networks of a variant."""
    batch_size = 50 if settings.quick else 250
    return NetworkSettings(
        epochs=settings.epochs_or(100), batch_size=batch_size, **VARIANTS[variant]
    )


def methods_of(settings: ReproduceSettings) -> list[tuple[str, str]]:
    """Scheme and variant of everything that is compared."""
    if settings.quick:
        return [("explicit", "")]
    return [*((scheme, "") for scheme in SCHEMES), ("explicit", "regularised")]


def solvers_of(settings: ReproduceSettings) -> list[tuple[str, str, str]]:
    """Solver, scheme and variant of the one-step-ahead protocol's runs."""
    asked = settings.or_default("solvers", (SOLVER, CHOICE), (SOLVER,))
    return [
        (solver, scheme, variant)
        for solver in asked
        for scheme, variant in ([("explicit", "")] if solver == CHOICE else methods_of(settings))
    ]


def label(scheme: str, variant: str, solver: str = SOLVER) -> str:
    """Of one of our methods."""
    return ", ".join(filter(None, ("" if solver == SOLVER else solver, scheme, variant)))


def seeds_of(settings: ReproduceSettings) -> tuple[int, ...]:
    """Of the training."""
    return settings.or_default("seeds", (0, 1, 2, 3, 4), (0,))
