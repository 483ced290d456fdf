"""Which release of a package is here."""

from importlib import metadata

OWN = "jkonet-diffusions"


def release_of(package: str = OWN) -> str:
    """Of an installed package; "not installed" for one that is not, or that runs from its source."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
