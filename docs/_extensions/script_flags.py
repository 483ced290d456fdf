"""The directive `flags`: every flag of a script, with its default and its meaning.

    ```{flags} experiments.train
    ```

The text is that of `--help`: it comes from the settings the flags are made of.
"""

import importlib
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Flags(SphinxDirective):
    """A definition list of the flags in a module's `FLAGS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The list."""
        values = importlib.import_module(self.arguments[0]).FLAGS
        result = nodes.definition_list(classes=["flags"])
        for name in values:
            flag = values[name]
            spelled = name.replace("_", "-")
            head = f"--[no]{spelled}" if flag.boolean else f"--{spelled}"
            term = nodes.term("", "", nodes.literal(text=head))
            if flag.default is not None:
                default = flag.default_as_str.strip("'")
                term += nodes.Text(f"  (default {default})" if default else "")
            meaning = nodes.paragraph(text=flag.help or "")
            result += nodes.definition_list_item("", term, nodes.definition("", meaning))
        return [result]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive."""
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True, "version": "1"}
