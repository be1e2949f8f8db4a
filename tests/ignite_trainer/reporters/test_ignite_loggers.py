"""`Reporters` can name ignite's own loggers; TensorBoard gets the values of metrics.jsonl."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from toy_research.protocols import TRUSTED, run_toy, toy

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.reporters.ignite_loggers import IgniteLogger, build_reporter

TENSORBOARD = {
    "class": "ignite.handlers.tensorboard_logger.TensorboardLogger",
    "args": {"log_dir": "{folder}/tensorboard"},
}


def test_tensorboard_has_the_values_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # caused by tensorboard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        reporters = [TENSORBOARD, {"class": "ignite_trainer.reporters.JsonLines"}]
        folder = run_toy(tmp_path, Reporters=reporters).folder
        read = EventAccumulator(str(folder / "tensorboard"))
        read.Reload()
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "iteration"]
    told = {
        "training/loss": [(step["iteration"], step["loss"]) for step in steps],
        "training/learning rate 1": [(step["iteration"], step["learning_rates"][0]) for step in steps],
        **{
            f"{tag}/Val. Acc.": [
                (event["epoch"], event["metrics"]["Val. Acc."])
                for event in events
                if event["event"] == "evaluation" and event["split"] == split
            ]
            for split, tag in (("train", "training set"), ("test", "held-out set"))
        },
    }
    assert len(told["training/loss"]) == len(steps) > 1
    for tag, values in told.items():
        logged = [(one.step, one.value) for one in read.Scalars(tag)]
        assert logged == [(step, pytest.approx(value)) for step, value in values]


def test_any_logger_of_ignite_can_be_named(tmp_path: Path) -> None:
    for name in ("wandb_logger.WandBLogger", "mlflow_logger.MLflowLogger", "clearml_logger.ClearMLLogger"):
        protocol = validate(toy(tmp_path, Reporters=[{"class": f"ignite.handlers.{name}"}]))
        ((kind, args),) = draw(protocol, trusted=TRUSTED).reporters
        assert kind.__name__ == name.partition(".")[2]
        assert isinstance(build_reporter(kind, args, where="Reporters[0]"), IgniteLogger)
