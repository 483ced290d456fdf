"""Formulas of the documentation are drawn by the browser alone."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", flags=re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`", flags=re.DOTALL)


@pytest.fixture(scope="module")
def extension():
    pytest.importorskip("sphinx")
    place = DOCS / "_extensions" / "math_without_network.py"
    spec = importlib.util.spec_from_file_location("math_without_network", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_formula_becomes_mathml(extension):
    made = [
        extension.mathml(block or inline, "block" if block else "inline")
        for page in DOCS.rglob("*.md")
        for block, inline in FORMULA.findall(CODE.sub("", page.read_text()))
    ]
    assert len(made) > 150
    assert all(text.startswith("<math") and text.endswith("</math>") for text in made)


def test_a_fraction_is_a_fraction(extension):
    made = extension.mathml(r"\frac12 \sqrt{x}", "block")
    assert "<mfrac><mn>1</mn><mn>2</mn></mfrac>" in made
    assert "<msqrt>" in made
    assert 'display="block"' in made


@pytest.mark.parametrize("formula", [r"\unheardof x", r"a & b", r"\operatorname*{arg\,min}_x"])
def test_what_is_not_understood_is_an_error(formula, extension):
    with pytest.raises(extension.ExtensionError, match="is not understood"):
        extension.mathml(formula, "inline")


def test_no_script_is_asked_for_elsewhere():
    assert "mathjax" not in (DOCS / "conf.py").read_text()
