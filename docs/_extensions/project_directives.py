"""Directives that ask the packages instead of repeating them.

    ```{flags} experiments.train
    ```

is every flag of a script, with its default and its meaning, as `--help` has them, and

    ```{model-cards}
    ```

are the cards of the models that come with the project.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Flags(SphinxDirective):
    """A definition list of the flags in a module's `FLAGS`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The list."""
        from data_generation.scripts.command_line import script_module
        from data_generation.scripts.flag_help import default_of, head_of

        values = script_module(self.arguments[0]).FLAGS
        result = nodes.definition_list(classes=["flags"])
        for name in values:
            flag = values[name]
            term = nodes.term("", "", nodes.literal(text=head_of(flag)))
            term += nodes.Text(default_of(flag))
            meaning = nodes.paragraph(text=flag.help or "")
            result += nodes.definition_list_item("", term, nodes.definition("", meaning))
        return [result]


class ModelCards(SphinxDirective):
    """One section per model."""

    def run(self) -> list[nodes.Node]:
        """The cards, a level below where they stand."""
        from checkpoints.pretrained_models import pretrained_card, pretrained_names

        cards = []
        for name in pretrained_names():
            title, _, content = str(pretrained_card(name)).removeprefix("# ").partition("\n")
            cards.append(f"## {name}\n\n**{title}**\n{content}")
        return self.parse_text_to_nodes("\n".join(cards), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("flags", Flags)
    app.add_directive("model-cards", ModelCards)
    return {"parallel_read_safe": True, "version": "1"}
