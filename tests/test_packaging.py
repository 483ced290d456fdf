"""What an installation holds, where its packages are found, and what building it leaves behind."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import warnings
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGES = ("checkpoints", "data_generation", "diffusions", "experiments", "jkonet_star")
DATA = (
    "data_generation/*.csv",
    "checkpoints/pretrained/**/*",
    "experiments/grids/*.yaml",
    "experiments/reports/templates/*.jinja",
)
LATE = ("checkpoints", "data_generation", "diffusions", "jkonet_star")  # names on first use
TYPES = [f"{name}/py.typed" for name in PACKAGES] + [f"{name}/__init__.pyi" for name in LATE]


def build(kind, folder):
    """The files of a wheel: name -> bytes."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=[kind])
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def listing():
    return sorted(path.name for path in ROOT.iterdir())


@pytest.fixture(scope="module")
def editable(tmp_path_factory):
    """Site-packages of an editable installation, and nothing else."""
    folder = tmp_path_factory.mktemp("editable")
    for name, content in build("editable", folder / "wheel").items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "site"


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(tmp_path):
    before = listing()
    found = {name for name in build("standard", tmp_path) if ".dist-info/" not in name}
    code = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    data = [file for pattern in DATA for file in ROOT.glob(pattern) if file.is_file()]
    untyped = {file.relative_to(ROOT).as_posix() for file in (*code, *data)}
    assert found == untyped | set(TYPES)
    assert len(data) > 40
    assert listing() == before  # no build/, no egg-info


def imported_from(package, folder, editable, *options):
    """Where Python, started in a folder, finds a package of the editable installation."""
    program = (
        f"import site; site.addsitedir({str(editable)!r}); import {package} as p; print(p.__file__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # Without site-packages: what is installed beside the tests must not help.
    done = subprocess.run(
        [sys.executable, "-S", *options, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_of_the_users_does_not_hide_a_package(tmp_path, editable, package):
    (tmp_path / package).mkdir()
    (tmp_path / package / "notes.txt").touch()
    ours = ROOT / package / "__init__.py"
    assert imported_from(package, tmp_path, editable) == ours
    # A package of the user's does, by Python's own rule, unless it is told to look elsewhere.
    theirs = tmp_path / package / "__init__.py"
    theirs.touch()
    assert imported_from(package, tmp_path, editable) == theirs
    assert imported_from(package, tmp_path, editable, "-P") == ours


@pytest.fixture(scope="module")
def lowest():
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lowest


def test_the_lowest_set_is_every_declared_bound(lowest):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = dict(line.split("==") for line in lowest(project))
    declared = {}
    for line in (*project["dependencies"], *project["optional-dependencies"]["bio"]):
        name, _, rest = line.partition(">=")
        declared[name] = rest.partition(",")[0]
    assert {name: found[name] for name in declared} == declared
    assert found["pytest"]
    assert "jkonet-diffusions" not in found


def test_a_dependency_without_a_bound_is_refused(lowest):
    project = {"dependencies": ["jax>=0.6.2"], "optional-dependencies": {"bio": ["pandas<3"]}}
    with pytest.raises(ValueError, match="no lower bound in 'pandas<3'"):
        lowest(project)
    project["optional-dependencies"]["bio"] = ["pandas>=2.2,<3", "jax[cuda12]"]
    assert lowest(project) == ["jax==0.6.2", "pandas==2.2"]


def test_what_dependencies_deprecate_fails_no_test(no_warning):
    class OfADependency(UserWarning, DeprecationWarning):
        """As pyparsing's."""

    with no_warning():
        warnings.warn("an old name", OfADependency, stacklevel=1)
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    everything = re.compile(r"""(simplefilter|filterwarnings)\(["']error["']\)""")
    files = (ROOT / "tests").rglob("*.py")
    assert [f.name for f in files if everything.search(f.read_text(encoding="utf-8"))] == []


def test_the_release_says_the_same_everywhere(tmp_path):
    """One version, one licence, one owner, and a changelog that knows of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    files = build("standard", tmp_path)
    (metadata,) = (text.decode() for name, text in files.items() if name.endswith("/METADATA"))
    assert f"\nVersion: {project['version']}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
    # What PyPI shows has no neighbours to link to.
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert len(links) > 30
    assert [link for link in links if not link.startswith("https://")] == []
    owned = f"{project['urls']['Repository']}/blob/main/docs/quick_start.md"
    assert owned in links
    assert "![learned and true potential](https://raw.githubusercontent.com/" in metadata
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert f"\n## {project['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_workflows_call_targets_that_are_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {word for run in runs for word in run.split()[1:] if "=" not in word}
    assert called == {"lint", "test", "test-lowest", "smoke", "docs"}
    assert called <= targets
    for file in (ROOT / ".github/ISSUE_TEMPLATE").iterdir():
        assert {"name", "description", "body"} <= yaml.safe_load(file.read_text()).keys()


def test_one_command_names_the_owner_everywhere(tmp_path):
    """In a copy; a second owner replaces the first."""
    named = re.compile(r"([\w.-]+)/jkonet-diffusions\b")
    files = [
        "pyproject.toml",
        "README.md",
        "CITATION.cff",
        "notebooks/cells.ipynb",
        ".ci/name_owner.py",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def call(*arguments):
        script = tmp_path / ".ci/name_owner.py"
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)

    for owner in ("some-body", "another"):
        done = call(owner)
        assert done.returncode == 0, done.stderr
        assert set(done.stdout.split()) == set(files[:-1])
        for name in files[:-1]:
            owners = set(named.findall((tmp_path / name).read_text()))
            assert owners == {owner}, name
    assert call("not/a name").returncode == call().returncode == 2


CONDA_NAMES = {"matplotlib": "matplotlib-base"}
"""Where conda-forge calls a package by another name than PyPI, but for capitals."""


def test_the_recipe_for_conda_declares_what_pyproject_does():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))

    def declared(lines):
        pairs = (line.lower().split(">=") for line in lines)
        return {(CONDA_NAMES.get(name, name), f">={bound}") for name, bound in pairs}

    def listed(section):
        return {tuple(line.split()) for line in recipe["requirements"][section]}

    python = ("python", project["requires-python"])
    assert listed("run") == declared(project["dependencies"]) | {python}
    assert declared(pyproject["build-system"]["requires"]) < listed("host")
    scripts = {f"{name} = {target}" for name, target in project["scripts"].items()}
    assert set(recipe["build"]["python"]["entry_points"]) == scripts
    assert recipe["context"]["version"] == project["version"]
    about = recipe["about"]
    assert (about["summary"], about["license"]) == (project["description"], project["license"])
    assert about["homepage"] == project["urls"]["Repository"]
