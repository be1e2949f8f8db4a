"""What is taken for JSON, and the comments that a protocol may have besides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ignite_trainer.protocol.json_input import parse, without_comments
from ignite_trainer.protocol.validation import read_json
from ignite_trainer.support.errors import ProtocolError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
    ],
)
def test_json_that_no_other_program_would_read_alike_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_everything_that_json_has_is_taken() -> None:
    value = {"a": [1, -(2**63) + 1, 0.5, None, True, "\U0001f600 \u202e"], "b": {"c": {}}}
    assert parse(json.dumps(value)) == value


COMMENTED = """{
  // the first line of the file
  "a": [1, 2,  /* taken out: 3, */
  ],
  "b": "http://x/*y*/ // no comment, \\"}, ",  // after a value
  /* several
     lines */
  "c": {"d": null,},
}
// the end"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_may_have_comments_trailing_commas_and_a_byte_order_mark(
    tmp_path: Path, encoding: str, end: str
) -> None:
    path = tmp_path / "commented.json"
    path.write_bytes(COMMENTED.replace("\n", end).encode(encoding))
    assert read_json(path) == {"a": [1, 2], "b": 'http://x/*y*/ // no comment, "}, ', "c": {"d": None}}


@pytest.mark.parametrize(
    "text",
    [
        "[,]",
        "{,}",
        "[1,,]",
        '{"a":,}',
        '["a,]"]',
        '"\\"',
        "1/2",
        "[1 2]",
        '"//"',
        '{"a": "/*"}',
        "[[],{}]",
        "",
    ],
)
def test_without_comments_and_trailing_commas_a_text_stays_as_it_is(text: str) -> None:
    assert without_comments(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n// one\n"a": 1 /* two\n */\n"b": 2}', "line 5, column 1: Expecting ',' delimiter."),
        (
            '{"a": 1,\n /* no end "b": 2}',
            "line 2, column 2: The comment that begins here does not end; write */.",
        ),
        ('{"a": 1}\n/*/', "line 2, column 1: The comment that begins here does not end"),
        ('{"a": 1} # one', "line 1, column 10: Extra data."),
    ],
)
def test_errors_after_comments_name_line_and_column_of_the_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ProtocolError) as caught:
        read_json(path)
    assert said in str(caught.value)


def test_a_byte_that_is_not_utf_8_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes('{\n"name": "Vögel"}'.encode("latin-1"))
    with pytest.raises(ProtocolError, match=r"line 2 is not utf-8 .*; save the file as UTF-8"):
        read_json(path)
