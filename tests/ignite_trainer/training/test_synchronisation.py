"""The host reads results from the device only at the log interval, and otherwise does not wait for it.

On a CPU, the tests count reads of float tensors, which a device would hold. Lengths, labels and random
decisions (whole numbers, float64) are on the host anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils._python_dispatch import TorchDispatchMode
from toy_research.protocols import TRUSTED, toy

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.training import metrics
from ignite_trainer.training.engines import make_trainer
from utils.datasets import MadeSounds

aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.is_nonzero.default)


class Reads(TorchDispatchMode):
    """Counts the host's reads of float tensors; `restart` returns the count so far."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in READS and args[0].dtype in (torch.float32, torch.bfloat16, torch.float16)
        return func(*args, **(kwargs or {}))

    def restart(self) -> int:
        count, self.count = self.count, 0
        return count


ITERATION_METRICS = {
    "Performance": {
        "lines": [
            {"line_label": "Acc.", "class": "ignite.metrics.Accuracy", "update_rate": "iteration"},
            {
                "line_label": "Top",
                "class": "ignite.metrics.TopKCategoricalAccuracy",
                "args": {"k": 2},
                "update_rate": "iteration",
            },
        ]
    }
}


def training(raw: dict[str, Any], *, trusted: tuple[str, ...] = ()) -> tuple[Engine, Callable[[], Any]]:
    """Build the trainer of a protocol as a run does; return it and a function that runs it."""
    blueprint = draw(validate(raw), trusted=trusted)
    parts = assemble(blueprint, seed=1)
    assert parts.optimizer is not None
    setup = blueprint.protocol.setup
    trainer = make_trainer(
        parts.task, parts.model, parts.optimizer, parts.plan, setup, device=parts.device, scaler=parts.scaler
    )
    metrics.attach_running_metrics(blueprint, trainer, device=parts.device)
    return trainer, lambda: trainer.run(parts.training, max_epochs=setup.epochs)


def reads_by_step(trainer: Engine, run: Callable[[], Any]) -> list[int]:
    reads, counts = Reads(), list[int]()
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: reads.restart() and None)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: counts.append(reads.restart()))
    with reads:
        run()
    return counts


def small_tower(tmp_path: Path, **setup: Any) -> dict[str, Any]:
    sounds = MadeSounds(tmp_path / "sounds", seconds=0.2, clips_per_class_and_fold=2, cache=tmp_path)
    length = {"out_len": 6000}
    return {
        "Setup": {"name": "x", "batch_train": 8, "epochs": 1, "saved_models_path": "x", **setup},
        "Model": {
            "class": "model.esresnet.ESResNeXt",
            "args": {"num_classes": 6, "spec_height": 32, "spec_width": 32},
        },
        "Task": {"class": "utils.tasks.Classification"},
        "Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 1e-4, "momentum": 0.9}},
        "Dataset": {
            "class": "utils.datasets.ESC50",
            "args": {"root": str(sounds.root), "fold": 1, "cache": str(tmp_path)},
        },
        "Transforms": [
            {"class": "utils.transforms.ToTensor1D"},
            {"class": "utils.transforms.RandomFlip", "args": {"axis": "time"}},
            {"class": "utils.transforms.RandomRoll"},
            {"class": "utils.transforms.RandomGain"},
            {"class": "utils.transforms.RandomSpeed"},
            {"class": "utils.transforms.RandomScale"},
            {"class": "utils.transforms.RandomPadding", "args": length},
            {"class": "utils.transforms.RandomCrop", "args": length},
            {"class": "utils.transforms.RandomNoise", "args": {"p": 0.5}},
            {"class": "utils.transforms.Mixup", "args": {"by_level": True}, "test": False},
        ],
        "Metrics": ITERATION_METRICS,
    }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_metrics_are_read_only_at_the_log_interval_and_at_the_end_of_an_epoch(
    tmp_path: Path, accumulate: int
) -> None:
    raw = toy(tmp_path, Setup__batch_train=2, Setup__log_interval=4, Setup__accumulate=accumulate)
    raw["Metrics"] = ITERATION_METRICS
    raw["Transforms"] = raw["Transforms"][2:]  # the other transforms read their random numbers
    counts = reads_by_step(*training(raw, trusted=TRUSTED))
    assert len(counts) == 20
    assert [iteration for iteration, count in enumerate(counts, start=1) if count] == [4, 8, 10, 12, 16, 20]


def test_values_at_the_log_interval_cover_all_steps(tmp_path: Path) -> None:
    found: dict[int, list[Any]] = {}
    for every in (1, 4):
        raw = toy(tmp_path, Setup__batch_train=2, Setup__log_interval=every)
        raw["Metrics"] = ITERATION_METRICS
        torch.manual_seed(0)
        trainer, run = training(raw, trusted=TRUSTED)
        seen = found[every] = list[Any]()
        for event in (Events.ITERATION_COMPLETED(every=4), Events.EPOCH_COMPLETED):
            trainer.add_event_handler(
                event, lambda engine, seen=seen: seen.append(dict(engine.state.metrics))
            )
        run()
    assert found[1] == found[4]
    assert len(found[4]) == 7


def test_a_step_of_the_audio_tower_with_augmentation_reads_nothing_from_the_device(tmp_path: Path) -> None:
    counts = reads_by_step(*training(small_tower(tmp_path, log_interval=100)))
    assert counts[:-1] == [0] * 5
    assert counts[-1]  # the loss, at the end of the epoch


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_step_waits_for_the_device(tmp_path: Path, precision: str, watched_device: None) -> None:  # noqa: ARG001
    trainer, run = training(small_tower(tmp_path, log_interval=100, precision=precision))
    # The first steps set up libraries, and the last step's loss is read.
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: torch.cuda.set_sync_debug_mode("error")
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=5), lambda: torch.cuda.set_sync_debug_mode("default")
    )
    run()
    assert trainer.state.iteration == 6
