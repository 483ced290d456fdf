"""Docstrings of plain text, made into reStructuredText.

The docstrings of this repository are read in an editor first: equations are indented plain text, and
names stand in single backticks. Before Napoleon reads their sections,

    indented blocks become literal blocks,
    names in backticks become links where they are documented, and code elsewhere,
    everything else is escaped, so that |x|, y* and x_ stay what they are,

and signatures show annotations as the source has them: jaxtyping's axes are what a reader looks for.
"""

import ast
import copy
import functools
import importlib
import inspect
import itertools
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

PACKAGES = ("diffusions", "jkonet_star", "data_generation", "checkpoints", "experiments")
SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")
_CODE = re.compile(r"(`[^`]+`)")


def setup(app: Sphinx) -> dict[str, Any]:
    """Before Napoleon, which has the default priority of 500."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _qualify)
    return {"parallel_read_safe": True, "version": "1"}


def _qualify(app: Sphinx, doctree: nodes.document) -> None:
    """Names in signatures mean what they mean in their module, not what else bears the name."""
    for node in doctree.findall(pending_xref):
        module, name = node.get("py:module"), node["reftarget"]
        if node.get("refdomain") == "py" and module and "." not in name:
            node["reftarget"] = _home(f"{module}.{name}") or name
            node["refspecific"] = False


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # Fields of a NamedTuple are described with their class.
    if (inspect.getdoc(obj) or "").startswith("Alias for field number"):
        return True
    return None


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    module = _module_of(name)
    if not module.startswith(PACKAGES):
        lines.clear()  # a value's own docstring says nothing of the name that it is bound to
        return
    text = list(lines)
    if what == "class" and not any(line.strip() == "Attributes:" for line in text):
        text += _commented_fields(obj)
    lines[:] = _restructured(text, module)


@functools.cache
def _module_of(name: str) -> str:
    while name not in sys.modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def _restructured(lines: list[str], module: str) -> list[str]:
    result: list[str] = []
    in_section = in_block = False
    for index, line in enumerate(lines):
        bare = line.strip()
        if bare in SECTIONS and not line.startswith(" "):
            in_section, in_block = True, False
            result.append(line)
        elif not bare:
            result.append("")
        elif line.startswith("    ") and not in_section:
            if not in_block:
                result += ["", f".. code-block:: {_language(lines[index:])}", ""]
                in_block = True
            result.append(line)
        else:
            if in_block:
                result.append("")
            if not line.startswith(" "):
                in_section = False
            in_block = False
            result.append(_inline(line, module))
    return result


def _language(lines: list[str]) -> str:
    """Of the indented block that begins here."""
    block = itertools.takewhile(lambda line: not line.strip() or line.startswith("    "), lines)
    text = textwrap.dedent("\n".join(block))
    if not re.search(r"^(import|from|def) ", text, flags=re.M):
        return "text"
    try:
        ast.parse(text)
    except SyntaxError:
        return "text"
    return "python"


def _inline(line: str, module: str) -> str:
    result = ""
    for part in _CODE.split(line):
        code = _CODE.fullmatch(part)
        text = _code(part[1:-1], module) if code else _escaped(part)
        # Markup ends at a word's boundary only: an escaped space, which is not shown, makes one.
        joined = result[-1:].isalnum() if code else result[-1:] == "`" and text[:1].isalnum()
        result += "\\ " * joined + text
    return result


def _escaped(text: str) -> str:
    text = re.sub(r"([\\*|])", r"\\\1", text)
    # "(1) says" and "reference: G." are no items of lists.
    text = re.sub(r"(^\s*|: )(\(\w+\)\s|\w\.(?=\s|$))", r"\1\\\2", text)
    return re.sub(r"_(?![A-Za-z0-9_])", r"\\_", text)


def _code(text: str, module: str) -> str:
    target = _target(text.removesuffix("()"), module)
    return f":py:obj:`{text} <{target}>`" if target else f"``{text}``"


@functools.cache
def _target(name: str, module: str) -> str | None:
    """Full name of what a docstring of a module calls by a name, if it is documented."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or name.rpartition(".")[2].startswith("_"):
        return None
    package = module.partition(".")[0]
    for full in (f"{module}.{name}", f"{package}.{name}", name):
        if full.startswith(PACKAGES) and (found := _home(full)):
            return found
    return None


def _home(full: str) -> str | None:
    """Where something is defined and documented; None where it is not, or is no name of ours."""
    for cut in range(full.count("."), -1, -1):
        parts = full.split(".")
        head, rest = ".".join(parts[: cut + 1]), parts[cut + 1 :]
        try:
            obj = importlib.import_module(head)
        except ImportError:
            continue
        for part in rest:
            obj = getattr(obj, part, None)
        if inspect.ismodule(obj):
            ours = obj.__name__.startswith(PACKAGES) and obj.__file__  # a mere folder has none
            return obj.__name__ if ours else None
        if not (inspect.isclass(obj) or inspect.isroutine(obj)):
            return None
        home = getattr(obj, "__module__", None) or ""
        qualified = getattr(obj, "__qualname__", "")
        documented = home.startswith(PACKAGES) and inspect.getdoc(obj) and "<" not in qualified
        return f"{home}.{qualified}" if documented else None
    return None


def _commented_fields(cls: type) -> list[str]:
    """An `Attributes:` section from the comments behind the fields of a class."""
    rows, node = _definition(cls)
    found = []
    for field in getattr(node, "body", ()):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            after = rows[(field.end_lineno or 0) - 1][field.end_col_offset or 0 :]
            if comment := after.partition("#")[2].strip():
                found.append(f"    {field.target.id}: {comment}")
    return ["", "Attributes:", *found] if found else []


def _signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """The parameters as the source spells them."""
    if what not in ("function", "method"):
        return None
    _, node = _definition(inspect.unwrap(obj))
    if not isinstance(node, ast.FunctionDef):
        return None
    node = _Unquoted().visit(copy.deepcopy(node))
    arguments = node.args
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if what == "method" and "staticmethod" not in decorators:
        (arguments.posonlyargs or arguments.args).pop(0)
    return f"({ast.unparse(arguments)})", ast.unparse(node.returns) if node.returns else ""


class _Unquoted(ast.NodeTransformer):
    """Annotations that are strings as a whole, for names that are defined later, as what they say."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Of a parameter."""
        node.annotation = _unquoted(node.annotation)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Of the result."""
        self.generic_visit(node.args)
        node.returns = _unquoted(node.returns)
        return node


def _unquoted(annotation: ast.expr | None) -> ast.expr | None:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _definition(obj: Any) -> tuple[tuple[str, ...], ast.AST | None]:
    """Lines of the module that defines a class or function, and its node in there."""
    module = getattr(obj, "__module__", None) or ""
    if not module.startswith(PACKAGES):
        return (), None
    rows, node = _parsed(sys.modules[module].__file__)
    for name in obj.__qualname__.split("."):
        inside = [
            child for child in getattr(node, "body", ()) if getattr(child, "name", "") == name
        ]
        node = inside[-1] if inside else None
    return rows, node


@functools.cache
def _parsed(file: str) -> tuple[tuple[str, ...], ast.AST]:
    """inspect.getsource would parse the file again for every class."""
    text = Path(file).read_text(encoding="utf-8")
    return tuple(text.splitlines()), ast.parse(text)
