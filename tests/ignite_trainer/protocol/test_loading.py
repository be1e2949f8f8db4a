"""Loading a protocol: defaults of its model, overrides, and the origin of each value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ignite_trainer.protocol.loading import load, supply_defaults, trace
from ignite_trainer.protocol.overrides import split_overrides

RULES = [{"match": "a.*"}, {"match": ".*", "train": False}]
DEFAULTS = {"some.Model": {"Task": {"class": "some.Default"}, "Parameters": RULES}}
# As published: without Task and Parameters.
PUBLISHED: dict[str, Any] = {
    "Visdom": {"host": None, "port": None, "env_path": None},
    "Setup": {"name": "Least", "batch_train": 4, "epochs": 1, "saved_models_path": "results"},
    "Model": {"class": "some.Model"},
    "Optimizer": {"class": "torch.optim.SGD"},
    "Dataset": {
        "class": "some.Data",
        "args": {
            "dl_shuffle": True,
            "root": "/path/to/data",
            "training": {"key": "train", "yes": True, "no": False},
        },
    },
    "Transforms": [{"class": "some.First", "args": {"p": 0.5}}, {"class": "some.Second"}],
}


def write(folder: Path, **files: Any) -> list[Path]:
    paths = [folder / f"{name}.json" for name in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    return paths


def test_a_published_file_is_complete_with_the_defaults_of_its_model(tmp_path: Path) -> None:
    path, defaults = write(tmp_path, published=PUBLISHED, defaults=DEFAULTS)
    protocol = load(path, defaults=defaults)
    assert protocol.task.path == "some.Default"
    assert [rule.train for rule in protocol.parameters] == [True, False]


def test_defaults_do_not_replace_sections_of_the_file() -> None:
    supplied = supply_defaults({**PUBLISHED, "Task": {"class": "some.Task"}}, DEFAULTS)
    assert supplied["Task"] == {"class": "some.Task"}
    assert supplied["Parameters"] == RULES


@pytest.mark.parametrize("model", [None, 5, [], {}, {"class": 3}, {"class": "unknown.Model"}])
def test_nothing_is_added_for_a_model_without_defaults(model: Any) -> None:
    assert supply_defaults({"Model": model}, DEFAULTS) == {"Model": model}


def test_an_override_may_name_a_model_with_defaults_and_change_those(tmp_path: Path) -> None:
    path, defaults = write(tmp_path, own={**PUBLISHED, "Model": {"class": "some.Other"}}, defaults=DEFAULTS)
    _, overrides = split_overrides(["--Parameters.0.match", "b.*", "--Model.class", "some.Model"])
    assert [rule.match for rule in load(path, overrides, defaults=defaults).parameters] == ["b.*", ".*"]


def test_every_value_has_an_origin(tmp_path: Path) -> None:
    own = {"extends": "base.json", "Setup": {"epochs": 3}}
    path, _, defaults = write(tmp_path, own=own, base=PUBLISHED, defaults=DEFAULTS)
    words = "--Setup.log_interval 5 --Transforms[-2].args.p .1 --Sweep.Setup.seed 1 2 --Visdom {}"
    _, overrides = split_overrides(words.split())
    protocol = load(path, overrides, defaults=defaults)
    origins = {value.path: value.origin for value in trace(protocol, path, overrides, defaults=defaults)}
    assert {key.split(".")[0].split("[")[0] for key in origins} == set(protocol.to_json())
    expected = {
        "Setup.epochs": "own.json",
        "Setup.name": "base.json",
        "Setup.log_interval": "--Setup.log_interval",
        "Setup.precision": "default",
        "Transforms[0].args.p": "--Transforms.-2.args.p",
        "Transforms[1].class": "base.json",
        "Task.class": "defaults.json",
        "Task.args": "default",
        "Sweep.Setup.seed": "--Sweep.Setup.seed",
        "Visdom.port": "--Visdom",
    }
    assert {key: origins[key] for key in expected} == expected
