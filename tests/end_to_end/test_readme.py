"""The README's example runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
OPTIMISED = True  # a whole training of the default length


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    scope = {}
    exec(example, scope)
    snapshots, energy = scope["snapshots"], scope["energy"]
    assert scope["path"].shape == (6, 1000, 2)
    # Trained on these very particles: the predicted ones are where the observed ones are.
    error = abs(scope["path"][1] - snapshots.points[1]).mean()
    assert error < 0.02 * abs(snapshots.points[1] - snapshots.points[0]).mean()
    assert energy.dimension == 2


def test_every_solver_is_listed():
    from jkonet_star import SOLVERS

    # The table that the README leads to.
    text = (README.parent / "docs" / "systems" / "jkonet_star.md").read_text()
    assert "docs/systems/jkonet_star.md#commands" in README.read_text()
    assert [name for name in SOLVERS if f"`{name}`" not in text] == []
