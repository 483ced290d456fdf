"""A model as a folder for others.

model.safetensors    its arrays, and what is told of it
NAME.jax_export      drift and potential of an energy, or the network, as programs
README.md            its card
"""

from pathlib import Path

from checkpoints.energies import load_energy
from checkpoints.exchange.card import readme
from checkpoints.exchange.programs import SUFFIX as PROGRAM
from checkpoints.exchange.programs import energy_programs, network_program
from checkpoints.exchange.tensors import save_tensors
from checkpoints.networks import SavedNetwork, described_network, load_network
from checkpoints.place import TENSORS, check_model, network_of
from checkpoints.pretrained_models import load_pretrained, pretrained_card, pretrained_names
from checkpoints.settings import ExportSettings
from data_generation.formats.json_file import read_json
from data_generation.scripts.command_line import say
from diffusions.files import kind_of, made_parents, new_folder, write_bytes, write_text
from diffusions.late_imports import import_extra
from jkonet_star.described import describe
from jkonet_star.fitted import FittedEnergy

_SUMMARY = "summary.json"


def export_model(settings: ExportSettings) -> None:
    """Writes the folder that the settings name; it is complete or absent.

    Raises:
        ImportError: the extra `exchange` is missing.
        ValueError: the folder exists, no model is there, or it cannot be a program.
    """
    out = Path(str(settings.out))
    for module in ("safetensors", "flatbuffers"):
        import_extra(module, "an export")
    if kind_of(out) is not None:
        raise ValueError(f"{out} already exists; an export never overwrites")
    name = str(settings.model)
    model, body = _model(name, settings.seed)
    if isinstance(model, FittedEnergy):
        if settings.image_size is not None:
            raise ValueError(
                f"--model={name} is an energy and has no images: leave --image-size out"
            )
        kind, described = "energy", describe(model)
        programs = energy_programs(model)
    else:
        kind, described = "network", described_network(model)
        n = model.about.get("n")
        image = settings.image_size
        programs = {"network": network_program(model.module, model.params, n=n, image=image)}
    version, description, arrays = described
    told = {"schema_version": version, **description}
    shown = {name: value for name, value in told.items() if name != "report"}
    card = readme(
        Path(name).resolve().name,
        kind,
        body=body,
        told=shown,
        programs=programs,
    )
    with made_parents(out), new_folder(out) as unfinished:
        save_tensors(unfinished / f"model{TENSORS}", kind, told, arrays)
        for program, made in programs.items():
            write_bytes(unfinished / f"{program}{PROGRAM}", made.content)
        write_text(unfinished / "README.md", card)
    say(f"{out}: {', '.join(sorted(p.name for p in out.iterdir()))}")


def _model(name: str, seed: int) -> tuple[FittedEnergy | SavedNetwork, str]:
    """A model by its name or folder, and what is known of it."""
    folder = Path(name)
    if name in pretrained_names() and not folder.exists():
        _check_alone(name, seed)
        return load_pretrained(name), str(pretrained_card(name)).partition("\n")[2]
    network = network_of(folder)
    if network is not None:
        _check_alone(name, seed)
        return load_network(network), f"A network of `{folder.name}`, by jkonet-diffusions."
    check_model(name)
    energy = load_energy(folder)
    if energy.times.ndim != 1:
        if seed >= len(energy.times):
            raise ValueError(
                f"--seed={seed}: the energies of {name} are {len(energy.times)}, from 0"
            )
        energy = energy.member(seed)
    else:
        _check_alone(name, seed)
    return energy, f"{_verdict(folder)}```\n{energy!r}\n```"


def _check_alone(name: str, seed: int) -> None:
    if seed:
        raise ValueError(f"--seed={seed}: {name} is one model, so leave --seed out")


def _verdict(run: Path) -> str:
    """What a finished run says of itself."""
    if not (run / _SUMMARY).is_file():
        return ""
    said = read_json(run / _SUMMARY).get("verdict")
    return f"{said}\n\n" if said else ""
