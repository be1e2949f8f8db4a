"""Rules over parameter names choose trained parameters, groups and modes; frozen parameters do not move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.parameters import ParameterPlan, apply_rules
from model.weights.loading import read_state_dict

FREEZE_RIGHT: list[dict[str, Any]] = [{"match": "left\\..*|scale"}, {"match": ".*", "train": False}]


def plan_of(model: nn.Module, *rules: dict[str, Any]) -> ParameterPlan:
    return apply_rules(model, [ParameterRule(**rule) for rule in rules])


def problems(*rules: dict[str, Any]) -> list[str]:
    with pytest.raises(ProtocolError) as caught:
        plan_of(TwoTowers(), *rules)
    return caught.value.problems


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    return {name for name, one in model.named_parameters() if any(one is other for other in group["params"])}


def test_the_first_rule_that_matches_the_whole_name_applies_to_a_parameter() -> None:
    model = TwoTowers()
    plan = plan_of(
        model,
        {"match": "left\\.linear\\.bias|scale", "args": {"weight_decay": 0.0}},
        {"match": "left\\..*", "args": {"lr": 0.5}},
        {"match": "left\\.norm|.*\\.norm\\..*", "train": False},
        {"match": ".*"},
    )
    first, second, fourth = plan.groups
    assert names(model, first) == {"left.linear.bias", "scale"}
    assert names(model, second) == {"left.linear.weight", "left.norm.weight", "left.norm.bias"}
    assert names(model, fourth) == {"right.linear.weight", "right.linear.bias"}
    assert (first["weight_decay"], second["lr"]) == (0.0, 0.5)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"right.norm.weight", "right.norm.bias"}


def test_a_rule_that_trains_unfreezes_parameters() -> None:
    model = TwoTowers().requires_grad_(False)
    plan_of(model, {"match": ".*"})
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_rule_must_match_the_whole_name() -> None:
    assert problems({"match": "left"}, {"match": ".*"}) == [
        'Parameters[0].match is "left"; it matches no parameter of the model. Names begin with left, '
        "right, scale."
    ]


def test_a_rule_that_earlier_rules_leave_no_parameters_is_reported_differently() -> None:
    assert problems({"match": ".*"}, {"match": "left\\..*"}) == [
        'Parameters[1].match is "left\\..*"; earlier rules already match all of its parameters. Names '
        "begin with left, right, scale."
    ]


def test_parameters_that_no_rule_matches_are_named() -> None:
    assert problems({"match": "left\\..*"}) == [
        "Parameters: no rule matches scale, right.linear.weight, right.linear.bias and 2 more; for example, "
        'add {"match": ".*", "train": false} at the end.'
    ]


def test_a_plan_that_trains_nothing_is_refused() -> None:
    assert problems({"match": ".*", "train": False}) == [
        'Parameters: no rule trains anything; set "train": true in at least one rule.'
    ]


def test_all_problems_are_reported_together() -> None:
    assert len(problems({"match": "left", "train": False}, {"match": "none", "train": False})) == 4
    assert len(problems()) == 2


def test_the_summary_counts_numbers_and_tensors() -> None:
    plan = plan_of(
        TwoTowers(), {"match": "left\\..*|scale", "args": {"lr": 0.1}}, {"match": ".*", "train": False}
    )
    # left: 16*8 + 8 and 2*8 of the norm; scale: 1; right: 3*8 + 8 and 16.
    assert plan.summary == {
        "left\\..*|scale": "153 in 5 tensors, trained (lr 0.1)",
        ".*": "48 in 4 tensors, frozen, eval mode",
    }


# Modes


def modes(model: nn.Module, *rules: dict[str, Any]) -> dict[str, bool]:
    plan = plan_of(model, *rules)
    model.eval()
    plan.train_mode(model)
    return {name: module.training for name, module in model.named_modules()}


def test_frozen_modules_stay_in_eval_mode_with_their_children() -> None:
    found = modes(TwoTowers(), *FREEZE_RIGHT)
    assert {name for name, training in found.items() if not training} == {
        "right",
        "right.linear",
        "right.norm",
        "right.nonlinearity",
        "right.dropout",
    }


def test_a_module_with_one_trained_parameter_stays_in_train_mode() -> None:
    found = modes(
        TwoTowers(), {"match": "right\\.norm\\.bias|scale|left\\..*"}, {"match": ".*", "train": False}
    )
    assert {name for name, training in found.items() if not training} == {"right.linear"}


def test_the_mode_of_a_rule_overrides_the_default() -> None:
    right = "right\\..*"
    assert modes(TwoTowers(), {"match": right, "train": False, "mode": "train"}, {"match": ".*"})[
        "right.norm"
    ]
    found = modes(TwoTowers(), {"match": right, "mode": "eval"}, {"match": ".*"})
    assert not found["right.norm"]
    assert found["left.norm"]


def test_an_entire_model_can_be_trained_in_eval_mode() -> None:
    assert not any(modes(TwoTowers(), {"match": ".*", "mode": "eval"}).values())


# Runs


def trained_and_before(tmp_path: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts after a run of three epochs and before it; the seed decides the model."""
    result = run_toy(tmp_path, Setup__epochs=3, **changes)
    assert result.end.last_checkpoint is not None
    after = read_state_dict(result.end.last_checkpoint)
    torch.manual_seed(7)
    return after, TwoTowers().state_dict()


def test_only_trained_parameters_and_statistics_move(tmp_path: Path) -> None:
    optimizer = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5}
    after, before = trained_and_before(tmp_path, Parameters=FREEZE_RIGHT, Optimizer__args=optimizer)
    # Batch norm subtracts the bias before it again, so its gradient is 0 up to rounding.
    constants = {"calls", "classes", "left.linear.bias"}
    moved = {name for name in before if not torch.equal(after[name], before[name])} - {"left.linear.bias"}
    assert moved == {name for name in before if not name.startswith("right.")} - constants
    assert "left.norm.running_mean" in moved
    assert after["right.norm.num_batches_tracked"] == 0


def test_statistics_of_a_frozen_tower_in_train_mode_move(tmp_path: Path) -> None:
    rules = [{"match": "right\\..*", "train": False, "mode": "train"}, {"match": ".*"}]
    after, before = trained_and_before(tmp_path, Parameters=rules)
    assert not torch.equal(after["right.norm.running_mean"], before["right.norm.running_mean"])
    assert torch.equal(after["right.norm.weight"], before["right.norm.weight"])


def test_a_run_without_epochs_may_train_nothing(tmp_path: Path) -> None:
    frozen = [{"match": ".*", "train": False}]
    assert run_toy(tmp_path, Parameters=frozen, Setup__epochs=0).record.epochs == 0
    with pytest.raises(ProtocolError, match="no rule trains anything"):
        run_toy(tmp_path, Parameters=frozen, Setup__epochs=1)
