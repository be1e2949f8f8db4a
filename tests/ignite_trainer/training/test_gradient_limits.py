"""The gradient of a rule's parameters is scaled down to a maximum norm before the optimizer's step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy
from toy_research.ranks import on_ranks, run_limited_and_averaged
from toy_research.watching import Notebook

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import RunFailed
from ignite_trainer.training.optimization import build_optimizer
from ignite_trainer.training.optimizer_steps import OptimizerSteps, loss_scaler
from ignite_trainer.training.parameters import apply_rules
from tests.ignite_trainer.training.stepping import CPU, tones, towers, train

LEFT = 0.02
RULES: list[dict[str, Any]] = [{"match": "left.*", "max_gradient_norm": LEFT}, {"match": ".*"}]
DATA = [tones(6, seed=1), tones(6, seed=2)]

Tensors = dict[str, Tensor]


def weights(model: nn.Module) -> Tensors:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def side(tensors: Tensors, name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key.startswith(name)}


def norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in tensors.values()))


def steps(model: nn.Module, **options: Any) -> Tensors:
    """Train at a rate of 1; return by how much the weights moved, which is the gradient of a single step."""
    before = weights(model)
    train(model, DATA, args={"lr": 1.0}, **options)
    return {name: before[name] - after for name, after in weights(model).items()}


def gradients(model: TwoTowers) -> Tensors:
    """Return the gradients of the mean loss of both batches."""
    loss = sum(functional.cross_entropy(model(each.sample.signal), each.sample.target) for each in DATA) / 2
    assert isinstance(loss, Tensor)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accumulated_and_unscaled_gradients_are_scaled_to_the_norm_for_each_rule(precision: str) -> None:
    whole = gradients(towers())
    left = norm(side(whole, "left"))
    assert left > 2 * LEFT
    rtol, atol = {"fp32": (1e-5, 1e-7), "fp16": (1e-2, 5e-4)}[precision]
    moved = steps(towers(), rules=RULES, accumulate=2, precision=precision)
    for name, gradient in whole.items():
        expected = gradient * LEFT / left if name.startswith("left") else gradient
        torch.testing.assert_close(moved[name], expected, rtol=rtol, atol=atol)


def test_smaller_gradients_stay_as_they_are() -> None:
    limited = steps(towers(), rules=[{"match": ".*", "max_gradient_norm": 1e3}], accumulate=2)
    plain = steps(towers(), accumulate=2)
    assert all(torch.equal(limited[name], value) for name, value in plain.items())


def test_gradients_are_limited_after_modules_have_changed_them() -> None:
    """A module that divides its gradient by the largest element would otherwise undo the limit."""
    moved = steps(towers(even=True), rules=RULES, accumulate=2)
    assert norm(side(moved, "left")) == pytest.approx(LEFT, rel=1e-3)
    assert norm(side(steps(towers(even=True), accumulate=2), "left")) > 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_equals_that_of_torchs_function(fused: bool) -> None:
    ours, theirs = towers(), towers()
    plan = apply_rules(ours, [ParameterRule(**rule) for rule in RULES])
    optimizer = build_optimizer(SGD, {"lr": 0.5, "momentum": 0.9, "fused": fused}, plan.groups)
    step = OptimizerSteps(ours, optimizer, loss_scaler("fp32", CPU), limits=plan.limits)
    reference = SGD(theirs.parameters(), lr=0.5, momentum=0.9, foreach=False)
    for batch in DATA:
        losses = [
            functional.cross_entropy(model(batch.sample.signal), batch.sample.target)
            for model in (ours, theirs)
        ]
        step.backward(losses[0])
        step.take()
        losses[1].backward()
        clip_grad_norm_(theirs.left.parameters(), LEFT)
        reference.step()
        reference.zero_grad()
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-5, atol=1e-7)


def test_a_non_finite_gradient_is_skipped_or_ends_the_run_despite_a_limit(tmp_path: Path) -> None:
    exploding = {"class": "toy_research.learning.Matching", "args": {"explode_at": 2}}
    changes: dict[str, Any] = {"Task": exploding, "Parameters": RULES}
    run_toy(tmp_path, **changes, Faults={"not_finite": "skip"})
    (fault,) = Notebook.last.of("fault")
    assert fault.iteration == 2
    with pytest.raises(RunFailed, match="The loss is"):
        run_toy(tmp_path, **changes)


def test_the_summary_names_the_limit() -> None:
    plan = apply_rules(towers(), [ParameterRule(**rule) for rule in RULES])
    assert plan.summary["left.*"].endswith("trained (max_gradient_norm 0.02)")
    assert [limit.max_norm for limit in plan.limits] == [LEFT]


@pytest.mark.parametrize("limit", [0, -1.0, "1", math.inf, True])
def test_a_limit_is_a_positive_number(limit: Any) -> None:
    with pytest.raises(ValueError, match="max_gradient_norm"):
        ParameterRule(match=".*", max_gradient_norm=limit)


@pytest.mark.processes
def test_two_processes_limit_gradients_and_average_weights_as_one_does(tmp_path: Path) -> None:
    alone = run_limited_and_averaged(tmp_path / "alone")
    both = on_ranks(2, tmp_path, run_limited_and_averaged, tmp_path / "both")
    assert alone["average"]["steps"] == 3, "of epochs 3 to 5"
    for found in both:
        assert found["metrics"] == alone["metrics"]
        for name, value in alone["model"].items():
            torch.testing.assert_close(found["model"][name], value, rtol=1e-5, atol=1e-6)
        for name, value in alone["average"]["weights"].items():
            torch.testing.assert_close(found["average"]["weights"][name], value, rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, alone["model"][name])
