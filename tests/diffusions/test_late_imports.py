"""Missing extras are named, and causes of failed imports are shown."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import checkpoints
import data_generation
import diffusions
import jkonet_star
from diffusions.late_imports import EXTRA_OF, import_extra, public_names

each_package = pytest.mark.parametrize(
    "package", [checkpoints, data_generation, diffusions, jkonet_star]
)


@pytest.mark.parametrize(("module", "extra"), EXTRA_OF.items())
def test_a_missing_extra_is_named_with_its_command(module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        import_extra(module, "--flag")
    assert str(caught.value) == (
        f"--flag needs the extra `{extra}`: pip install 'jkonet-diffusions[{extra}]'"
    )


def test_what_an_installed_extra_lacks_is_said(tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ImportError, match=r"wandb is there but cannot be loaded: No module named"):
        import_extra("wandb", "--wandb")


@pytest.mark.parametrize(
    ("package", "name"), [(checkpoints, "latest_step"), (jkonet_star, "Snapshots")]
)
def test_an_attribute_error_within_is_the_cause(package, name, monkeypatch):
    home = public_names(package.__name__)[name]
    monkeypatch.delattr(importlib.import_module(home), name)
    with pytest.raises(ImportError, match=f"{home} cannot be loaded: AttributeError: .*{name}"):
        exec(f"from {package.__name__} import {name}")
    with pytest.raises(AttributeError, match=f"{package.__name__}' has no attribute 'latest'"):
        package.__getattr__("latest")


def test_errors_of_a_submodule_show_where_they_come_from(tmp_path):
    """As a user sees them: the last lines of the traceback, in a process of its own."""
    folder = tmp_path / "late"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from diffusions.late_imports import names_on_first_use\n"
        "__getattr__, __dir__, __all__ = names_on_first_use('late')\n"
    )
    (folder / "__init__.pyi").write_text(
        "from late.attribute import x as x\nfrom late.module import y as y\n"
    )
    (folder / "attribute.py").write_text("import math\nx = math.tau_that_is_not_there\n")
    (folder / "module.py").write_text("import not_there\n")
    for name, cause, last in (
        ("x", "AttributeError: module 'math' has no attribute", "ImportError: late.attribute"),
        ("y", "import not_there", "ModuleNotFoundError: No module named 'not_there'"),
    ):
        program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from late import {name}"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert cause in done.stderr
        assert done.stderr.splitlines()[-1].startswith(last)


@each_package
def test_every_public_name_has_a_home(package):
    home = public_names(package.__name__)
    assert list(home) == package.__all__
    for name, module in home.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


@each_package
def test_no_public_name_is_also_a_module(package):
    """A module that is imported becomes an attribute, in the place of what had its name."""
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    for name in modules & set(package.__all__):
        assert getattr(package, name).__name__ == f"{package.__name__}.{name}", name


@each_package
def test_type_checkers_read_the_same_names(package):
    """Every statement of the stub: `from`, its own package, and a name that is exported as it is."""
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    found = {}
    for statement in stub.body:
        assert isinstance(statement, ast.ImportFrom)
        (alias,) = statement.names
        assert alias.asname == alias.name
        found[alias.name] = statement.module
    assert found == public_names(package.__name__)
    assert all(module.startswith(f"{package.__name__}.") for module in found.values())
    # An import of a module would put it in the place of a name that is spelled alike.
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(found)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("jkonet_star", "fit"),
        ("diffusions", "ddim"),
        ("checkpoints", "load_energy"),
        ("data_generation", "load_dataset"),
    ],
)
def test_a_shell_lists_the_names_before_any_is_loaded(package, name):
    program = (
        f"import sys, {package} as p\n"
        "listed = set(dir(p)) - set(vars(p))\n"
        f"print({name!r} in dir(p), listed == set(p.__all__), 'names_on_first_use' in dir(p))\n"
        "print('jax' in sys.modules)\n"
        f"import {public_names(package)[name]} as home\n"
        "print(home.__name__.split('.')[1] in dir(p))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "False", "False", "True"]
