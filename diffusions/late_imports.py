"""Imports that wait until something is used: a package's own names, and packages of optional extras."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

EXTRA_OF = {
    "anndata": "bio",
    "diffrax": "ode",
    "flatbuffers": "exchange",
    "h5py": "bio",
    "pandas": "bio",
    "safetensors": "exchange",
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
        cause = "" if absent else f" ({module} is there but cannot be loaded: {error})"
        raise ImportError(_needs(module, what) + cause, name=module) from error


def check_extra(module: str, what: str) -> None:
    """Raises ImportError, as `import_extra`, where a package is not installed; loads nothing."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(_needs(module, what), name=module)


def _needs(module: str, what: str) -> str:
    extra = EXTRA_OF[module]
    return f"{what} needs the extra `{extra}`: pip install 'jkonet-diffusions[{extra}]'"


def public_names(package: str) -> dict[str, str]:
    """Public name -> module that defines it, out of the package's stub.

    The stub `__init__.pyi` is their only list, which type checkers and editors read as well. Its lines
    are `from package.module import name as name`.
    """
    stub = pkgutil.get_data(package, "__init__.pyi")
    assert stub is not None
    home = {}
    for line in stub.decode().splitlines():
        match line.split():
            case ["from", module, "import", name, "as", _]:
                home[name] = module
    return home


def names_on_first_use(
    package: str,
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose public names are loaded on first use.

    Args:
        package: its name.

    Returns:
        The three. `__getattr__` raises AttributeError for a name that is not public only: Python
        takes one for "no such name" and drops what it says, so that a submodule's own AttributeError
        becomes the cause of an ImportError.
    """
    home = public_names(package)

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(home[name]), name)
        except AttributeError as error:
            raise ImportError(
                f"{home[name]} cannot be loaded: {type(error).__name__}: {error}", name=home[name]
            ) from error

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home} - {names_on_first_use.__name__})

    return get, names, list(home)
