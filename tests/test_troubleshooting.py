"""What the page of troubles quotes is what the programs say, and the flags it names are there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
PACKAGES = ("diffusions", "jkonet_star", "data_generation", "checkpoints", "experiments")
QUOTED = sorted(
    {
        quoted
        for line in PAGE.splitlines()
        if (first := re.match(r"\| `([^`]+)` \|", line))
        for quoted in first.groups()
    }
)


@pytest.fixture(scope="module")
def said():
    """All text in the source, parts of one message joined."""
    trees = (
        ast.parse(file.read_text(encoding="utf-8"))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    )
    return "\n".join(
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_said(quoted, said):
    assert quoted in said


def test_messages_are_found():
    assert len(QUOTED) > 18
