"""Where a saved model is: what is missing is said before JAX is loaded."""

from pathlib import Path

SHIPPED = Path(__file__).parent / "pretrained"
"""The models that come with the project, each in a folder of its name."""
TENSORS = ".safetensors"
DESCRIPTIONS = ("network.json", "energy.json")
"""What says that a folder is a model, and of which kind."""


def is_tensor_file(path: str | Path) -> bool:
    """Whether a path names a model in one file, which may be missing."""
    return Path(path).suffix == TENSORS


def described_by(folder: Path) -> str | None:
    """The JSON file that says what a folder holds; None where it is no model."""
    if folder.name.startswith("."):
        return None
    return next((name for name in DESCRIPTIONS if (folder / name).is_file()), None)


def model_names(folder: Path = SHIPPED) -> tuple[str, ...]:
    """The models in a folder."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if described_by(p) is not None))


def saved_in(run: str | Path, name: str) -> Path:
    """A run's folder stands for the network of that name in it."""
    folder = Path(run) / name
    return folder if folder.is_dir() else Path(run)


def network_of(path: str | Path) -> Path | None:
    """Where the network of a run, or of a folder of its own, is."""
    folder = Path(path)
    places = (folder, folder / "network", folder / "denoiser")
    return next((place for place in places if (place / "network.json").is_file()), None)


def check_saved(path: str | Path, kind: str) -> None:
    """Raises ValueError unless the folder holds a model of that kind, energy or network."""
    folder = Path(path).absolute()
    if not is_tensor_file(folder) and not (folder / f"{kind}.json").is_file():
        raise ValueError(f"{folder} holds no saved {kind} ({kind}.json is missing)")


def check_model(name: str) -> None:
    """Raises ValueError unless `--model` names a shipped model, a saved one, or a run of one."""
    folder = Path(name)
    if network_of(folder) is not None or (name in model_names() and not folder.exists()):
        return
    if not (folder / "energy.json").is_file() and not (folder / "energy").is_dir():
        known = ", ".join(model_names())
        raise ValueError(f"--model={name} is no saved model, no run of one, and none of {known}")
