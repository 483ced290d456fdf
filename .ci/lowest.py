"""Prints the lowest set: every dependency of pyproject.toml at the bound that is declared there.

pip install --editable '.[test]' --constraint <(python .ci/lowest.py)
"""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(project: dict) -> list[str]:
    """Constraints, `name==version`, from the table `project` of pyproject.toml.

    Raises:
        ValueError: a dependency without a lower bound, other than an extra of one that has it.
    """
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    bounds = {}
    for line in lines:
        if "[" in line:  # jax[cuda12], jkonet-diffusions[test]: bounded where they stand alone
            continue
        match = re.match(r"([\w-]+)\s*>=\s*([\w.]+)", line)
        if match is None:
            raise ValueError(f"no lower bound in {line!r}")
        bounds[match[1]] = match[2]
    return [f"{name}=={version}" for name, version in sorted(bounds.items())]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
