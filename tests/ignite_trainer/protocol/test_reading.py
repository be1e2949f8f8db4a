"""Protocol files: strict JSON with comments, and protocols that extend another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.protocol.reading import parse, read_json, read_protocol, without_comments
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError

BASE: dict[str, Any] = {
    "Setup": {"name": "Base", "batch_train": 4, "epochs": 3, "saved_models_path": "results"},
    "Model": {"class": "some.Model", "args": {"width": 8, "parts": {"a": 1, "b": [1, 2]}}},
    "Task": {"class": "some.Task"},
    "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.9}},
    "Dataset": {"class": "some.Data", "args": {"fold": 1}},
    "Transforms": [{"class": "some.First"}, {"class": "some.Second"}],
    "Evaluations": {"one": {"class": "some.Evaluation", "every": 5}, "two": {"class": "some.Evaluation"}},
}
COMMENTED = """{
  // the first line of the file
  "a": [1, 2,  /* commented out: 3, */
  ],
  "b": "http://x/*y*/ // not a comment, \\"}, ",  // after a value
  /* several
     lines */
  "c": {"d": null,},
}
// the end"""


def write(folder: Path, **files: Any) -> Path:
    """Write protocols; return the path of the first."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.json"


def extended(folder: Path, change: dict[str, Any]) -> dict[str, Any]:
    return read_protocol(write(folder, own={"extends": "base.json", **change}, base=BASE))


def error(path: Path) -> str:
    with pytest.raises(ProtocolError) as caught:
        read_protocol(path)
    return str(caught.value)


# One file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": {"b": 1, "b": 2}}', 'the key "b" appears twice in one object; keep one.'),
        ('{"a": NaN}', "NaN is not a JSON number; write a finite number or null."),
        ('{"a": [-Infinity]}', "-Infinity is not a JSON number; write a finite number or null."),
        ('{"a": 1e999}', "1e999 is not a JSON number; write a finite number or null."),
        ('{\n  "a": 1\n  "b": 2}', "line 3, column 3: Expecting ',' delimiter."),
        ('{\n// one\n"a": 1 /* two\n */\n"b": 2}', "line 5, column 1: Expecting ',' delimiter."),
        ('{"a": 1} # one', "line 1, column 10: Extra data."),
        ("", "line 1, column 1: Expecting value."),
        ("[1]", "a protocol must be a JSON object."),
    ],
)
def test_an_error_in_a_file_names_file_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, broken=text)
    assert error(path) == f"{path}: {said}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert error(tmp_path / "none.json") == f"{tmp_path}/none.json: there is no such file."
    assert "Is a directory" in error(tmp_path)
    path = tmp_path / "latin.json"
    path.write_bytes('{\n"name": "Vögel"}'.encode("latin-1"))
    assert error(path).startswith(f"{path}: cannot be read: line 2 is not utf-8")
    assert error(path).endswith("save the file as UTF-8.")


def test_json_is_read_unchanged() -> None:
    value = {"a": [1, -(2**63) + 1, 0.5, 5e-5, None, True, "\U0001f600 \u202e"], "b": {"c": {}}}
    assert parse(json.dumps(value)) == value
    assert isinstance(parse("3"), int)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_may_have_comments_trailing_commas_and_a_byte_order_mark(
    tmp_path: Path, encoding: str, end: str
) -> None:
    path = tmp_path / "commented.json"
    path.write_bytes(COMMENTED.replace("\n", end).encode(encoding))
    assert read_json(path) == {"a": [1, 2], "b": 'http://x/*y*/ // not a comment, "}, ', "c": {"d": None}}


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
def test_text_without_comments_and_trailing_commas_does_not_change(text: str) -> None:
    assert without_comments(text) == text


# Files that extend another


def test_a_protocol_that_extends_nothing_is_read_unchanged(tmp_path: Path) -> None:
    assert read_protocol(write(tmp_path, base=BASE)) == BASE


def test_objects_are_merged_and_everything_else_is_replaced(tmp_path: Path) -> None:
    change = {
        "Setup": {"epochs": 9},
        "Model": {"args": {"parts": {"b": [3]}, "depth": 2}},
        "Transforms": [{"class": "some.Third"}],
    }
    assert extended(tmp_path, change) == {
        **BASE,
        "Setup": {**BASE["Setup"], "epochs": 9},
        "Model": {"class": "some.Model", "args": {"width": 8, "depth": 2, "parts": {"a": 1, "b": [3]}}},
        "Transforms": [{"class": "some.Third"}],
    }


def test_another_class_does_not_inherit_arguments(tmp_path: Path) -> None:
    adam = {"class": "torch.optim.Adam", "args": {"lr": 0.01}}
    assert extended(tmp_path, {"Optimizer": adam})["Optimizer"] == adam
    same = {"class": "torch.optim.SGD", "args": {"lr": 0.01}}
    assert extended(tmp_path, {"Optimizer": same})["Optimizer"]["args"] == {"lr": 0.01, "momentum": 0.9}


def test_null_is_a_value_if_the_key_accepts_it_and_removes_other_keys(tmp_path: Path) -> None:
    change = {
        "Setup": {"seed": None, "epochs": None},
        "Dataset": {"args": {"fold": None}},
        "Optimizer": None,
        "Transforms": None,
        "Evaluations": {"two": None, "three": None},
    }
    whole = extended(tmp_path, change)
    assert whole["Setup"] == {key: v for key, v in {**BASE["Setup"], "seed": None}.items() if key != "epochs"}
    assert whole["Dataset"]["args"] == {"fold": None}
    assert whole["Optimizer"] is None
    assert "Transforms" not in whole
    assert list(whole["Evaluations"]) == ["one"]
    assert extended(tmp_path, {"Sweep": {"Setup.seed": None}})["Sweep"] == {}


def test_a_misspelt_key_set_to_null_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"Setup\.epoch is not a key of a protocol; did you mean \"epochs\""
    ):
        validate(extended(tmp_path, {"Setup": {"epoch": None}}))


def test_a_chain_of_files_in_several_folders_is_followed_and_the_last_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "lib", base={**BASE, "$schema": "./schema.json"})
    write(tmp_path / "lib", middle='{"extends": "base.json", "Setup": {"epochs": 5, "log_interval": 2},}')
    own = write(tmp_path / "mine", own={"extends": "../lib/middle.json", "Setup": {"epochs": 6}})
    whole = read_protocol(own)
    assert whole["Setup"] == {**BASE["Setup"], "epochs": 6, "log_interval": 2}
    saved = validate(whole).to_json()
    assert "extends" not in saved
    assert saved["$schema"] is None
    assert validate(saved) == validate(whole)


def test_the_path_of_the_schema_becomes_absolute(tmp_path: Path) -> None:
    path = write(tmp_path / "protocols", base={**BASE, "$schema": "./schema.json"}, schema={})
    own = write(tmp_path / "mine", own={"extends": "../protocols/base.json"})
    for read in (path, own):
        saved = validate(read_protocol(read)).to_json()["$schema"]
        assert saved == str((tmp_path / "protocols/schema.json").resolve())
    address = write(tmp_path, address={**BASE, "$schema": "https://example.org/schema.json"})
    assert read_protocol(address)["$schema"] == "https://example.org/schema.json"


def test_errors_name_every_file_of_the_chain(tmp_path: Path) -> None:
    own = write(tmp_path, a={"extends": "b.json"}, b={"extends": "none.json"})
    way = f"{tmp_path}/a.json extends {tmp_path}/b.json extends {tmp_path}"
    assert error(own) == f"{way}/none.json: there is no such file."
    write(tmp_path, b={"extends": "./a.json"})
    assert error(own) == (
        f"{way}/a.json: extends leads back to a file in this chain; extend another file, or none."
    )
    write(tmp_path, b="{\n,}")
    assert error(own).startswith(f"{tmp_path}/a.json extends {tmp_path}/b.json: line 2, column 1: ")
    assert "leads back" in error(write(tmp_path, itself={"extends": "itself.json"}))


@pytest.mark.parametrize("base", [5, "", ["base.json"], True])
def test_extends_must_be_a_path(tmp_path: Path, base: Any) -> None:
    own = write(tmp_path, own={"extends": base}, base=BASE)
    assert error(own) == (
        f"{own}: extends is {json.dumps(base)}; write the path of a protocol, relative to this file."
    )


def test_a_protocol_that_is_not_a_file_cannot_extend_another() -> None:
    with pytest.raises(
        ProtocolError, match=r'extends is "base\.json"; only protocol files can extend others'
    ):
        validate({**BASE, "extends": "base.json"})
