"""What an installation holds, where its packages are found, and what building it leaves behind."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
PACKAGES = ("checkpoints", "data_generation", "diffusions", "experiments", "jkonet_star")
DATA = ("data_generation/*.csv", "checkpoints/pretrained/**/*", "experiments/grids/*.yaml")


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
    assert found == {file.relative_to(ROOT).as_posix() for file in (*code, *data)}
    assert len(data) > 40
    assert listing() == before  # no build/, no egg-info


@pytest.mark.parametrize("package", PACKAGES)
def test_a_folder_of_the_users_does_not_hide_a_package(tmp_path, editable, package):
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").touch()
    program = (
        f"import site; site.addsitedir({str(editable)!r}); import {package} as p; print(p.__file__)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # Without site-packages: what is installed beside the tests must not help.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == ROOT / package / "__init__.py"
