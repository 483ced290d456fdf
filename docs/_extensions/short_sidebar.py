"""A sidebar without the modules of the packages.

The theme asks for the whole tree of pages on every page. With a page per module that is more than half
of the build and most of every page's bytes; a package's page lists its modules.
"""

import functools
from collections.abc import Callable
from typing import Any

from sphinx.application import Sphinx

DEPTH = 2
"""Of the tree: down to the pages of the packages."""
MODULES = "reference/modules/"
BEFORE_THE_THEME = 400


def shorten(
    known: dict[str, str],
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: Any,
) -> None:
    """Puts a shallow tree in place of the whole one.

    Of modules of one package it is the same: links are relative to one folder, and what is marked as
    current is the package.
    """
    del app, templatename, doctree
    whole: Callable[..., str] | None = context.get("toctree")
    if whole is None:
        return
    package, _, module = pagename.removeprefix(MODULES).partition(".")

    def toctree(**options: Any) -> str:
        options["maxdepth"] = DEPTH
        if not (pagename.startswith(MODULES) and module):
            return whole(**options)
        if package not in known:
            known[package] = whole(**options)
        return known[package]

    context["toctree"] = toctree


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.connect("html-page-context", functools.partial(shorten, {}), priority=BEFORE_THE_THEME)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
