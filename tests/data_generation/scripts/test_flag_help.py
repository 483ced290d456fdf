"""What `--help` says: groups, choices once, defaults that can be typed."""

import dataclasses
from typing import Literal

from data_generation.scripts.command_line import define_flags, settings_from_flags
from data_generation.scripts.flag_help import heading, help_text


@dataclasses.dataclass(frozen=True)
class Shared:
    """What all share; as in `Other`.

    Attributes:
        data_dir: where data are.
        loud: says more.
    """

    data_dir: str = "data"
    loud: bool = False


@dataclasses.dataclass(frozen=True)
class Own(Shared):
    """What is own.

    Attributes:
        shape: of the thing.
        widths: of the layers.
        name: of the thing; absent, none.
    """

    shape: Literal["round", "square"] = "round"
    widths: tuple[int, ...] = (64, 32)
    name: str | None = None


FLAGS = define_flags(Own)


def said(*, full=False):
    return help_text(FLAGS, "python -m thing", "", "", full=full)


def test_flags_stand_under_the_words_of_their_class():
    assert heading(Shared) == "What all share"
    places = [
        said().index(text)
        for text in (
            "What is own:",
            "--shape",
            "--name",
            "What all share:",
            "--data-dir",
            "--[no]loud",
        )
    ]
    assert places == sorted(places)


def test_choices_are_said_once_and_places_are_paths():
    assert "--shape={round,square}\n      Of the thing. (default: round)" in said()
    assert said().count("square") == 1
    assert "--data-dir=PATH" in said()
    assert "--name=TEXT\n      Of the thing; absent, none.\n" in said()


def test_a_default_can_be_typed():
    assert "--widths=INT,...\n      Of the layers. (default: 64,32)" in said()
    FLAGS(["", "--widths=64,32", "--shape=round", "--data_dir=data"])
    assert settings_from_flags(Own, FLAGS) == Own()
    FLAGS.unparse_flags()


@dataclasses.dataclass(frozen=True)
class Last:
    """What comes last.

    Attributes:
        last: number.
    """

    last: int = 0


def test_of_many_flags_the_own_ones_are_explained_and_the_others_named(monkeypatch):
    flags = define_flags(Last, into=define_flags(Own))
    monkeypatch.setattr("data_generation.scripts.flag_help._SHORT", 5)
    short = help_text(flags, "python -m thing", "", "")
    assert "What all share:\n  --data-dir --[no]loud\n" in short
    assert "Where data are" not in short
    assert short.endswith("--helpfull explains all of them.")
    assert "--shape={round,square}\n      Of the thing" in short
    whole = help_text(flags, "python -m thing", "", "", full=True)
    assert "Where data are" in whole
    assert "helpfull" not in whole
