"""What a key affects decides what runs that are averaged, swept or resumed must have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_research.protocols import TRUSTED, run_toy, toy
from toy_research.signals import Tones

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.identity import purpose, variant
from ignite_trainer.protocol.setup_section import Setup
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs import resuming
from ignite_trainer.support.errors import ProtocolError

CHANGES: dict[str, tuple[dict[str, Any], tuple[bool, bool, bool]]] = {
    "a result": ({"Setup__precision": "tf32"}, (False, False, False)),
    "how it trains": ({"Setup__ema": 0.9}, (False, False, False)),
    "which run it is": ({"Setup__seed": 8}, (True, False, False)),
    "the data": ({"Dataset__args": {"fold": 2}}, (True, False, False)),
    "what else is measured": (
        {"Evaluations": {"c": {"class": "toy_research.measuring.Confidence"}}},
        (True, False, False),
    ),
    "rounding": ({"Setup__channels_last": False}, (True, True, False)),
    "how tables show it": ({"Table": {"listed": False}}, (True, False, True)),
    "speed": ({"Setup__workers_train": 1}, (True, True, True)),
    "who is told": ({"Reporters": []}, (True, True, True)),
}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_toy(tmp_path_factory.mktemp("run"), Setup__epochs=1).folder


@pytest.mark.parametrize(("changes", "shared"), CHANGES.values(), ids=list(CHANGES))
def test_what_differs_says_which_runs_belong_together(
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
        variant(one) == variant(other.protocol),
        purpose(one) == purpose(other.protocol),
        resumable,
    )


def test_a_key_that_says_nothing_affects_the_result() -> None:
    assert Setup.model_fields["batch_of"].metadata == []
    assert Setup.affects()["batch_of"] == "result"


def test_a_class_says_which_of_its_arguments_are_only_places(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = toy(tmp_path, Setup__epochs=1, Dataset__args={"fold": 1, "samples": 33})
    blueprint = draw(validate(more), trusted=TRUSTED)
    with pytest.raises(ProtocolError, match=r"Dataset\.args\.samples is 33, and absent there"):
        resuming.require_same(blueprint, run_folder)
    monkeypatch.setattr(Tones, "affects", {"samples": "handling"}, raising=False)
    resuming.require_same(blueprint, run_folder)
    few = draw(validate(toy(tmp_path, Setup__epochs=1)), trusted=TRUSTED)
    assert variant(few.protocol, few.classes) == variant(blueprint.protocol, blueprint.classes)
    assert variant(few.protocol) != variant(blueprint.protocol)
