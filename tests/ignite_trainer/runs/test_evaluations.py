"""Evaluations, records of runs, variants, predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_research.protocols import run_toy, toy
from toy_research.records import events
from toy_research.signals import Tones
from toy_research.watching import Notebook

from ignite_trainer.api.predictions import PredictionCollector, Predictions
from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.protocol.identity import identity
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.protocol.validation import validate
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.errors import ProtocolError, RunFailed

CONFIDENCE: dict[str, Any] = {"class": "toy_research.measuring.Confidence"}


def test_an_evaluation_measures_the_last_pass_over_the_held_out_split(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=3, Evaluations={"confidence": CONFIDENCE})
    [found] = Notebook.last.of("measurement")
    assert (found.epoch, found.name) == (3, "confidence")
    assert sum(row["samples"] for row in found.table.values()) == 10
    assert (result.folder / "seen.txt").read_text() == "0 1 2 3 4 5 6 7 8 9"
    assert result.record.evaluations == {"confidence": found.table}
    assert [event["table"] for event in events(result.folder) if event["event"] == "measurement"] == [
        found.table
    ]


@pytest.mark.parametrize(
    ("epochs", "every", "expected"), [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (2, None, [2]), (0, None, [0])]
)
def test_an_evaluation_is_due_at_its_interval_and_at_the_end(
    tmp_path: Path, epochs: int, every: int | None, expected: list[int]
) -> None:
    run_toy(tmp_path, Setup__epochs=epochs, Evaluations={"confidence": {**CONFIDENCE, "every": every}})
    assert [found.epoch for found in Notebook.last.of("measurement")] == expected


def test_evaluations_and_predictions_have_the_same_scores(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Evaluations={"confidence": CONFIDENCE})
    with (result.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sample", "target", "prediction", "score: low", "score: middle", "score: high"]
    right = sum(row["target"] == row["prediction"] for row in rows) / len(rows)
    assert right == pytest.approx(result.end.last["Val. Acc."])
    scores = np.array([[float(row[f"score: {name}"]) for name in ("low", "middle", "high")] for row in rows])
    highest = torch.from_numpy(scores).softmax(-1).amax(-1)
    table = result.record.evaluations["confidence"]
    low = [value for value, row in zip(highest, rows, strict=True) if row["target"] == "low"]
    assert table["target 0"]["mean"] == pytest.approx(float(sum(low)) / len(low), abs=1e-6)


def test_an_invalid_evaluation_is_refused_before_training(tmp_path: Path) -> None:
    measure = {**CONFIDENCE, "args": {"fial": True}, "every": 0}
    with pytest.raises(ProtocolError, match=r"Evaluations\.confidence\.every is 0"):
        run_toy(tmp_path, Evaluations={"confidence": measure})
    with pytest.raises(ProtocolError, match=r"Evaluations\.confidence\.args\.fial .*fail"):
        run_toy(tmp_path, Evaluations={"confidence": {**CONFIDENCE, "args": {"fial": True}}})
    with pytest.raises(ProtocolError, match=r"Evaluations\.x\.class is torch\.optim\.SGD"):
        run_toy(tmp_path, Evaluations={"x": {"class": "torch.optim.SGD"}})
    assert not list(tmp_path.rglob("protocol.json"))


def test_an_evaluation_that_fails_ends_the_run_with_its_message(tmp_path: Path) -> None:
    failing = {**CONFIDENCE, "args": {"fail": True}}
    with pytest.raises(
        RunFailed, match=r"the held-out split failed: nothing to be confident of\. The results"
    ):
        run_toy(tmp_path, Evaluations={"confidence": failing})


def test_a_run_that_holds_nothing_out_is_refused(tmp_path: Path) -> None:
    points = {"class": "toy_research.embedding.Points", "args": {"fold": None}}
    with pytest.raises(
        ProtocolError, match=r"hold nothing out: both splits are the whole data.*Name a fold, or"
    ):
        run_toy(tmp_path, Dataset=points)
    assert not list(tmp_path.rglob("protocol.json"))


def test_training_needs_epochs_and_an_optimizer(tmp_path: Path) -> None:
    protocol = toy(tmp_path, Setup__epochs=0)
    del protocol["Optimizer"]
    assert validate(protocol).optimizer is None
    result = run_toy(tmp_path, Setup__epochs=0)
    assert not (result.folder / "checkpoints").exists()
    assert result.record.checkpoint is None
    assert result.record.setting == "evaluated"
    del (protocol := toy(tmp_path, Setup__epochs=2, Scheduler={"class": "a.B"}))["Optimizer"]
    with pytest.raises(ProtocolError) as error:
        validate(protocol)
    assert error.value.problems == [
        "Optimizer is missing, but Setup.epochs is 2; add it or set Setup.epochs to 0.",
        "Optimizer is missing, but Scheduler needs it; add Optimizer or remove Scheduler.",
    ]


def test_the_record_contains_the_result_of_a_run_and_its_origin(tmp_path: Path) -> None:
    figure = {"dataset": "Tones", "weights": "a" * 64, "setting": "trained", "value": 0.5}
    result = run_toy(tmp_path, Table={"published": [figure]})
    record = RunRecord.read(result.folder / "result.json")
    assert record == result.record
    assert (record.model, record.dataset, record.setting) == ("TwoTowers", "Tones", "trained")
    assert (record.samples, record.seed, record.epochs) == ({"train": 20, "test": 10}, 7, 2)
    assert (record.held_out, record.folds, record.weights) == ((1,), (1, 2, 3), ())
    assert (record.metric, record.share, record.listed) == ("Val. Acc.", True, True)
    assert record.value("Val. Acc.") == (result.end.last["Val. Acc."], result.end.best[0].value)
    assert record.checkpoint is not None
    assert result.end.last_checkpoint is not None
    assert record.checkpoint == WeightsFile.of(result.end.last_checkpoint)
    assert record.published[0].value == 0.5


@pytest.mark.parametrize("content", [b'{"name": "x"', b"{}", b"\xff\xfe{\x00"])
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(ProtocolError, match=r"result\.json is not the result of a run"):
        RunRecord.read(tmp_path / "result.json")


def shown(
    path: str, *, best: str = "max", height: int = 416, beside: str | None = None, **args: Any
) -> dict[str, Any]:
    """Return a `Metrics` section with a line of this class, optionally next to another line."""
    line = {"line_label": "Val. Acc.", "class": path, "args": args, "best": best, "is_checkpoint": True}
    others = [{"line_label": "Other", "class": beside}] if beside else []
    return {"Performance": {"height": height, "lines": [*others, line]}}


@pytest.mark.parametrize(
    ("path", "share"), [("ignite.metrics.Accuracy", True), ("toy_research.learning.Surprise", False)]
)
def test_a_metric_is_a_share_only_if_its_class_is_known_as_one(
    tmp_path: Path, path: str, share: bool
) -> None:
    metrics = {"Performance": {"lines": [{"line_label": "x", "class": path}]}}
    assert run_toy(tmp_path, Setup__epochs=0, Metrics=metrics).record.share is share


def computed(protocol: Protocol) -> dict[str, Any]:
    return identity(protocol, {"Dataset": Tones})


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"Setup__seed": 8}, True),
        ({"Setup__suffix": "b", "Setup__workers_train": 2, "Setup__log_interval": 3}, True),
        ({"Dataset__args": {"fold": 2}}, True),
        ({"Dataset__args": {"fold": 1, "samples": 33}}, False),
        ({"Optimizer__args": {"lr": 0.2, "momentum": 0.9}}, False),
        ({"Setup__epochs": 3}, False),
        ({"Task__args": {"smoothing": 0.1}}, False),
        ({"Setup__batch_test": 3}, True),
        ({"Setup__batch_train": 9}, False),
        ({"Setup__accumulate": 2}, False),
        ({"Metrics": shown("ignite.metrics.Accuracy", height=3)}, True),
        ({"Metrics": shown("ignite.metrics.Recall", average=True)}, False),
        ({"Metrics": shown("ignite.metrics.Accuracy", is_multilabel=True)}, False),
        ({"Metrics": shown("ignite.metrics.Accuracy", best="min")}, False),
        ({"Metrics": shown("ignite.metrics.Accuracy", beside="ignite.metrics.Recall")}, True),
    ],
)
def test_a_variant_identifies_everything_that_affects_the_result(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    first, second = validate(toy(tmp_path)), validate(toy(tmp_path / "elsewhere", **changes))
    assert (computed(first) == computed(second)) is same


def test_without_training_training_options_do_not_change_the_variant(tmp_path: Path) -> None:
    changes = {"Setup__batch_train": 9, "Setup__accumulate": 2, "Optimizer__args": {"lr": 0.2}}
    first = validate(toy(tmp_path, Setup__epochs=0))
    assert computed(first) == computed(validate(toy(tmp_path, Setup__epochs=0, **changes)))
    assert computed(first) != computed(validate(toy(tmp_path, Setup__epochs=0, Model__args={"dropout": 0.1})))


def test_the_tables_metric_must_be_in_the_protocol(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r'Table\.metric is "Val\. Ac\.", which is not a line_label;'):
        validate(toy(tmp_path, Table={"metric": "Val. Ac."}))


# Predictions


def predictions(*, multilabel: bool = False) -> Predictions:
    generator = np.random.default_rng(0)
    targets = np.zeros((4, 3), dtype=bool)
    targets[range(4), [0, 2, 1, 2]] = True
    if multilabel:
        targets[0, 1], targets[2] = True, False
    return Predictions(
        scores=generator.random((4, 3), dtype=np.float32),
        targets=targets,
        class_names=('a, "b"', "target", "7"),
        records=tuple({"sample": f"x,{i}.wav", "fold": i} for i in range(4)),
        multilabel=multilabel,
    )


@pytest.mark.parametrize("multilabel", [False, True])
def test_predictions_survive_writing_and_reading(tmp_path: Path, multilabel: bool) -> None:
    written = predictions(multilabel=multilabel)
    written.write_csv(tmp_path / "p.csv")
    read = Predictions.read_csv(tmp_path / "p.csv", multilabel=multilabel)
    assert np.array_equal(read.scores, written.scores)
    assert np.array_equal(read.targets, written.targets)
    assert (read.class_names, read.records) == (written.class_names, written.records)
    assert np.array_equal(read.correct, written.targets[range(4), written.scores.argmax(1)])


def test_pooled_predictions_keep_their_order_and_need_equal_classes() -> None:
    one = predictions()
    both = Predictions.pooled([one, one])
    assert len(both) == 8
    assert np.array_equal(both.scores[4:], one.scores)
    with pytest.raises(ProtocolError, match="different classes cannot be pooled"):
        Predictions.pooled([one, predictions(multilabel=True)])


def test_a_file_without_predictions_is_refused(tmp_path: Path) -> None:
    for text in ("", "a,b\n1,2\n", "fold,target,prediction,score: a\n1,a,a,high\n"):
        (tmp_path / "p.csv").write_text(text)
        with pytest.raises(ProtocolError, match=r"p\.csv is not a table of predictions"):
            Predictions.read_csv(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (torch.zeros(2), torch.zeros(2)),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3, 4), torch.zeros(2, 3)),
    ],
)
def test_scores_with_other_shapes_yield_no_predictions(scores: torch.Tensor, targets: torch.Tensor) -> None:
    collector = PredictionCollector([1, 2], ["a"])
    collector.add(torch.arange(2), scores, targets)
    assert collector.predictions() is None
