"""What a run's folder of a network holds beside its parameters, so that it is a density by itself."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.typing import ArrayLike

from checkpoints import load_network
from checkpoints.place import saved_in
from diffusions.checks import record
from diffusions.density.correction import Gate, preconditioned
from diffusions.density.exact import GaussianMixture
from diffusions.density.gaussian_reference import GaussianReference
from diffusions.density.log_snr import LogSNRLaw
from diffusions.density.mixture_reference import MixtureReference
from diffusions.density.reference import Reference
from diffusions.objectives import Denoiser
from diffusions.typing import Array
from experiments.information_theoretic.settings import ResolvedInformationTheoreticSettings
from experiments.information_theoretic.task import Task

MIXTURE, GATE = "mixture_", "gate_"
DATA_FIELDS = ("dataset", "data_seed", "n_points", "validation_ratio")
"""Settings that say which points a network of points was trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedDenoiser:
    """A network on disk, as a denoiser.

    Attributes:
        denoiser: predicts eps at log SNR a.
        module: the network.
        about: what was saved of it.
        n_parameters: of the network.
        law: of its log SNRs; None of one that was imported.
        reference: that it corrects; None where it corrects none.
    """

    denoiser: Denoiser
    module: nn.Module
    about: dict[str, Any]
    n_parameters: int
    law: LogSNRLaw | None
    reference: Reference | None


def about_denoiser(
    settings: ResolvedInformationTheoreticSettings, law: LogSNRLaw, task: Task
) -> dict[str, Any]:
    """What belongs to the network, in words and numbers."""
    return {
        "condition": "log_snr",
        "prediction": "epsilon",
        "precondition": settings.precondition,
        "gaussian_shown": task.shown,
        "log_snr": dataclasses.asdict(law),
        **{name: getattr(settings, name) for name in DATA_FIELDS},
        "checksums": task.checksums,
    }


def denoiser_arrays(reference: Reference, gate: Gate | None) -> dict[str, ArrayLike]:
    """The reference, and where the network is let in."""
    arrays: dict[str, ArrayLike] = {}
    match reference:
        case MixtureReference():
            arrays = {f"{MIXTURE}{k}": v for k, v in vars(reference.mixture).items()}
        case GaussianReference():
            arrays = {k: v for k, v in vars(reference).items() if v is not None}
    if gate is not None:
        arrays |= {f"{GATE}{k}": v for k, v in vars(gate).items()}
    return arrays


def saved_denoiser(path: str | Path) -> SavedDenoiser:
    """Opens the network of a run, or a folder of a network, such as an imported one.

    Args:
        path: of a run of `experiments.information_theoretic`, or of the folder.

    Raises:
        ValueError: there is none, it is damaged, it lacks what it corrects, or it is no function of
            the log SNR.
    """
    folder = saved_in(path, "network")
    saved = load_network(folder)
    about, extra = saved.about, saved.extra
    # Early imports had it in words.
    condition = str(about.get("condition", "log_snr")).replace("log SNR", "log_snr")
    if condition != "log_snr":
        raise ValueError(
            f"the network in {folder} is one of {condition.replace('_', ' ')}, not of the log SNR "
            "alone: it has no density"
        )
    law = record(LogSNRLaw, about["log_snr"], "its log_snr") if "log_snr" in about else None
    reference = _reference(extra)
    gate = None
    if f"{GATE}edges" in extra:
        gate = Gate(extra[f"{GATE}edges"], extra[f"{GATE}shares"])

    def network(z: Array, a: Array) -> Array:
        return saved.module.apply(saved.params, z, a)  # type: ignore[return-value]

    denoiser: Denoiser = network
    if about.get("precondition", "none") != "none":
        if reference is None:
            raise ValueError(f"the network in {folder} lacks the reference that it corrects")
        shown = bool(about.get("gaussian_shown"))
        denoiser = preconditioned(network, reference, shown=shown, gate=gate)
    return SavedDenoiser(
        denoiser=denoiser,
        module=saved.module,
        about=about,
        n_parameters=sum(leaf.size for leaf in jax.tree.leaves(saved.params)),
        law=law,
        reference=reference,
    )


def _reference(extra: dict[str, jax.Array]) -> Reference | None:
    if f"{MIXTURE}means" in extra:
        names = [field.name for field in dataclasses.fields(GaussianMixture)]
        return MixtureReference(GaussianMixture(**{n: extra[f"{MIXTURE}{n}"] for n in names}))
    if "eigenvalues" in extra:
        return GaussianReference(extra["mean"], extra["eigenvalues"], extra.get("eigenvectors"))
    return None
