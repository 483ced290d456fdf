"""One direction of dependency, no circle, none on what is not installed, light settings."""

import ast
import builtins
import graphlib
import re
import subprocess
import symtable
import sys
import tomllib
from pathlib import Path

import pytest

from diffusions.late_imports import EXTRA_OF, public_names

ROOT = Path(__file__).parents[1]
PACKAGES = ("diffusions", "jkonet_star", "data_generation", "checkpoints", "experiments")
MAY_IMPORT = {
    "diffusions": (),
    "jkonet_star": (
        "diffusions.alignment",
        "diffusions.arguments",
        "diffusions.checks",
        "diffusions.density.expectation_maximisation",
        "diffusions.devices",
        "diffusions.keys",
        "diffusions.late_imports",
        "diffusions.memory",
        "diffusions.precision",
        "diffusions.releases",
        "diffusions.shapes",
        "diffusions.short_repr",
        "diffusions.optimizers",
        "diffusions.training",
        "diffusions.typing",
    ),
    "data_generation": ("jkonet_star", "diffusions"),
    "checkpoints": (
        "jkonet_star",
        "diffusions",
        "data_generation.scripts.command_line",
        "data_generation.scripts.garbage",
        "data_generation.formats",
    ),
    "experiments": ("data_generation", "checkpoints", "jkonet_star", "diffusions"),
}
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


MOST_LATE_IMPORTS = 30
"""Inside functions: a script's one, what not everybody needs, and what would be slow at `--help`."""


def within(module, parent):
    return module == parent or module.startswith(parent + ".")


