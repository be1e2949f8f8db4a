"""Metrics of a protocol on their splits, and the checkpoints that are kept by them."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy, toy
from toy_research.watching import Notebook

from ignite_trainer.checkpoints.checkpoints import Checkpoints, Position
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.model_preparation import put_channels_last
from ignite_trainer.support.errors import ProtocolError, RunFailed


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


def test_a_metric_by_iteration_is_of_the_training_steps_of_the_epoch_so_far(tmp_path: Path) -> None:
    run_toy(tmp_path, **windows(line("seen", update_rate="iteration"), line("all")))
    assert [step.metrics for step in Notebook.last.of("iteration")] == [
        {"seen": 8.0},
        {"seen": 16.0},
        {"seen": 8.0},
        {"seen": 16.0},
    ]
    assert all(found.metrics.keys() == {"all"} for found in Notebook.last.of("evaluation"))


def test_a_metric_by_iteration_is_computed_from_the_steps_own_scores(tmp_path: Path) -> None:
    kind = "toy_research.learning.Surprise"
    run_toy(tmp_path, Setup__epochs=1, **windows(line("surprise", kind, update_rate="iteration")))
    first = Notebook.last.of("iteration")[0]
    assert first.metrics["surprise"] == pytest.approx(first.loss, rel=1e-5)  # cross-entropy is the loss


def test_windows_and_lines_are_drawn_with_the_published_labels(tmp_path: Path) -> None:
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


def test_a_metric_that_gives_more_than_one_number_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path, **windows(line("each", "toy_research.learning.PerClass")))
    assert str(caught.value) == (
        'Metrics.Performance.lines[0]: The metric "each" gives a Tensor of shape [3], but a line is drawn '
        "from one number; give its class arguments that make it one, such as an average; the task "
        "scores 3 classes."
    )
    assert not Notebook.last.of("iteration")


def test_a_metric_of_ignite_is_the_mean_over_the_split_whatever_the_batches(tmp_path: Path) -> None:
    kind = "toy_research.learning.Surprise"
    values = [
        run_toy(
            tmp_path, Setup__epochs=1, Setup__batch_test=size, **windows(line("s", kind), line("n"))
        ).end.last
        for size in (1, 3, 10)
    ]
    assert (
        values[0]["s"] == pytest.approx(values[1]["s"], rel=1e-5) == pytest.approx(values[2]["s"], rel=1e-5)
    )
    assert {value["n"] for value in values} == {10.0}


# Checkpoints, by themselves


def checkpoints(folder: Path, model: nn.Module, *lines: dict[str, Any], **state: Any) -> Checkpoints:
    return Checkpoints(folder, validate(toy(folder, **windows(*lines))), model=model, state=state)


def files(folder: Path) -> set[str]:
    """The checkpoints there, each of which has its checksum beside it; weights are stored once."""
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


def test_the_three_best_and_the_last_are_kept(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), ACCURACY)
    save(kept, "Val. Acc.", 0.1, 0.5, 0.3, 0.2, 0.4)
    assert files(tmp_path) == {
        "best_val-acc_epoch-2_0.5000.pt",
        "best_val-acc_epoch-3_0.3000.pt",
        "best_val-acc_epoch-5_0.4000.pt",
        "last_epoch-5.pt",
    }
    (best,) = kept.best
    assert (best.label, best.value, best.epoch) == ("Val. Acc.", 0.5, 2)
    assert best.checkpoint == tmp_path / "best_val-acc_epoch-2_0.5000.pt"
    assert kept.last == tmp_path / "last_epoch-5.pt"


def test_the_least_can_be_the_best_and_files_name_the_value_itself(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), SURPRISE)
    save(kept, "Surprise", 1.5, 0.5, 2.0, 1.0, 3.0)
    assert files(tmp_path) == {
        "best_surprise_epoch-1_1.5000.pt",
        "best_surprise_epoch-2_0.5000.pt",
        "best_surprise_epoch-4_1.0000.pt",
        "last_epoch-5.pt",
    }
    assert [(best.value, best.epoch) for best in kept.best] == [(0.5, 2)]


def test_of_equal_values_the_earlier_counts(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), ACCURACY)
    save(kept, "Val. Acc.", 0.5, 1.0, 1.0, 1.0, 1.0)
    assert {name[:20] for name in files(tmp_path)} == {"last_epoch-5.pt"} | {
        f"best_val-acc_epoch-{epoch}" for epoch in (2, 3, 4)
    }
    assert kept.best[0].epoch == 2
    assert kept.best[0].checkpoint in set(tmp_path.iterdir())


def test_a_value_that_is_no_number_is_never_the_best_for_long(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1), ACCURACY)
    save(kept, "Val. Acc.", float("nan"), 0.0, float("nan"), 0.1)
    assert (kept.best[0].epoch, kept.best[0].value) == (4, 0.1)
    kept = checkpoints(tmp_path / "least", nn.Linear(1, 1), SURPRISE)
    save(kept, "Surprise", float("nan"), 3.0)
    assert kept.best[0].epoch == 2


def test_every_metric_that_asks_for_it_has_its_own_best(tmp_path: Path) -> None:
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


def test_a_checkpoint_that_cannot_be_written_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = checkpoints(tmp_path, nn.Linear(1, 1))
    kept.save({}, position=after(1))
    kept.wait()

    def full(_: Any, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    kept.save({}, position=after(2))
    with pytest.raises(RunFailed, match=r"last_epoch-2\.pt cannot be written \(no space left"):
        kept.wait()
    torch.load(tmp_path / "last_epoch-1.pt", weights_only=True)
    assert files(tmp_path) == {"last_epoch-1.pt"}


def test_weights_are_saved_in_their_usual_layout_whatever_that_of_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(2, 2, 2), nn.BatchNorm2d(4))
    put_channels_last(model)
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


def test_best_files_are_weights_and_the_last_one_is_the_whole_state(tmp_path: Path) -> None:
    scheduler = {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.5}}
    result = run_toy(tmp_path, Setup__epochs=2, Scheduler=scheduler, **windows(SURPRISE))
    (best,) = result.end.best
    assert best.checkpoint is not None
    TwoTowers().load_state_dict(torch.load(best.checkpoint, weights_only=True))
    assert result.end.last_checkpoint is not None
    last = torch.load(result.end.last_checkpoint, weights_only=True)
    assert last.keys() == {*STATE, "scheduler"}
    assert last["built_from"]["class"] == "toy_research.network.TwoTowers"
    assert last["scheduler"]["last_epoch"] == 2
    assert last["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.025)
    assert len(last["optimizer"]["state"]) == 9  # momentum of every parameter


def test_the_scale_of_the_loss_goes_with_the_last_checkpoint(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__precision="fp16", Setup__batch_train=2)
    assert result.end.last_checkpoint is not None
    last = torch.load(result.end.last_checkpoint, weights_only=True)
    assert last.keys() == {*STATE, "scaler"}
    assert last["scaler"]["scale"] > 0
    assert last["scaler"]["_growth_tracker"] <= 20


def test_the_best_is_that_of_the_held_out_split(tmp_path: Path) -> None:
    result = run_toy(tmp_path, Setup__epochs=4, **windows(SURPRISE))
    held_out = {
        found.epoch: found.metrics["Surprise"]
        for found in Notebook.last.of("evaluation")
        if found.split == "test" and found.epoch
    }
    (best,) = result.end.best
    assert best.value == min(held_out.values()) == held_out[best.epoch]
    assert result.end.last == {"Surprise": held_out[4]}
