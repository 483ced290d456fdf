"""The door for JSON: the same content comes back, and what is hostile is named at a bounded cost."""

import dataclasses
import os

import pytest

from data_generation.formats.json_file import (
    MOST_BYTES,
    MOST_DEPTH,
    parse_json,
    read_json,
    read_lines,
    read_record,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    title: str
    seed: int = 0


def test_content_comes_back(tmp_path):
    content = {"a": [1, -2.5e-3, None, True, "é\n"], "b": {"c": [[]]}, "d": 2**63 - 1}
    file = tmp_path / "größe.json"
    file.write_text(
        '{"a": [1, -2.5e-3, null, true, "é\\n"], "b": {"c": [[]]}, "d": 9223372036854775807}',
        "utf-8",
    )
    assert read_json(file) == content


def nested(depth, left="[", right="]"):
    return left * depth + right * depth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ('{"a": 1', "Expecting"),
        (b"\xff\xfe", "codec can't decode"),
        (nested(MOST_DEPTH + 1), "nested more than 32 levels deep"),
        (nested(MOST_DEPTH + 1, '{"a":', "}").replace(":}", ":1}"), "nested more than 32"),
        (nested(10**6), "nested more than 32 levels deep"),
        ('{"a":' * 10**6, "nested more than 32 levels deep"),
        ("NaN", "it holds NaN, which is no JSON"),
        ("[-Infinity]", "it holds -Infinity"),
        ("1e999", "the number 1e999, which is beyond double precision"),
        ("9223372036854775808", "an integer beyond 64 bits, of 19 characters"),
        ("1" * 10**5, "an integer beyond 64 bits, of 100000 characters"),
        ('{"a": 1, "a": 2}', "it gives 'a' twice"),
        (r'["\ud800"]', r"text that is no Unicode: '\\ud800'"),
        (r'{"\ud800": 1}', "text that is no Unicode"),
    ],
)
def test_what_is_no_json_of_ours(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_json(text)
    file = tmp_path / "x.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"x\.json is damaged: .*{message}") as caught:
        read_json(file)
    assert len(str(caught.value)) < len(str(file)) + 300


def test_depth_that_is_allowed():
    for inside in ("", "1", '"é"'):
        text = nested(MOST_DEPTH).replace("[]", f"[{inside}]")
        assert str(parse_json(text)).count("[") == MOST_DEPTH


def test_files_that_are_not_there_or_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")
    with pytest.raises(ValueError, match="is not a file"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        read_json(tmp_path / ("x" * 300))


def test_size_is_bounded(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[1, 2]")
    assert read_json(file, most_bytes=6) == [1, 2]
    with pytest.raises(ValueError, match=r"x\.json is too large"):
        read_json(file, most_bytes=5)
    with file.open("wb") as stream:
        stream.truncate(50 * MOST_BYTES)  # a file with a hole
    with pytest.raises(ValueError, match="too large: more than 16 MiB"):
        read_json(file)
    with pytest.raises(ValueError, match="too large: line 1 ends beyond"):
        list(read_lines(file))


def test_a_record_of_a_file(tmp_path):
    file = tmp_path / "card.json"
    file.write_text('{"title": "x"}')
    assert read_record(file, Card) == Card(title="x")
    file.write_text('{"title": ["x"]}')
    with pytest.raises(ValueError, match=r"card\.json is damaged: title must be text, got \['x'\]"):
        read_record(file, Card)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", []),
        ("1\n[2]\n", [1, [2]]),
        ("1\n[2]", [1, [2]]),
        ("1\n[2", [1]),
        ("[1", []),
    ],
)
def test_lines_without_the_one_that_a_kill_cut_off(content, found, tmp_path):
    (tmp_path / "x.jsonl").write_text(content)
    assert list(read_lines(tmp_path / "x.jsonl")) == found


@pytest.mark.parametrize("content", ["1\n[2\n", "1\n[2\n3\n", "1\n\n3\n", "1\nNaN\n"])
def test_a_damaged_line_is_named(content, tmp_path):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"x\.jsonl is damaged: line 2: "):
        list(read_lines(tmp_path / "x.jsonl"))
