"""Missing extras are named, and causes of failed imports are shown."""

import subprocess
import sys

import pytest

import checkpoints
import checkpoints.training
import jkonet_star
import jkonet_star.snapshots
from diffusions.late_imports import EXTRA_OF, import_extra


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
    home = package._HOME[name]
    monkeypatch.delattr(getattr(package, home), name)
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
        "__getattr__ = names_on_first_use('late', {'x': 'attribute', 'y': 'module'})\n"
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


@pytest.mark.parametrize("package", [checkpoints, jkonet_star])
def test_every_public_name_has_a_home(package):
    assert set(package._HOME) == set(package.__all__)
    for name, home in package._HOME.items():
        assert getattr(package, name) is getattr(getattr(package, home), name)
