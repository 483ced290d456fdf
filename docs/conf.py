"""The documentation's build: `sphinx-build -W --keep-going -b html docs docs/_build/html`."""

import os
import sys
import typing
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
# The packages beside this folder, installed or not; a copy of this folder needs them installed.
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# jaxtyping then prints Float[Array, "n d"] and not where JAX defines its arrays.
typing.GENERATING_DOCUMENTATION = True

project = "jkonet-diffusions"
author = "the jkonet-diffusions developers"
try:
    release = metadata.version(project)
except metadata.PackageNotFoundError:
    release = "not installed"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "math_without_network",
    "plain_docstrings",
    "project_directives",
    "short_sidebar",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}  # autosummary writes the latter
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 80
highlight_language = "text"

# Every reference must resolve, but for what other packages define.
nitpicky = True
# A type variable of an overloaded signature, which Sphinx looks for as a class.
nitpick_ignore = [("py:class", "diffusions.arguments.Function")]
nitpick_ignore_regex = [
    (r"py:.*", r"(?!(diffusions|jkonet_star|data_generation|checkpoints|experiments)\.).*"),
]

html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