def foreign_imports(tree, package):
    """(module, imported name or None, name it is bound to) of what other packages provide."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(a.name, None, a.asname or a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the package they come from"
            found = [(node.module, a.name, a.asname or a.name) for a in node.names]
        else:
            continue
        for module, name, bound in found:
            top = module.split(".")[0]
            if top in PACKAGES and top != package:
                yield module, name, bound


def violations(source, package):
    """What a file of a package imports or reads against the rules."""
    tree = ast.parse(source)
    wrong = []
    bound_modules = set()
    for module, name, bound in foreign_imports(tree, package):
        full = module if name is None else f"{module}.{name}"
        if not any(within(module, a) or within(full, a) for a in MAY_IMPORT[package]):
            wrong.append(f"imports {full}")
        if any(part.startswith("_") for part in full.split(".")):
            wrong.append(f"imports the private {full}")
        bound_modules.add(bound)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and ast.unparse(node.value) in bound_modules
        ):
            wrong.append(f"reads the private {ast.unparse(node)}")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_the_direction_of_imports(file):
    package = file.relative_to(ROOT).parts[0]
    assert violations(file.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("diffusions", "import jkonet_star.fitted", "imports jkonet_star.fitted"),
        ("diffusions", "def f():\n    from data_generation import x", "imports data_generation.x"),
        ("jkonet_star", "from diffusions import samplers", "imports diffusions.samplers"),
        ("jkonet_star", "from diffusions.networks import mlp", "imports diffusions.networks.mlp"),
        ("data_generation", "import checkpoints", "imports checkpoints"),
        ("checkpoints", "from experiments.x import y", "imports experiments.x.y"),
        (
            "data_generation",
            "from jkonet_star.transport.couplings import _exact",
            "imports the private jkonet_star.transport.couplings._exact",
        ),
        (
            "experiments",
            "from jkonet_star import couplings as c\nc._exact()",
            "reads the private c._exact",
        ),
        (
            "experiments",
            "import jkonet_star.transport.couplings\njkonet_star.transport.couplings._exact()",
            "reads the private jkonet_star.transport.couplings._exact",
        ),
    ],
)
def test_each_rule_can_be_broken(package, source, wrong):
    assert violations(source, package) == [wrong]


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("jkonet_star", "from diffusions import training\nimport jax\njax._src"),
        ("data_generation", "from jkonet_star.snapshots import Snapshots"),
        ("experiments", "from checkpoints import restore\nself._own"),
        ("jkonet_star", "from jkonet_star.transport.couplings import _exact"),
    ],
)
def test_what_is_allowed(package, source):
    assert violations(source, package) == []


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}
HOMES = {
    f"{package}.{name}": home
    for package in PACKAGES
    if (ROOT / package / "__init__.pyi").is_file()
    for name, home in public_names(package).items()
}


def own_imports(source, modules, homes):
    """Modules of ours that a file imports, late imports too; not what only type checkers read."""
    found, nodes = set(), [ast.parse(source)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(homes.get(full, full if full in modules else node.module))
    return found & set(modules)


def circle(sources, homes):
    """Modules that import each other, in order; empty where none do."""
    graph = {name: own_imports(source, sources, homes) for name, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_nothing_leans_on_a_rival():
    """They are there to be compared with; the registry knows where they are and imports none."""
    rooms = {name for name in MODULES if within(name, "jkonet_star.baselines")}
    assert rooms
    for name in MODULES.keys() - rooms:
        assert not own_imports(MODULES[name].read_text(encoding="utf-8"), MODULES, HOMES) & rooms


def test_no_modules_import_each_other():
    sources = {name: file.read_text(encoding="utf-8") for name, file in MODULES.items()}
    assert circle(sources, HOMES) == []


@pytest.mark.parametrize(
    ("imported", "found"),
    [
        ("from p.a import x", True),
        ("from p import a", True),
        ("import p.a", True),
        ("from p import x", True),
        ("def f():\n    from p.a import x", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x", False),
        ("from p import y", False),
    ],
)
def test_a_circle_is_seen(imported, found):
    sources = {"p": "", "p.a": "from p.b import z", "p.b": imported}
    assert bool(circle(sources, {"p.x": "p.a"})) == found


# What pyproject.toml calls a dependency -> the name that is imported.
IMPORTED_AS = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "ott-jax": "ott",
    "pot": "ot",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def strangers(source):
    """Modules that a file imports and the base installation may not have."""
    base = {re.match(r"[\w-]+", line)[0].lower() for line in PYPROJECT["dependencies"]}
    known = {IMPORTED_AS.get(name, name).lower() for name in base} | set(PACKAGES)
    for node in ast.walk(ast.parse(source)):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            top = module.split(".")[0]
            # ott.neural imports Diffrax, which OTT-JAX does not depend on.
            if within(module, "ott.neural") or not (
                top in sys.stdlib_module_names or top.lower() in known
            ):
                yield module


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_the_base_installation_has_what_is_imported(file):
    assert list(strangers(file.read_text(encoding="utf-8"))) == []


def test_strangers_are_seen():
    source = "import anndata\ndef f():\n    from diffrax import Tsit5\nfrom ott.neural import x\n"
    assert sorted(strangers(source)) == ["anndata", "diffrax.Tsit5", "ott.neural.x"]
    assert list(strangers("import json, jax.numpy, ot\nfrom ott.geometry import costs")) == []


def test_every_extra_that_is_imported_late_is_declared():
    for module, extra in EXTRA_OF.items():
        declared = PYPROJECT["optional-dependencies"][extra]
        assert any(re.match(r"[\w-]+", line)[0] == module for line in declared)


def answers_at_once(name, file):
    """Whether a module is what `--help` needs: settings, or a script with its flags."""
    source = file.read_text(encoding="utf-8")
    return name.endswith("settings") or re.search(r"^FLAGS = ", source, flags=re.M) is not None


LIGHT = sorted(
    {name for name, file in MODULES.items() if answers_at_once(name, file)}
    | {
        *("jkonet_star", "jkonet_star.solvers.registry", "diffusions.checks", "diffusions.memory"),
        *("diffusions.networks.presets", "data_generation.formats.json_file"),
    }
)


def test_settings_and_scripts_are_found():
    assert {
        *(
            "jkonet_star.settings",
            "data_generation.populations.settings",
            "data_generation.__main__",
        ),
        *(
            "data_generation.images.mask_settings",
            "checkpoints.settings",
            "checkpoints.import_torch",
            "checkpoints.export",
        ),
        *("experiments.run.settings", "experiments.train", "experiments.sparse_pixels.__main__"),
        *("experiments.information_theoretic.settings", "experiments.linear_denoiser.settings"),
    } <= set(LIGHT)


@pytest.mark.parametrize("module", LIGHT)
def test_settings_and_scripts_load_no_jax(module):
    program = (
        f"import sys, {module}\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'optax', 'ott', 'sklearn', 'matplotlib'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_a_training_run_loads_nothing_slow_that_it_does_not_need():
    program = (
        "import sys, experiments.populations.training\n"
        "print(*sorted({'sklearn', 'scipy.stats', 'pandas', 'anndata'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_few_imports_are_inside_functions():
    late = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(late) <= MOST_LATE_IMPORTS, late


def undefined_names(source):
    """Names that are read and that neither the module nor Python defines, quoted annotations apart.

    The linters do not look for them: they take the axes of jaxtyping's shapes for names.
    """
    module = symtable.symtable(source, "module", "exec")
    known = {s.get_name() for s in module.get_symbols() if s.is_assigned() or s.is_imported()}
    known |= {*dir(builtins), "__file__", "__name__", "__doc__", "__path__"}

    def tables(table):
        yield table
        for inner in table.get_children():
            yield from tables(inner)

    written = {
        symbol.get_name()
        for table in tables(module)
        for symbol in table.get_symbols()
        if symbol.is_declared_global() and symbol.is_assigned()
    }
    return {
        symbol.get_name()
        for table in tables(module)
        for symbol in table.get_symbols()
        if symbol.is_referenced()
        and (symbol.is_global() or table is module)
        # What Python 3.11 takes for global, too, in a function that is called top.
        and not (symbol.is_parameter() or symbol.is_assigned())
        and symbol.get_name() not in known | written
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_defined(package):
    found = {
        str(file.relative_to(ROOT)): names
        for file in FILES
        if file.relative_to(ROOT).parts[0] == package
        and (names := undefined_names(file.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_an_undefined_name_is_found():
    assert undefined_names("from a import b\ndef f(x):\n    return b(x, y)\n") == {"y"}
    assert undefined_names("def f(x: 'Float[Array, \"n d\"]'):\n    return x\n") == set()
