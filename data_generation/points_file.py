"""Which files hold points, a row per point. Imports no JAX."""

from pathlib import Path

POINT_SUFFIXES = (".npy", ".csv")


def check_points_file(file: str | Path) -> None:
    """Raises ValueError unless the file is there, and by its name one of points."""
    path = Path(file)
    if path.suffix.lower() not in POINT_SUFFIXES:
        raise ValueError(f"{path} must be a file of points, .npy or .csv")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
