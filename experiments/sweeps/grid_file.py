"""Grids of sweeps in YAML: texts, lists of texts, and mappings of these, and nothing else of YAML.

    epochs: 100                     # an entry is a flag of the sweep
    seeds: [0, 1, 2]
    grids:                          # several grids, each with entries of its own
      - potentials: [moon, beale]

Every value stays the text that was written, and is read as the flag of that name would be: YAML's own
rules make 10 of 1_0, 5400 of 1:30:00 and true of yes. Anchors and aliases may repeat a list; what they
expand to is bounded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from data_generation.formats.json_file import FileError, read_bytes
from diffusions.checks import shown

MOST_BYTES, MOST_VALUES = 1 << 20, 100_000

Entries = dict[str, list[str] | str]
"""Name of a flag -> what is written for it."""

_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


class GridFile(NamedTuple):
    """What a file says.

    Attributes:
        shared: for all of its grids.
        grids: for each of them.
    """

    shared: Entries
    grids: list[Entries]


def read_grids(file: Path) -> GridFile:
    """Reads a file of grids.

    Raises:
        ValueError: it is no such file; the message names it.
    """
    content = read_bytes(file, MOST_BYTES)
    try:
        # Without implicit types: everything is a text.
        root = yaml.compose(content.decode("utf-8"), yaml.BaseLoader)
        return _grid_file(root)
    except RecursionError:
        reason = "it is nested too deeply"
    except FileError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = " ".join(str(error).split())
    raise ValueError(f"{file} cannot be read: {reason}")


def _grid_file(root: yaml.Node | None) -> GridFile:
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise ValueError("it must map flags to values")
    shared: Entries = {}
    grids: list[Entries] = [{}]
    n_values = 0
    for name, node in _items(root):
        if name != "grids":
            shared[name] = _value(name, node)
            n_values += len(shared[name])
            continue
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise ValueError("grids must be a list of mappings")
        grids = []
        for item in node.value:
            if not isinstance(item, yaml.MappingNode):
                raise ValueError("grids must be a list of mappings")
            grids.append({key: _value(key, inner) for key, inner in _items(item)})
            n_values += 1 + sum(map(len, grids[-1].values()))
            # While they are made: an alias costs a few bytes and may stand for a long list.
            if n_values > MOST_VALUES:
                raise ValueError(f"it holds more than {MOST_VALUES} values")
    return GridFile(shared, grids)


def _items(node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    """Names, as Python has those of flags, and values of a mapping."""
    seen = set()
    for key, value in node.value:
        name = _text("a name", key).replace("-", "_")
        if name in seen:
            raise ValueError(f"line {key.start_mark.line + 1}: {shown(name)} is given twice")
        seen.add(name)
        yield name, value


def _value(name: str, node: yaml.Node) -> list[str] | str:
    if isinstance(node, yaml.SequenceNode) and node.tag in _PLAIN_TAGS:
        texts = [_text(name, item) for item in node.value]
        for text in texts:
            if "," in text:
                raise ValueError(f"{name}: {shown(text)} has a comma, which separates values")
        return texts
    return _text(name, node)


def _text(name: str, node: yaml.Node) -> str:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _PLAIN_TAGS:
        raise ValueError(f"line {line}: {name} must be a text, a number or a list of them")
    # `name:` and a lone ~ mean nothing to whoever reads a flag.
    if not node.value.strip() or (
        node.style is None and node.value in ("~", "null", "Null", "NULL")
    ):
        raise ValueError(f"line {line}: {name} has no value")
    return node.value
