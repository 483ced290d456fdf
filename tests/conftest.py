"""Checks of shapes while the tests run, plots without a screen, and double precision on request.

The annotations of the numerical modules are enforced by jaxtyping's import hook, in the tests only.
Settings are left out: what is wrong with them shall be said by their own errors, not by a type
checker's.
"""

import contextlib
import os
from pathlib import Path

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
# Installed here, because pytest imports this file before any test module and so before the library.
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


@contextlib.contextmanager
def _double_precision():
    """Switches 64-bit arithmetic on, in the spelling of the JAX at hand."""
    if callable(getattr(jax, "enable_x64", None)):
        with jax.enable_x64(True):
            yield
    else:
        from jax.experimental import enable_x64

        with enable_x64(True):
            yield


@pytest.fixture
def double_precision():
    """Runs the whole test in 64-bit arithmetic."""
    with _double_precision():
        yield
