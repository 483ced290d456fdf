"""Checks of shapes while the tests run, plots without a screen, and double precision on request.

The annotations of the numerical modules are enforced by jaxtyping's import hook, in the tests only.
Settings are left out: what is wrong with them shall be said by their own errors, not by a type
checker's. So are the constructors of pytrees, through which JAX passes whatever a transformation
puts in place of arrays: NumPy arrays, batches, axis numbers.
"""

import os
from pathlib import Path

import flax.struct
import jax
import jaxtyping
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).parents[1]
UNCHECKED = ("__init__", "settings")
CHECKED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("diffusions", "jkonet_star")
    for file in sorted((ROOT / package).rglob("*.py"))
    if file.stem not in UNCHECKED
]
_flax_dataclass = flax.struct.dataclass


def _pytree_with_free_constructor(cls=None, **options):
    if cls is None:
        return lambda cls: _pytree_with_free_constructor(cls, **options)
    made = _flax_dataclass(cls, **options)
    made.__no_type_check__ = True  # of the constructor only: methods are checked one by one
    return made


flax.struct.dataclass = _pytree_with_free_constructor
# Installed here, because pytest imports this file before any test module and so before the library.
# An int is accepted for a float, as PEP 484 has it.
jaxtyping.install_import_hook(
    CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)


@pytest.fixture
def double_precision():
    """Runs the whole test in 64-bit arithmetic."""
    from diffusions import precision  # only now, behind the hook above

    with precision.double_precision():
        yield


@pytest.fixture(scope="module")
def compiled_in_haste():
    """Compilation takes most of the time of small networks and runs: fewer optimisations cut it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def _memory_is_given_back():
    """Compiled programs of one file serve few others, and all of them together need gigabytes."""
    yield
    jax.clear_caches()
