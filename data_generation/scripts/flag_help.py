"""What `--help` says: the flags of a script in groups, as the settings' docstrings have them.

`--help` explains the flags that are a script's own, and names the others; `--helpfull` explains all.
"""

import inspect
import re
import textwrap
from typing import Any

from absl import flags

_WIDTH = 100
_SHORT = 30
"""Flags of a script that are few enough for all to be explained."""

_KINDS = {
    "int": "INT",
    "float": "NUMBER",
    "string": "TEXT",
    "str,...": "TEXT,...",
    "float,...": "NUMBER,...",
}
_PATHS = ("path", "dir", "file", "folder")
"""Last words of the names of flags that take a place on the disk."""


def heading(settings_class: type) -> str:
    """Of the flags of a settings class: the first sentence of its docstring."""
    first = inspect.cleandoc(settings_class.__doc__ or settings_class.__name__).split("\n")[0]
    return _sentence(re.sub(r"([,;] (besides what|as in)| \(see) .*", "", first)).rstrip(".")


def help_text(
    values: flags.FlagValues, program: str, description: str, example: str, *, full: bool = False
) -> str:
    """What `--help` prints, or `--helpfull`.

    Args:
        values: the script's flags; groups stand in the order of their first flags.
        program: how to start the script.
        description: of the script.
        example: a command line.
        full: explains every flag, not only those of the first group and of the last.
    """
    lines = [f"usage: {program} [--flag=value ...]", ""]
    if description:
        lines += [*textwrap.dedent(description).strip().splitlines(), ""]
    if example:
        lines += ["example:", *(f"  {line}" for line in example.strip().splitlines()), ""]
    groups: dict[str, list[str]] = {}
    for name in values:
        groups.setdefault(str(values.find_module_defining_flag(name)), []).append(name)
    lines.append("flags (hyphens or underscores):")
    shortened = not full and len(values) > _SHORT
    for place, (title, names) in enumerate(groups.items()):
        lines += ["", f"{title}:"]
        if shortened and 0 < place < len(groups) - 1:
            lines += _wrapped(" ".join(spelled(values[name]) for name in names), 2)
            continue
        for name in names:
            lines += _wrapped(head_of(values[name]), 2, 6)
            lines += _wrapped((values[name].help or "") + default_of(values[name]), 6)
    if shortened:
        lines += ["", "--helpfull explains all of them."]
    return "\n".join(lines)


def _wrapped(text: str, indent: int, more: int | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if more is None else more),
        break_on_hyphens=False,  # a name is to be copied whole
        break_long_words=False,
    )


def spelled(flag: flags.Flag) -> str:
    """`--name` as people type it; a switch with what turns it off."""
    name = flag.name.replace("_", "-")
    return f"--[no]{name}" if flag.boolean else f"--{name}"


def head_of(flag: flags.Flag) -> str:
    """`--name=KIND`; of a long list of words, with places where a line may end."""
    if flag.boolean:
        return spelled(flag)
    kind = flag.parser.flag_type() if flag.parser else ""
    if kind == "string" and flag.name.split("_")[-1] in _PATHS:
        kind = "PATH"
    kind = _KINDS.get(kind, kind if "{" in kind else kind.upper())
    head = f"{spelled(flag)}={kind}"
    return head if len(head) < _WIDTH - 6 else head.replace(",", ", ")


def default_of(flag: flags.Flag) -> str:
    """The default as it can be typed."""
    default: Any = flag.default
    if default is None:
        return ""
    if isinstance(default, tuple):
        text = ",".join(map(str, default))
    else:
        text = str(flag.default_as_str).replace("'", "")
    return f" (default: {text})" if text else ""


def attribute_documentation(settings_class: type) -> dict[str, str]:
    """Field -> text, from the `Attributes:` sections of the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(settings_class.__mro__[:-1]):
        found |= _own_documentation(base)
    return found


def _own_documentation(settings_class: type) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    _, _, section = inspect.cleandoc(settings_class.__doc__ or "").partition("Attributes:\n")
    current = ""
    for line in section.splitlines():
        if entry := re.match(r" {4}(\w+): (.*)", line):
            current = entry[1]
            found[current] = [entry[2]]
        elif line.startswith(" " * 5):
            found[current].append(line.strip())
        else:
            break
    return {name: _sentence(" ".join(parts)) for name, parts in found.items()}


def _sentence(text: str) -> str:
    text = text.replace("`", "").strip()
    return text[:1].upper() + text[1:]
