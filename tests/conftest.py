"""Checks of shapes while the tests run, plots without a screen, compilation once and in haste.

The annotations of the numerical modules are enforced by jaxtyping's import hook, in the tests only.
Settings are left out: what is wrong with them shall be said by their own errors, not by a type
checker's. So is what checks each field of a file, hundreds of thousands of times where files are
damaged in every way. So are the constructors of pytrees, through which JAX passes whatever a
transformation puts in place of arrays: NumPy arrays, batches, axis numbers.
"""

import contextlib
import gc
import importlib.metadata
import os
import warnings
from pathlib import Path

# One per worker of xdist: those of two wait for each other, spinning. Before NumPy is imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Compiling is most of what the tests cost. Modules of LLVM that are split, to be compiled side by side,
# are a tenth of that; XLA's emitters of fused kernels by way of MLIR were half of it, and only some
# releases can do without them: an unknown flag ends the process. Before JAX is imported.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false"
        if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)
        else "",
    )
)

import flax.struct
import jax
import jaxtyping
import pytest
from jax.experimental.compilation_cache import compilation_cache

os.environ.setdefault("MPLBACKEND", "Agg")

ROOT = Path(__file__).parents[1]
UNCHECKED = ("__init__", "settings", "checks")
CHECKED = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("diffusions", "jkonet_star")
    for file in sorted((ROOT / package).rglob("*.py"))
    if file.stem not in UNCHECKED
]
_flax_dataclass = flax.struct.dataclass
# What takes longest: started last, it would leave one worker to wait for the other.
FIRST = ("test_notebooks.py", "robustness", "test_documentation.py", "end_to_end")


def pytest_configure(config):
    """xdist gives files out in our order, where it knows how to (3.7), not by the number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The files that take longest come first."""

    def place(item):
        first = item.path.relative_to(ROOT / "tests").parts[0]
        return FIRST.index(first) if first in FIRST else len(FIRST)

    items.sort(key=place)


def pytest_collection_finish():
    """What is loaded stays: it need not be looked through whenever a trace has made new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


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


@pytest.fixture
def no_warning():
    """A context in which ours are errors.

    What a dependency says of its own future is none: under the lowest versions of what we declare,
    one says it of another, and which one changes from week to week.
    """

    @contextlib.contextmanager
    def context():
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield

    return context


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
    """Where compiled programs are kept: one module, worker or script compiles, the others read.

    Most of them are small, and each module needs nearly the same ones again (see below).
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))  # of scripts in processes of their own
        compilation_cache.reset_cache()
        yield folder


@pytest.fixture
def optimised():
    """Compiles one test with all optimisations, in a module that is compiled in haste."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _compilation(request):
    """In haste, unless a module is `OPTIMISED`, because it computes for longer than it compiles.

    What is compiled is not kept in memory: all of it together needs gigabytes.
    """
    in_haste = not getattr(request.module, "OPTIMISED", False)
    jax.config.update("jax_disable_most_optimizations", in_haste)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
