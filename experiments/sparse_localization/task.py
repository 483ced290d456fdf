"""What is denoised: the problem, the denoisers that are there, published numbers."""

import dataclasses
from pathlib import Path

from checkpoints.message_passing import SHIPPED, Denoiser, load_denoiser
from checkpoints.place import saved_in
from data_generation.formats.json_file import read_text
from experiments.sparse_localization.settings import (
    DENOISER,
    PUBLISHED_N,
    PUBLISHED_TIMES,
    SparseSettings,
    naming_reference,
)

DEFAULT_K = 20
DEFAULT_SAMPLES = {"train": 1000, "evaluate": 15_000, "generate": 500, "reproduce": 1000}


@dataclasses.dataclass(frozen=True)
class DenoisingProblem:
    """What the flags leave open is filled in from the denoiser, or by the published problem."""

    n: int
    k: int
    times: tuple[float, ...]
    n_samples: int
    horizon: float


def read_reference(settings: SparseSettings) -> dict[float, float]:
    """Published means: time -> value, from a file of one number per line."""
    if settings.reference is None:
        return {}
    with naming_reference(settings.reference):
        values = [float(word) for word in read_text(Path(settings.reference)).split()]
    if len(values) != len(PUBLISHED_TIMES):
        raise ValueError(
            f"{settings.reference} holds {len(values)} numbers; one is needed for each of the times "
            f"{PUBLISHED_TIMES[0]:g}, {PUBLISHED_TIMES[1]:g}, ..., {PUBLISHED_TIMES[-1]:g}"
        )
    if not all(0.0 <= value < float("inf") for value in values) or not 0.0 < values[0] < 1.0:
        raise ValueError(
            f"{settings.reference} must hold mean squared errors, the first of them the share of "
            f"non-zero matrices, got {values[0]:g} to begin with and {min(values):g} to {max(values):g}"
        )
    return dict(zip(PUBLISHED_TIMES, values, strict=True))


def open_checkpoints(settings: SparseSettings) -> dict[str, Denoiser]:
    """Denoisers by label, all of one problem."""
    paths = [Path(path) for path in settings.checkpoint] or [SHIPPED]
    # A run's folder stands for the denoiser in it.
    paths = [saved_in(path, DENOISER) for path in paths]
    labels = [path.parent.name if path.name == DENOISER else path.name for path in paths]
    if len(set(labels)) != len(labels):
        raise ValueError(f"checkpoints must have different names, got {', '.join(labels)}")
    denoisers = {label: load_denoiser(path) for label, path in zip(labels, paths, strict=True)}
    problems = {(found.n, found.model.n_nonzero) for found in denoisers.values()}
    if len(problems) > 1 and (settings.n is None or settings.k is None):
        raise ValueError(
            "the checkpoints are of different problems (n, k): "
            f"{', '.join(map(str, sorted(problems)))}; give --n and --k"
        )
    return denoisers


def problem_of(settings: SparseSettings, denoisers: dict[str, Denoiser]) -> DenoisingProblem:
    """What is to be denoised.

    Raises:
        ValueError: more entries than coordinates, or a step beyond the horizon.
    """
    found = next(iter(denoisers.values()), None)
    n = settings.n or (found.n if found else PUBLISHED_N)
    k = settings.k or (found.model.n_nonzero if found else DEFAULT_K)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, got {k}")
    horizon = settings.horizon or 4.0 * n
    if settings.step > horizon:
        raise ValueError(f"step {settings.step:g} exceeds the horizon {horizon:g}")
    return DenoisingProblem(
        n=n,
        k=k,
        times=settings.times or tuple(t * n / PUBLISHED_N for t in PUBLISHED_TIMES),
        n_samples=settings.n_samples or DEFAULT_SAMPLES[settings.mode],
        horizon=horizon,
    )
