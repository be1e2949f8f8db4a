"""What is taken for JSON: not more of it than a protocol can have, and nothing that is none."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ignite_trainer.errors import ProtocolError
from ignite_trainer.json_input import LARGEST_BYTES, MOST_VALUES, parse
from ignite_trainer.validation import read_json


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 10_000, "more than 50 lists and objects lie inside each other"),
        ('{"a":' * 10_000, "more than 50 lists and objects"),
        ("[" * 200 + "]" * 200, "more than 50 lists and objects"),
        (json.dumps(list(range(MOST_VALUES))), "more than 20,000 values"),
        (" " * LARGEST_BYTES + "{}", "more than 1,000,000 characters"),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        (f"[{2**63}]", f"{2**63} is too large; whole numbers go to {2**63 - 1}"),
        ("[-" + "1" * 5000 + "]", "is too large"),
        ('["a\\u0000b"]', "has a NUL"),
        ('{"\\ud800": 1}', "half of a surrogate pair"),
    ],
)
def test_what_is_no_protocol_is_refused_at_once(text: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=said) as caught:
        parse(text)
    assert time.monotonic() - begun < 1
    assert len(str(caught.value)) < 200


def test_everything_that_json_has_is_taken() -> None:
    value = {"a": [1, -(2**63) + 1, 0.5, None, True, "\U0001f600 \u202e"], "b": {"c": {}}}
    assert parse(json.dumps(value)) == value
    deep = "[" * 49 + "1" + "]" * 49
    assert json.dumps(parse(deep)) == deep


def test_no_more_of_a_file_is_read_than_a_protocol_can_have(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(ProtocolError, match=r"large\.json: more than 1,000,000 characters"):
        read_json(path)
