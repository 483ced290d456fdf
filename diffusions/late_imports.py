"""Imports that wait until something is used: a package's own names, and packages of optional extras."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

EXTRA_OF = {
    "anndata": "bio",
    "diffrax": "ode",
    "h5py": "bio",
    "submitit": "slurm",
    "wandb": "track",
}


def import_extra(module: str, what: str) -> Any:
    """A package that an optional extra installs.

    A script calls it before it touches anything, so that a missing extra costs nothing.

    Args:
        module: a key of `EXTRA_OF`.
        what: what it is needed for, which begins the message.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed, or cannot be loaded; the message names the extra, the
            command that installs it, and in the second case the cause.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        extra = EXTRA_OF[module]
        raise ImportError(
            f"{what} needs the extra `{extra}`: pip install 'jkonet-diffusions[{extra}]'"
            + ("" if absent else f" ({module} is there but cannot be loaded: {error})"),
            name=module,
        ) from error


def names_on_first_use(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are loaded when they are first asked for.

    Args:
        package: its name.
        home: public name -> submodule that defines it.

    Returns:
        The function. It raises AttributeError for a name that is not in `home` only: Python takes
        one for "no such name" and drops what it says, so that a submodule's own AttributeError
        becomes the cause of an ImportError.
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        except AttributeError as error:
            raise ImportError(
                f"{package}.{home[name]} cannot be loaded: {type(error).__name__}: {error}",
                name=f"{package}.{home[name]}",
            ) from error

    return get
