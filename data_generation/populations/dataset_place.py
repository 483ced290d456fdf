"""Where a dataset is, or the file that one is made of: what is missing is said before JAX is loaded."""

import difflib
from pathlib import Path

from diffusions.files import recover

METADATA = "metadata.json"
"""The file whose presence makes a folder a dataset."""


def dataset_place(name_or_path: str | Path, data_dir: str | Path) -> Path:
    """The folder of a dataset.

    Args:
        name_or_path: a folder, or the name of one in `data_dir`.
        data_dir: where named datasets are.

    Raises:
        ValueError: there is none; the near misses are named.
    """
    data_dir = Path(data_dir)
    candidates = (Path(name_or_path), data_dir / name_or_path)
    for candidate in candidates:
        recover(candidate)
    # A folder of that name elsewhere shall not hide the dataset.
    for accept in (is_dataset, Path.is_dir):
        for candidate in candidates:
            if accept(candidate):
                return candidate
    known = sorted(p.parent.name for p in data_dir.glob(f"*/{METADATA}"))
    known = [name for name in known if not name.startswith(".")]
    near = difflib.get_close_matches(str(name_or_path), known, n=3, cutoff=0.5)
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    elif known:
        hint = f"; {data_dir} holds {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}"
    else:
        hint = f"; {data_dir} holds no dataset (make one with `python -m data_generation`)"
    raise ValueError(f"no dataset {str(name_or_path)!r}{hint}")


def is_dataset(folder: Path) -> bool:
    """Whether a folder is that of a dataset."""
    return (folder / METADATA).is_file()


def check_source(file: str | Path) -> None:
    """Raises ValueError, naming the file, unless it is there, a file, and not empty."""
    path = Path(file)
    try:
        wrong = _wrong(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")


def _wrong(path: Path) -> str | None:
    """Why no file of snapshots can be read there."""
    if path.is_dir():
        if path.suffix.lower() == ".zarr":
            return (
                "is a folder of zarr: anndata.read_zarr(FOLDER).write_h5ad(FILE) makes a file of it, "
                "and jkonet_star.cells.fit takes what is read from it"
            )
        return "is a folder, not a file"
    if not path.exists():
        return "no such file"
    if not path.is_file():  # a pipe would be waited for, and a device may have no end
        return "is not a file"
    return None if path.stat().st_size else "the file is empty"
