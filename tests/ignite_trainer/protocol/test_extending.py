"""Protocols that extend another: what the whole one is, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.protocol.extending import lost_schema, read_layers, read_protocol
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


def write(folder: Path, **files: Any) -> Path:
    """Write protocols; return the path of the first."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{next(iter(files))}.json"


def extended(folder: Path, change: dict[str, Any]) -> dict[str, Any]:
    return read_protocol(write(folder, own={"extends": "base.json", **change}, base=BASE))


def error(path: Path) -> str:
    with pytest.raises(ProtocolError) as caught:
        read_protocol(path)
    return str(caught.value)


def test_a_protocol_that_extends_nothing_is_what_it_says(tmp_path: Path) -> None:
    assert read_protocol(write(tmp_path, base=BASE)) == BASE


def test_objects_are_merged_and_everything_else_replaced(tmp_path: Path) -> None:
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


def test_another_class_has_none_of_the_arguments_of_the_one_before(tmp_path: Path) -> None:
    adam = {"class": "torch.optim.Adam", "args": {"lr": 0.01}}
    assert extended(tmp_path, {"Optimizer": adam})["Optimizer"] == adam
    same = {"class": "torch.optim.SGD", "args": {"lr": 0.01}}
    assert extended(tmp_path, {"Optimizer": same})["Optimizer"]["args"] == {"lr": 0.01, "momentum": 0.9}


def test_null_is_a_value_where_a_key_takes_it_and_takes_away_elsewhere(tmp_path: Path) -> None:
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


def test_what_is_misspelt_is_said_of_the_whole(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"Setup\.epoch is not a key of a protocol; did you mean \"epochs\""
    ):
        validate(extended(tmp_path, {"Setup": {"epoch": None}}))


def test_a_chain_of_files_in_several_folders_is_followed_and_the_last_word_counts(tmp_path: Path) -> None:
    write(tmp_path / "lib", base={**BASE, "$schema": "./schema.json"})
    write(tmp_path / "lib", middle={"extends": "base.json", "Setup": {"epochs": 5, "log_interval": 2}})
    own = write(tmp_path / "mine", own={"extends": "../lib/middle.json", "Setup": {"epochs": 6}})
    whole = read_protocol(own)
    assert whole["Setup"] == {**BASE["Setup"], "epochs": 6, "log_interval": 2}
    saved = validate(whole).to_json()
    assert "extends" not in saved
    assert saved["$schema"] is None
    assert validate(saved) == validate(whole)


def test_a_base_may_have_comments(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    path = tmp_path / "base.json"
    path.write_text(f"\ufeff// what all have\n{path.read_text()}", encoding="utf-8")
    own = write(tmp_path, own={"extends": "base.json", "Setup": {"epochs": 6}})
    assert read_protocol(own)["Setup"]["epochs"] == 6


def test_what_is_saved_of_a_protocol_leads_to_its_schema_from_any_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "protocols", base={**BASE, "$schema": "./schema.json"})
    (tmp_path / "protocols/schema.json").write_text("{}")
    own = write(tmp_path / "mine", own={"extends": "../protocols/base.json", "$schema": "./schema.json"})
    for read in (path, own):
        saved = validate(read_protocol(read)).to_json()["$schema"]
        assert saved == str((tmp_path / "protocols/schema.json").resolve())
    assert [lost_schema(read_layers(read)[-1]) for read in (path, own)] == [None, "./schema.json"]
    address = write(tmp_path, address={**BASE, "$schema": "https://example.org/schema.json"})
    assert read_protocol(address)["$schema"] == "https://example.org/schema.json"


def test_a_missing_file_is_named_with_those_on_the_way(tmp_path: Path) -> None:
    own = write(tmp_path, a={"extends": "b.json"}, b={"extends": "none.json"})
    assert error(own) == (
        f"{tmp_path}/a.json extends {tmp_path}/b.json extends {tmp_path}/none.json: there is no such file."
    )


def test_a_circle_is_named_with_the_files_on_the_way(tmp_path: Path) -> None:
    own = write(tmp_path, a={"extends": "b.json"}, b={"extends": "./a.json"})
    way = f"{tmp_path}/a.json extends {tmp_path}/b.json extends {tmp_path}/a.json"
    assert error(own) == f"{way}: extends leads back to a file on the way; name another one, or none."
    assert "leads back" in error(write(tmp_path, itself={"extends": "itself.json"}))


@pytest.mark.parametrize("base", [5, "", ["base.json"], True])
def test_extends_is_a_path(tmp_path: Path, base: Any) -> None:
    own = write(tmp_path, own={"extends": base}, base=BASE)
    assert error(own) == (
        f"{own}: extends is {json.dumps(base)}; write the path of a protocol, relative to this file."
    )


def test_what_is_no_json_further_down_is_said_of_its_file(tmp_path: Path) -> None:
    own = write(tmp_path, own={"extends": "broken.json"})
    (tmp_path / "broken.json").write_text("{\n,}")
    assert error(own).startswith(f"{own} extends {tmp_path}/broken.json: line 2, column 1: ")


def test_a_whole_protocol_extends_nothing() -> None:
    with pytest.raises(ProtocolError, match=r'extends is "base\.json"; this has to be a whole protocol'):
        validate({**BASE, "extends": "base.json"})
