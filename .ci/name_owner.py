"""Writes the repository's owner wherever it is named: `python .ci/name_owner.py NAME`.

`pyproject.toml` says who it is now; badges, install cells, links and the citation follow.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?")
"""Of a user or an organisation on GitHub."""


def renamed(text: str, old: str, new: str) -> str:
    """The text with another owner of the repository."""
    return re.sub(rf"\b{re.escape(old)}(?=/jkonet-diffusions\b)", new, text)


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if len(arguments) != 1 or not NAME.fullmatch(arguments[0]):
        print("usage: python .ci/name_owner.py NAME, the owner of the repository on GitHub")
        return 2
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    old = project["urls"]["Repository"].split("/")[-2]
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (root / name).read_text()
        except UnicodeDecodeError:
            continue
        if text != (new := renamed(text, old, arguments[0])):
            (root / name).write_text(new)
            print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
