"""Learning-rate schedules, single or chained, by epoch or by step, are checked against formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_research.protocols import TRUSTED, run_toy, toy
from toy_research.records import differences, only_run
from toy_research.watching import Notebook

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs import resuming
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.schedules import WarmUpCosine

LINEAR, COSINE = "torch.optim.lr_scheduler.LinearLR", "torch.optim.lr_scheduler.CosineAnnealingLR"
SGD = {"class": "torch.optim.SGD", "args": {"lr": 0.4}}
WARM_UP = {"class": LINEAR, "args": {"start_factor": 0.25}, "interval": "step", "lasts": 3}
ANNEAL = {"class": COSINE, "args": {}, "interval": "step", "lasts": "rest"}
# 20 samples in batches of 4: five steps an epoch.
SMALL: dict[str, Any] = {"Setup__batch_train": 4, "Optimizer": SGD}


def rates(root: Path, **changes: Any) -> list[float]:
    """Return the learning rate after each step, which the next step uses."""
    run_toy(root, **{**SMALL, **changes})
    found: list[float] = [step.learning_rates[0] for step in Notebook.last.of("iteration")]
    return found


def warm_up_then_cosine(*, steps: int, warm_up: int, start: float = 0.25) -> list[float]:
    """Compute rates by definition: a linear warm-up to 0.4, then half a cosine down to 0."""
    line = [start + (1 - start) * step / warm_up for step in range(warm_up)]
    wave = [(1 + math.cos(math.pi * step / (steps - warm_up))) / 2 for step in range(steps - warm_up + 1)]
    return [0.4 * factor for factor in (*line, *wave)]


def test_a_warm_up_is_followed_by_a_cosine_to_the_end(tmp_path: Path) -> None:
    found = rates(tmp_path, Setup__epochs=2, Scheduler=[WARM_UP, ANNEAL])
    assert found == pytest.approx(warm_up_then_cosine(steps=10, warm_up=3)[1:])
    assert found[-1] == pytest.approx(0.0, abs=1e-12)


def test_a_schedule_by_epoch_keeps_the_rate_constant_within_an_epoch(tmp_path: Path) -> None:
    by_epoch = [{**each, "interval": "epoch"} for each in ({**WARM_UP, "lasts": 2}, ANNEAL)]
    found = rates(tmp_path, Setup__epochs=4, Scheduler=by_epoch)
    expected = warm_up_then_cosine(steps=4, warm_up=2)[:4]
    assert found == pytest.approx([rate for rate in expected for _ in range(5)])


def test_an_accumulated_step_counts_once(tmp_path: Path) -> None:
    found = rates(tmp_path, Setup__epochs=2, Setup__accumulate=2, Scheduler=[WARM_UP, ANNEAL])
    expected = warm_up_then_cosine(steps=6, warm_up=3)  # three steps per epoch, the last with one batch
    assert found == pytest.approx([expected[step] for step in (0, 1, 1, 2, 3, 3, 4, 4, 5, 6)])


def test_a_single_cosine_lasts_as_long_as_the_training(tmp_path: Path) -> None:
    found = rates(tmp_path, Setup__epochs=2, Scheduler=ANNEAL)
    assert found == pytest.approx(warm_up_then_cosine(steps=10, warm_up=0)[1:])


def test_arguments_take_precedence_over_the_length(tmp_path: Path) -> None:
    halved = {**WARM_UP, "args": {"start_factor": 0.5, "total_iters": 10}, "lasts": 3}
    constant = {"class": "torch.optim.lr_scheduler.ConstantLR", "args": {"factor": 1.0}, "interval": "step"}
    found = rates(tmp_path, Setup__epochs=1, Scheduler=[halved, constant])
    assert found == pytest.approx([0.4 * factor for factor in (0.55, 0.6, 1, 1, 1)])


def test_one_cycle_gets_the_number_of_steps(tmp_path: Path) -> None:
    one_cycle = {"class": "torch.optim.lr_scheduler.OneCycleLR", "args": {"max_lr": 0.4, "pct_start": 0.5}}
    found = rates(tmp_path, Setup__epochs=2, Scheduler={**one_cycle, "interval": "step", "lasts": "rest"})
    used = found[:-1]  # in steps 2 to 10
    assert len(used) == 9
    assert max(used) == pytest.approx(0.4)
    assert used[-1] == min(used) == pytest.approx(0.4 / 25 / 1e4)


@pytest.mark.parametrize(
    ("precision", "taken"),
    [("fp32", (1, 1, 2, 3, 4)), ("fp16", (0, 0, 1, 2, 3))],  # the first fp16 gradients overflow
)
def test_a_skipped_step_does_not_count(tmp_path: Path, precision: str, taken: tuple[int, ...]) -> None:
    exploding = {"class": "toy_research.learning.Matching", "args": {"explode_at": 2}}
    found = rates(
        tmp_path,
        Setup__epochs=1,
        Setup__precision=precision,
        Task=exploding,
        Faults={"not_finite": "skip"},
        Scheduler=[WARM_UP, ANNEAL],
    )
    expected = warm_up_then_cosine(steps=5, warm_up=3)
    assert found == pytest.approx([expected[step] for step in taken])


def test_a_run_resumes_its_schedule_bit_identically(tmp_path: Path) -> None:
    changes = {**SMALL, "Setup__epochs": 3, "Setup__save_every_steps": 1, "Scheduler": [WARM_UP, ANNEAL]}
    whole = run_toy(tmp_path / "whole", **changes)
    exploding = {"class": "toy_research.learning.Interrupted"}
    begun = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_toy(begun, **{**changes, "Task": exploding})
    folder = only_run(begun)
    protocol = folder / "protocol.json"
    protocol.write_text(protocol.read_text().replace("Interrupted", "Matching"))
    gone_on = run_toy(begun, **changes, Setup__resume="auto")
    assert gone_on.folder == folder
    assert differences(whole.folder, folder) == []


def test_epochs_cannot_be_raised_if_the_schedule_depends_on_them(tmp_path: Path) -> None:
    done = run_toy(tmp_path, **SMALL, Scheduler=ANNEAL)
    longer = validate(toy(tmp_path, **SMALL, Scheduler=ANNEAL, Setup__epochs=3))
    message = r'Setup\.epochs is 3, but 2 in that run \(a Scheduler whose lasts is "rest" depends on it\)'
    with pytest.raises(ProtocolError, match=message):
        resuming.require_same(draw(longer, trusted=TRUSTED), done.folder)
    free = {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.5}, "interval": "step"}
    done = run_toy(tmp_path, **SMALL, Scheduler=free)
    free_longer = validate(toy(tmp_path, **SMALL, Scheduler=free, Setup__epochs=3))
    resuming.require_same(draw(free_longer, trusted=TRUSTED), done.folder)


def problems(root: Path, scheduler: Any, **changes: Any) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        draw(validate(toy(root, **SMALL, Scheduler=scheduler, **changes)), trusted=("toy_research",))
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ([{**WARM_UP, "lasts": None}, ANNEAL], "Scheduler[0].lasts is null, but another scheduler follows"),
        (
            [{**WARM_UP, "lasts": "rest"}, ANNEAL],
            'Scheduler[0].lasts is "rest", but another scheduler follows',
        ),
        (
            [WARM_UP, {**ANNEAL, "lasts": 9}],
            "Scheduler[1].lasts is 9, but the last scheduler runs until training ends",
        ),
        ([WARM_UP, {**ANNEAL, "interval": "epoch"}], "Scheduler: all schedulers must have the same"),
        ({**WARM_UP, "lasts": 0}, 'Scheduler.lasts is 0; write a number of intervals, 1 or more, or "rest".'),
        ([{**WARM_UP, "lasts": True}], "Scheduler[0].lasts is true; write a number of intervals"),
        (
            {**WARM_UP, "interval": "batch"},
            "Scheduler.interval is \"batch\"; input should be 'epoch' or 'step'.",
        ),
        (
            [WARM_UP, {**ANNEAL, "last": 3}],
            'Scheduler[1].last is not a key of a protocol; did you mean "lasts"?',
        ),
        ([], "Scheduler is []; list should have at least 1 item"),
        ("cosine", "Scheduler must be a JSON object."),
        ([WARM_UP, {"class": COSINE, "interval": "step"}], "Scheduler[1].args.T_max is required."),
        (
            [{**WARM_UP, "args": {"start": 1}}, ANNEAL],
            "Scheduler[0].args.start is not an argument; allowed: end_factor, last_epoch",
        ),
        (
            [WARM_UP, {**ANNEAL, "class": "torch.optim.SGD"}],
            "Scheduler[1].class is torch.optim.SGD, which extends Optimizer",
        ),
        (
            [WARM_UP, {**ANNEAL, "class": "torch.optim.lr_scheduler.OneCycleLR", "args": {"max_lr": 1}}],
            "Scheduler[1].class is OneCycleLR, which is a whole schedule with rates of its own",
        ),
    ],
)
def test_errors_in_a_schedule_are_reported(tmp_path: Path, scheduler: Any, expected: str) -> None:
    (problem,) = problems(tmp_path, scheduler)
    assert problem.startswith(expected)


def test_schedulers_that_start_after_the_end_of_training_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path, **SMALL, Scheduler=[{**WARM_UP, "lasts": 10}, ANNEAL])
    assert caught.value.problems == [
        "Scheduler[1] would begin after 10 steps, but training has only 10. Shorten the schedulers "
        "before it, or train for more epochs."
    ]


# The ready schedule


WARM_UP_COSINE = "ignite_trainer.training.schedules.WarmUpCosine"


def by_formula(step: int, total: int, *, warm_up: int, final: float = 0.0) -> float:
    """Return the factor of step 0, 1, ...: a line to 1 at the end of the warm-up, then half a cosine."""
    if step < warm_up:
        return (step + 1) / warm_up
    return final + (1 - final) * math.cos(math.pi / 2 * min(1, (step - warm_up) / (total - warm_up))) ** 2


def test_the_ready_schedule_follows_its_formula() -> None:
    weights = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    groups = [{"params": [weight], "lr": rate} for weight, rate in zip(weights, (0.4, 0.1), strict=True)]
    optimizer = torch.optim.SGD(groups)
    schedule = WarmUpCosine(optimizer, 40, warm_up=0.25, final=0.1)
    for step in range(45):
        expected = by_formula(step, 40, warm_up=10, final=0.1)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [0.4 * expected, 0.1 * expected]
        )
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_ready_schedule_lasts_for_all_of_training(tmp_path: Path, interval: str) -> None:
    scheduler = {"class": WARM_UP_COSINE, "interval": interval}
    found = rates(tmp_path, Setup__epochs=4, Scheduler=scheduler)
    assert len(found) == 20
    if interval == "step":
        assert found == pytest.approx([0.4 * by_formula(step, 20, warm_up=2) for step in range(1, 21)])
    else:
        assert found == pytest.approx([0.4 * by_formula(step // 5, 4, warm_up=0) for step in range(20)])


def test_the_ready_schedule_may_have_a_length_or_a_place_in_a_list(tmp_path: Path) -> None:
    ready = {"class": WARM_UP_COSINE, "args": {"warm_up": 0.5, "final": 0.5}, "interval": "step", "lasts": 4}
    args = {"factor": 0.5, "total_iters": 100}
    constant = {"class": "torch.optim.lr_scheduler.ConstantLR", "args": args, "interval": "step"}
    expected = [0.4 * by_formula(step, 4, warm_up=2, final=0.5) for step in range(1, 4)]
    found = rates(tmp_path / "list", Setup__epochs=1, Scheduler=[ready, constant])
    assert found == pytest.approx([*expected, 0.2, 0.2])
    alone = rates(tmp_path / "alone", Setup__epochs=1, Scheduler=ready)
    assert alone == pytest.approx([*expected, 0.2, 0.2])
    (problem,) = problems(tmp_path, [{"class": WARM_UP_COSINE, "interval": "step"}, constant])
    assert problem.startswith("Scheduler[0].lasts is null, but another scheduler follows")


def test_a_run_with_the_ready_schedule_has_a_fixed_number_of_epochs(tmp_path: Path) -> None:
    done = run_toy(tmp_path, **SMALL, Scheduler={"class": WARM_UP_COSINE})
    longer = validate(toy(tmp_path, **SMALL, Scheduler={"class": WARM_UP_COSINE}, Setup__epochs=3))
    with pytest.raises(ProtocolError, match=r"Setup\.epochs is 3, but 2 in that run"):
        resuming.require_same(draw(longer, trusted=TRUSTED), done.folder)


@pytest.mark.parametrize(
    "args", [{"warm_up": 1.5}, {"warm_up": "0.1"}, {"final": -0.1}, {"total_steps": 0}, {"total_steps": 2.5}]
)
def test_arguments_of_the_ready_schedule_are_checked(tmp_path: Path, args: dict[str, Any]) -> None:
    ((name, value),) = args.items()
    with pytest.raises(ProtocolError, match=rf"^Scheduler\.args\.{name} is {value!r}; "):
        run_toy(tmp_path, **SMALL, Scheduler={"class": WARM_UP_COSINE, "args": args})
