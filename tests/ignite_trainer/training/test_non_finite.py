"""Non-finite losses and gradients: their samples are named; their steps are skipped or never saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy
from toy_research.records import events, only_run
from toy_research.watching import Notebook

from ignite_trainer.api.reporter import Reporter
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import Faults
from ignite_trainer.runs.faults import FaultPolicy
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.training.engines import running_loss
from ignite_trainer.training.optimizer_steps import (
    NonFinite,
    OptimizerSteps,
    StepWatch,
    loss_scaler,
    non_finite_weights,
)
from tests.ignite_trainer.training.stepping import CPU, tones, towers, train

FAULTY = "toy_research.failing.FaultyTones"


def batches(*scales: float) -> list[Batch]:
    return [tones(4, seed=seed, scale=scale) for seed, scale in enumerate(scales)]


def states(data: list[Batch], watch: StepWatch, **changes: Any) -> tuple[dict[str, Any], Engine]:
    """Train on the batches; return all states, and the trainer."""
    model, adam = towers(norm=True), torch.optim.Adam
    trained = train(model, data, optimizer=adam, args={"lr": 0.01}, watch=watch, log_interval=1, **changes)
    moments = {
        f"{number} {name}": value
        for number, moved in trained.optimizer.state_dict()["state"].items()
        for name, value in moved.items()
    }
    return {**model.state_dict(), **moments, **trained.scaler.state_dict()}, trained.trainer


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        assert same, name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_skipped_step_changes_no_state(precision: str) -> None:
    bad, good = batches(1, torch.nan, 1, 1), batches(1, 1, 1, 1)
    skipped: list[NonFinite] = []
    with_it, trainer = states(bad, StepWatch(skipped.append), precision=precision)
    without, plain = states([good[0], *good[2:]], StepWatch(), precision=precision)
    assert_equal(with_it, without)
    assert [(found.iteration, found.indices) for found in skipped] == [(2, [0, 1, 2, 3])]
    assert running_loss(trainer) == running_loss(plain)


def test_all_batches_of_a_non_finite_step_are_skipped() -> None:
    good = batches(1, 1, 1, 1)
    skipped: list[NonFinite] = []
    with_it, _ = states([*batches(1, torch.inf), *good[2:]], StepWatch(skipped.append), accumulate=2)
    without, _ = states(good[2:], StepWatch(), accumulate=2)
    assert_equal(with_it, without)
    assert [found.iteration for found in skipped] == [2]


def test_the_first_finding_is_reported_later_if_no_step_is_skipped() -> None:
    watch = StepWatch()
    states(batches(1, 1, torch.nan, torch.nan), watch)
    found = watch.first()
    assert found == NonFinite("The loss is nan", 1, 3, [0, 1, 2, 3])
    assert watch.first() is None, "the finding is returned only once"


@pytest.mark.parametrize(
    ("gradient", "accepted"), [(-1e30, True), (torch.inf, False), (-torch.inf, False), (torch.nan, False)]
)
def test_gradients_are_accepted_only_if_all_are_finite(gradient: float, accepted: bool) -> None:
    dtypes = ((100, torch.float32), (3, torch.float64), (0, torch.float32))
    weights = [torch.nn.Parameter(torch.ones(count, dtype=dtype)) for count, dtype in dtypes]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    weights[0].grad[70] = gradient  # type: ignore[index]
    steps = OptimizerSteps(torch.nn.Identity(), torch.optim.SGD(weights, lr=0.1), loss_scaler("fp32", CPU))
    watch = StepWatch()
    largest = steps.largest_gradient()
    assert largest is not None
    assert largest.item() == pytest.approx(abs(gradient), nan_ok=True)
    watch.gradients(largest, epoch=1, iteration=1)
    assert (watch.first() is None) == accepted


def test_non_finite_weights_are_named() -> None:
    model = TwoTowers()
    assert non_finite_weights(model) == []
    weight = model.get_parameter("left.linear.weight")
    with torch.no_grad():
        weight[0, 0] = torch.inf
    assert non_finite_weights(model) == ["left.linear.weight"]
    weight.requires_grad_(False)
    assert non_finite_weights(model) == []


@pytest.mark.parametrize("log_interval", [1, 100])
def test_a_run_ends_with_the_names_of_the_samples_and_keeps_its_finite_checkpoint(
    tmp_path: Path, log_interval: int
) -> None:
    task = {"class": "toy_research.failing.Steep", "args": {"at": [4]}}
    with pytest.raises(RunFailed) as caught:
        run_toy(tmp_path, Setup__log_interval=log_interval, Setup__epochs=3, Task=task)
    (stopped,) = Notebook.last.of("fault")
    assert (stopped.epoch, stopped.iteration, len(stopped.samples)) == (2, 4, 8)
    assert str(caught.value).startswith(
        "The gradients are not finite at epoch 2, iteration 4, in a step with sample "
    )
    assert all(name in str(caught.value) for name in stopped.samples)
    folder = only_run(tmp_path)
    (last,) = folder.glob("checkpoints/last*.pt")
    assert last.name == "last_epoch-1.pt"
    weights = torch.load(last, weights_only=True)["model"]
    assert all(value.isfinite().all() for value in weights.values())
    assert events(folder)[-1]["samples"] == list(stopped.samples)


def test_weights_made_non_finite_by_the_last_step_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"^The last step made .* non-finite at epoch 1, iteration 1\."):
        run_toy(tmp_path, Setup__batch_train=16, Optimizer__args={"lr": 3e38, "momentum": 0.9})
    assert [path.name[:22] for path in tmp_path.rglob("*.pt")] == ["best_val-acc_epoch-0_0"]


def test_skipped_steps_are_counted_in_the_result(tmp_path: Path) -> None:
    args = {"fold": 1, "nan": [4]}
    result = run_toy(tmp_path, Dataset={"class": FAULTY, "args": args}, Faults={"not_finite": "skip"})
    faults = Notebook.last.of("fault")
    assert [fault.epoch for fault in faults] == [1, 2]
    assert all("tone 4.wav" in fault.samples for fault in faults)
    assert result.record.faults == {"steps skipped": 2}
    assert json.loads((result.folder / "result.json").read_text())["faults"] == {"steps skipped": 2}
    assert all(torch.isfinite(torch.tensor(step.loss)) for step in Notebook.last.of("iteration")[1:])


def test_no_more_steps_are_skipped_than_allowed(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"^The loss is nan at epoch 1, .* Earlier faults: steps skipped \(1\)\."
    ):
        run_toy(
            tmp_path,
            Dataset={"class": FAULTY, "args": {"fold": 1, "nan": list(range(30))}},
            Setup__epochs=1,
            Faults={"not_finite": "skip", "not_finite_at_most": 1},
        )


def test_skipped_steps_in_a_state_of_an_earlier_version_count(tmp_path: Path) -> None:
    policy = FaultPolicy(Faults(not_finite="skip"), [], folder=tmp_path, reporters=Reporter())
    policy.load_state_dict({"steps left out": 3, "other": 1})
    assert policy.state_dict() == {"steps skipped": 3, "other": 1}


@pytest.mark.gpu
def test_the_watch_does_not_wait_for_the_device() -> None:
    watch, loss = StepWatch(), torch.full((), torch.nan, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        watch.start_step()
        assert watch.loss(loss, torch.arange(3), epoch=1, iteration=1)
        assert watch.gradients(loss, epoch=1, iteration=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.first() == NonFinite("The loss is nan", 1, 1, [0, 1, 2])
