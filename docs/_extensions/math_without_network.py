"""Formulas as MathML, which every browser draws by itself: no script, no network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, Any]:
    """Named in `conf.py` as `html_math_renderer`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}


def mathml(formula: str, display: str) -> str:
    """A formula in TeX as MathML.

    Args:
        formula: TeX without its dollars.
        display: inline or block.

    Raises:
        ExtensionError: a part of it is no TeX that is known.
    """
    try:
        made = convert(formula, display=display)
    except Exception as error:
        raise ExtensionError(f"the formula {formula!r} is not understood: {error!r}") from error
    # What the converter does not know it writes as it stands, or as letters.
    if "\\" in made or "<mi>&</mi>" in made or "operatorname*" in formula:
        raise ExtensionError(f"the formula {formula!r} is not understood")
    return made


def _inline(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.Element) -> None:
    # A div of its own scrolls where a formula is wider than a phone.
    self.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode
