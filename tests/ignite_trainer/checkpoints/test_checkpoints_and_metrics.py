"""Metrics of a protocol are computed on their splits and select the checkpoints to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy, toy
from toy_research.records import last_state
from toy_research.watching import Notebook

from ignite_trainer.api.reporter import Best
from ignite_trainer.checkpoints.checkpoints import Checkpoints
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.model_preparation import convert_to_channels_last
from ignite_trainer.support.errors import ProtocolError


def line(label: str, kind: str = "toy_research.learning.Counted", **keys: Any) -> dict[str, Any]:
    return {"line_label": label, "class": kind, **keys}


def windows(*lines: dict[str, Any]) -> dict[str, Any]:
    return {"Metrics": {"Performance": {"window_name": "Title", "y_label": "Value", "lines": list(lines)}}}


SURPRISE = line("Surprise", "toy_research.learning.Surprise", is_checkpoint=True, best="min")


# Metrics


def test_a_metric_is_computed_on_the_splits_of_its_line(tmp_path: Path) -> None:
    lines = [line("both"), line("train", test=False), line("test", train=False)]
    run_toy(tmp_path, Setup__epochs=1, **windows(*lines))
    first, train, test = Notebook.last.of("evaluation")
    assert first.metrics == test.metrics == {"both": 10.0, "test": 10.0}
    assert train.metrics == {"both": 20.0, "train": 20.0}


def test_a_metric_by_iteration_covers_the_steps_of_the_epoch_so_far(tmp_path: Path) -> None:
    run_toy(tmp_path, **windows(line("seen", update_rate="iteration"), line("all")))
    assert [step.metrics["seen"] for step in Notebook.last.of("iteration")] == [8.0, 16.0, 8.0, 16.0]
    assert all(found.metrics.keys() == {"all"} for found in Notebook.last.of("evaluation"))


def test_a_metric_by_iteration_uses_the_scores_of_the_steps(tmp_path: Path) -> None:
    kind = "toy_research.learning.Surprise"
    run_toy(tmp_path, Setup__epochs=1, **windows(line("surprise", kind, update_rate="iteration")))
    first = Notebook.last.of("iteration")[0]
    assert first.metrics["surprise"] == pytest.approx(first.loss, rel=1e-5)  # cross-entropy is the loss


def test_windows_and_lines_have_the_published_labels(tmp_path: Path) -> None:
    lines = [line("Val. Acc."), line("Seen", update_rate="iteration"), line("Held", train=False)]
    run_toy(tmp_path, Setup__epochs=0, **windows(*lines))
    (start,) = Notebook.last.of("start")
    (window,) = start.windows
    assert (window.name, window.x_label, window.y_label) == ("Title", "#Epochs", "Value")
    assert (window.width, window.height) == (1890, 416)
    assert [(drawn.key, drawn.label, drawn.split, drawn.by_iteration) for drawn in window.lines] == [
        ("Val. Acc.", "Val. Acc. Train.", "train", False),
        ("Val. Acc.", "Val. Acc. Eval.", "test", False),
        ("Seen", "Seen Train.", "train", True),
        ("Held", "Held Eval.", "test", False),
    ]


def test_metrics_take_their_arguments_from_the_protocol(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=0, **windows(line("few", args={"floor": 11}), line("many")))
    assert result.end.last["many"] == 10.0
    assert result.end.last["few"] != result.end.last["few"]  # not a number


def test_a_metric_with_several_values_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path, **windows(line("each", "toy_research.learning.PerClass")))
    assert str(caught.value) == (
        'Metrics.Performance.lines[0]: The metric "each" returns a Tensor of shape [3], but a line needs a '
        "single number; add arguments that make it return one, such as an average; the task scores 3 classes."
    )
    assert not Notebook.last.of("iteration")


def test_a_metric_of_ignite_does_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    kind = "toy_research.learning.Surprise"
    lines = windows(line("s", kind), line("n"))
    whole, *parts = (
        run_toy(tmp_path, Setup__epochs=0, Setup__batch_test=size, **lines).end.last for size in (10, 3, 1)
    )
    assert whole["n"] == 10.0
    assert all(part == pytest.approx(whole, rel=1e-5) for part in parts)


# Checkpoints without a run


def checkpoints(folder: Path, model: nn.Module, *lines: dict[str, Any], **state: Any) -> Checkpoints:
    return Checkpoints(folder, validate(toy(folder, **windows(*lines))), model=model, state=state)


def files(folder: Path) -> set[str]:
    """Return the names of the checkpoints; each must have a checksum, and there must be no other file."""
    names = {path.name for path in folder.iterdir()}
    found = {name for name in names if name.endswith(".pt")}
    assert names == found | {f"{name}.sha256" for name in found}
    return found


def save(kept: Checkpoints, label: str, *values: float) -> None:
    for epoch, value in enumerate(values, start=1):
        kept.save({label: value}, position=after(epoch))
    kept.finish()


def after(epoch: int) -> Position:
    return Position(epoch=epoch, iteration=10 * epoch, complete=True)


ACCURACY = line("Val. Acc.", is_checkpoint=True)


@pytest.mark.parametrize(
    ("metric", "values", "kept"),
    [
        (ACCURACY, (0.1, 0.5, 0.3, 0.2, 0.4), {2: "0.5000", 5: "0.4000", 3: "0.3000"}),
        (SURPRISE, (1.5, 0.5, 2.0, 1.0, 3.0), {2: "0.5000", 4: "1.0000", 1: "1.5000"}),
        (ACCURACY, (0.5, 1.0, 1.0, 1.0, 1.0), {2: "1.0000", 3: "1.0000", 4: "1.0000"}),
        (ACCURACY, (float("nan"), 0.0, float("nan"), 0.1), {4: "0.1000", 2: "0.0000", 1: "nan"}),
        (SURPRISE, (float("nan"), 3.0), {2: "3.0000", 1: "nan"}),
    ],
)
def test_the_last_and_the_three_best_are_kept_and_ties_go_to_earlier_epochs(
    tmp_path: Path, metric: dict[str, Any], values: tuple[float, ...], kept: dict[int, str]
) -> None:
    label, name = metric["line_label"], {"Val. Acc.": "val-acc"}.get(metric["line_label"], "surprise")
    checkpoint = checkpoints(tmp_path, nn.Linear(1, 1), metric)
    save(checkpoint, label, *values)
    best = [f"best_{name}_epoch-{epoch}_{value}.pt" for epoch, value in kept.items()]
    assert files(tmp_path) == {*best, f"last_epoch-{len(values)}.pt"}
    epoch = next(iter(kept))
    (found,) = checkpoint.best
    assert found == Best(label=label, value=values[epoch - 1], epoch=epoch, checkpoint=tmp_path / best[0])
    assert checkpoint.last == tmp_path / f"last_epoch-{len(values)}.pt"


def test_each_metric_marked_is_checkpoint_has_its_own_best(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), ACCURACY, SURPRISE, line("plain"))
    kept.save({"Val. Acc.": 0.5, "Surprise": 1.0, "plain": 0.0}, position=after(1))
    kept.save({"Val. Acc.": 0.6, "Surprise": 2.0, "plain": 9.0}, position=after(2))
    assert [(best.label, best.epoch) for best in kept.best] == [("Val. Acc.", 2), ("Surprise", 1)]


def test_a_checkpoint_deleted_by_hand_does_not_stop_the_run(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), ACCURACY)
    save(kept, "Val. Acc.", 0.1, 0.2, 0.3)
    for path in tmp_path.iterdir():
        path.unlink()
    kept.save({"Val. Acc.": 0.4}, position=after(4))
    kept.finish()
    assert files(tmp_path) == {"best_val-acc_epoch-4_0.4000.pt", "last_epoch-4.pt"}


def test_weights_of_any_layout_are_saved_contiguous(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(2, 2, 2), nn.BatchNorm2d(4))
    convert_to_channels_last(model)
    weight = model.get_parameter("0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    kept = checkpoints(tmp_path, model, ACCURACY)
    kept.save({"Val. Acc.": 0.5}, position=after(1))
    kept.finish()
    for name in ("best_val-acc_epoch-1_0.5000.pt", "last_epoch-1.pt"):
        saved = torch.load(tmp_path / name, weights_only=True)
        saved = saved.get("model", saved)
        assert all(tensor.is_contiguous() for tensor in saved.values())
        assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


# Checkpoints of a run

STATE = {"position", "best", "random", "model", "optimizer", "running", "elapsed", "faults", "data"}
STATE |= {"unreadable_train", "unreadable_test", "built_from"}


def test_best_files_hold_weights_and_the_last_file_the_state(tmp_path: Path) -> None:
    scheduler = {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.5}}
    result = run_toy(tmp_path, Setup__epochs=2, Scheduler=scheduler, **windows(SURPRISE))
    (best,) = result.end.best
    assert best.checkpoint is not None
    TwoTowers().load_state_dict(torch.load(best.checkpoint, weights_only=True))
    last = last_state(result)
    assert last.keys() == {*STATE, "scheduler"}
    assert last["built_from"]["class"] == "toy_research.network.TwoTowers"
    assert last["scheduler"]["last_epoch"] == 2
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.025)
    assert len(last["optimizer"]["state"]) == 9  # momentum of every parameter


def test_the_scale_of_the_loss_is_in_the_state(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__precision="fp16", Setup__batch_train=2)
    last = last_state(result)
    assert last.keys() == {*STATE, "scaler"}
    assert last["scaler"]["scale"] > 0
    assert last["scaler"]["_growth_tracker"] <= 20


def test_the_best_epoch_is_chosen_on_the_held_out_split(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=4, **windows(SURPRISE))
    held_out = {
        found.epoch: found.metrics["Surprise"]
        for found in Notebook.last.of("evaluation")
        if found.split == "test" and found.epoch
    }
    (best,) = result.end.best
    assert best.value == min(held_out.values()) == held_out[best.epoch]
    assert result.end.last == {"Surprise": held_out[4]}
