"""The effect of a key decides which runs may be averaged, belong to one sweep, or may be resumed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import TRUSTED, run_toy, toy
from toy_research.signals import Tones

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.identity import Classes, classes_of, digest, identity, purpose
from ignite_trainer.protocol.schema import PACKAGES, find_classes, kind_of
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs import resuming
from ignite_trainer.support.errors import ProtocolError

CLASSES: Classes = {"Dataset": Tones}
CHANGES: dict[str, tuple[dict[str, Any], tuple[bool, bool, bool]]] = {
    "result": ({"Setup__precision": "tf32"}, (False, False, False)),
    "training": ({"Setup__ema": 0.9}, (False, False, False)),
    "rules": ({"Parameters": [{"match": ".*", "max_gradient_norm": 1.0}]}, (False, False, False)),
    "mean": ({"Setup__swa": 0.5}, (False, False, False)),
    "run": ({"Setup__seed": 8}, (True, False, False)),
    "data": ({"Dataset__args": {"fold": 2}}, (True, False, False)),
    "evaluations": (
        {"Evaluations": {"c": {"class": "toy_research.measuring.Confidence"}}},
        (True, False, False),
    ),
    "form": ({"Setup__channels_last": False}, (True, True, False)),
    "table": ({"Table": {"listed": False}}, (True, False, True)),
    "speed": ({"Setup__workers_train": 1}, (True, True, True)),
    "reporters": ({"Reporters": []}, (True, True, True)),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_toy(tmp_path_factory.mktemp("run"), Setup__epochs=1).folder


@pytest.mark.parametrize(("changes", "shared"), CHANGES.values(), ids=list(CHANGES))
def test_the_effect_of_a_change_decides_which_runs_belong_together(
    run_folder: Path, tmp_path: Path, changes: dict[str, Any], shared: tuple[bool, bool, bool]
) -> None:
    one = validate(toy(tmp_path, Setup__epochs=1))
    other = draw(validate(toy(tmp_path, **{"Setup__epochs": 1, **changes})), trusted=TRUSTED)
    try:
        resuming.require_same(other, run_folder)
        resumable = True
    except ProtocolError:
        resumable = False
    assert shared == (
        identity(one, CLASSES) == identity(other.protocol, CLASSES),
        purpose(one, CLASSES) == purpose(other.protocol, CLASSES),
        resumable,
    )


def test_a_key_affects_the_result_by_default() -> None:
    assert Setup.model_fields["batch_of"].metadata == []
    assert Setup.affects()["batch_of"] == "result"


def test_a_class_declares_which_of_its_arguments_do_not_affect_the_result(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = toy(tmp_path, Setup__epochs=1, Dataset__args={"fold": 1, "samples": 33})
    blueprint = draw(validate(more), trusted=TRUSTED)
    with pytest.raises(ProtocolError, match=r"Dataset\.args\.samples is 33, but absent in that run"):
        resuming.require_same(blueprint, run_folder)
    monkeypatch.setattr(Tones, "affects", {"samples": "handling"})
    resuming.require_same(blueprint, run_folder)
    few = draw(validate(toy(tmp_path, Setup__epochs=1)), trusted=TRUSTED)
    assert identity(few.protocol, few.classes) == identity(blueprint.protocol, blueprint.classes)
    assert identity(few.protocol) != identity(blueprint.protocol)


def test_saved_protocols_are_identified_by_trusted_classes(tmp_path: Path) -> None:
    model = {
        "class": "model.audioclip.AudioCLIP",
        "args": {"pretrained": "a.pt", "assets": "b", "clip": None},
    }
    protocol = validate(toy(tmp_path, Model=model))
    classes = classes_of(protocol)
    assert list(classes) == ["Model"]
    assert identity(protocol, classes)["Model"]["args"] == {"clip": None}


def test_digests_are_those_of_earlier_versions() -> None:
    """Otherwise their runs are not averaged with new ones, and their sweeps start anew."""
    finished = Path(__file__).parents[1] / "runs/earlier_version/finished"
    raw = json.loads((finished / "protocol.json").read_text())
    variant = json.loads((finished / "result.json").read_text())["variant"]
    assert digest(identity(validate(raw), CLASSES)) == variant
    published = {"dataset": "Tones", "weights": "0" * 64, "setting": "trained", "value": 0.5}
    raw["Table"] = {"published": [published]}
    assert purpose(validate(raw), CLASSES) == "6ff4bf631071"  # recorded with commit 33d1f92
    raw["Table"] = {"published": [{**published, "decimals": 1}]}
    assert purpose(validate(raw), CLASSES) != "6ff4bf631071"
    raw["Setup"]["patience"] = 3
    assert digest(identity(validate(raw), CLASSES)) != variant


def test_shipped_classes_declare_all_arguments_that_do_not_affect_the_result() -> None:
    """These arguments are omitted from the variants of older results, whose digests must not change."""
    handling = {"cache", "progress", "download"}
    for path, kind in find_classes(
        PACKAGES, ["model.audioclip.AudioCLIP", "model.esresnet.ESResNeXt"]
    ).items():
        if kind_of(kind) in ("Dataset", "Model"):
            taken = set(inspect.signature(kind).parameters)
            known = {name: effect for name, effect in getattr(kind, "affects", {}).items() if name in taken}
            places = taken & {"root", "fold", "pretrained", "assets", *handling}
            assert known == {name: "handling" if name in handling else "run" for name in places}, path
