"""The optimizer equals the plain one, and steps whose float16 gradients overflow are skipped."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer, Rprop
from toy_research.network import TwoTowers
from toy_research.protocols import TRUSTED, toy

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.model_preparation import convert_to_channels_last
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.training.optimization import build_optimization, build_optimizer
from ignite_trainer.training.optimizer_steps import OptimizerSteps, loss_scaler
from ignite_trainer.training.parameters import apply_rules

CPU = torch.device("cpu")
NESTEROV = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(32, 3))
    convert_to_channels_last(model)
    return model


def build(kind: type[Optimizer] = SGD, *groups: dict[str, Any], **args: Any) -> Optimizer:
    return build_optimizer(kind, {"lr": 0.1, **args}, groups or [{"params": [nn.Parameter(torch.ones(2))]}])


# The optimizer


@pytest.mark.parametrize(("kind", "args"), [(SGD, NESTEROV), (Adam, {"lr": 0.1}), (AdamW, {"lr": 0.1})])
def test_a_fused_kernel_is_chosen_and_equals_the_plain_one(kind: Any, args: dict[str, Any]) -> None:
    fast, plain = network(), network()
    optimizers = [
        build_optimizer(kind, args, [{"params": list(fast.parameters())}]),
        kind([{"params": list(plain.parameters())}], **args, foreach=False),
    ]
    assert all(group["fused"] for group in optimizers[0].param_groups)
    for step in range(5):
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in zip((fast, plain), optimizers, strict=True):
            model(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "args"),
    [(SGD, NESTEROV), (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}), (SGD, {}), (AdamW, {"lr": 0.1})],
)
def test_weights_without_a_first_gradient_move_as_with_the_plain_optimizer(
    kind: Any, args: dict[str, Any]
) -> None:
    """With several modalities, a batch may lack the data for a part of the model."""
    begin = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    fast, plain = ([nn.Parameter(row.clone()) for row in begin] for _ in range(2))
    optimizers = [
        build_optimizer(kind, {"lr": 0.1, **args}, [{"params": fast}]),
        kind([{"params": plain}], **{"lr": 0.1, **args}, foreach=False),
    ]
    assert bool(optimizers[0].param_groups[0]["fused"]) != ("dampening" in args)
    for step, given in enumerate([(0,), (0, 1), (1,), (), (0, 1)]):
        for weights, optimizer in zip((fast, plain), optimizers, strict=True):
            optimizer.zero_grad()
            for index in given:
                weights[index].grad = torch.sin(begin[index] + step)
            optimizer.step()
    torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("named", [{"fused": False}, {"foreach": True}, {"foreach": False}])
def test_a_protocol_can_choose_the_implementation(named: dict[str, bool]) -> None:
    group = {"params": [nn.Parameter(torch.ones(2))]}
    for optimizer in (build(SGD, **named), build(SGD, {**group, **named})):
        [found] = optimizer.param_groups
        assert not found["fused"]
        assert all(found[key] == value for key, value in named.items())


def test_an_optimizer_without_a_fused_kernel_is_built_plain() -> None:
    assert "fused" not in inspect.signature(Rprop).parameters
    assert isinstance(build(Rprop), Rprop)
    [group] = build(SGD, differentiable=True).param_groups
    assert not group["fused"]


def test_wrong_arguments_are_reported_with_their_path() -> None:
    with pytest.raises(ProtocolError, match=r"^Optimizer: Invalid learning rate: -1$"):
        build(SGD, lr=-1)


def test_fp16_uses_no_fused_kernel() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(2))]}]
    assert not build_optimizer(SGD, {"lr": 0.1}, groups, precision="fp16").param_groups[0]["fused"]
    with pytest.raises(ProtocolError) as caught:
        build_optimizer(SGD, {"lr": 0.1, "fused": True}, groups, precision="fp16")
    assert str(caught.value) == (
        'Optimizer.args.fused is true, but Setup.precision "fp16" needs an optimizer that reports '
        'skipped steps, which a fused one does not. Remove Optimizer.args.fused, or choose "bf16".'
    )


def test_all_learning_rates_are_multiplied_by_the_rate(tmp_path: Path) -> None:
    arguments = {"class": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.5}}
    rules = [{"match": "left.*", "args": {"lr": 0.2}}, {"match": ".*"}]
    blueprint = draw(validate(toy(tmp_path, Optimizer=arguments, Parameters=rules)), trusted=TRUSTED)
    plan = apply_rules(TwoTowers(), blueprint.protocol.parameters)
    optimizer, _ = build_optimization(blueprint, plan, rate=4.0, batches=None)
    assert optimizer is not None
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.8, 0.5), (0.4, 0.5)]
    assert plan.groups[0]["lr"] == 0.2


# Its steps


class Watched(nn.Linear):
    """A layer that records its complete gradients."""

    def __init__(self) -> None:
        super().__init__(3, 2, bias=False)
        self.seen: list[Tensor] = []

    def before_optimizer_step(self) -> None:
        assert self.weight.grad is not None
        self.seen.append(self.weight.grad.clone())


def scaled() -> tuple[Watched, OptimizerSteps, GradScaler]:
    torch.manual_seed(0)
    model, scaler = Watched(), loss_scaler("fp16", CPU)
    optimizer = build_optimizer(SGD, {"lr": 0.5}, [{"params": list(model.parameters())}], precision="fp16")
    return model, OptimizerSteps(model, optimizer, scaler), scaler


def test_modules_and_optimizer_see_complete_unscaled_gradients() -> None:
    model, steps, _ = scaled()
    before, inputs = model.weight.detach().clone(), [torch.randn(4, 3), torch.randn(4, 3)]
    for one in inputs:
        steps.backward(model(one).square().mean())
    assert model.weight.grad is not None
    assert model.weight.grad.norm() > 1000 * model.weight.norm()  # scaled like the loss, by 65536
    steps.take()
    reference = before.clone().requires_grad_()
    total = sum((one @ reference.T).square().mean() for one in inputs)
    [expected] = torch.autograd.grad(total, [reference])  # type: ignore[arg-type]
    [seen] = model.seen
    torch.testing.assert_close(seen, expected)
    torch.testing.assert_close(model.weight.detach(), before - 0.5 * expected)
    assert model.weight.grad is None


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_halved() -> None:
    model, steps, scaler = scaled()
    before, scale = model.weight.detach().clone(), scaler.get_scale()
    steps.backward(model(torch.full((1, 3), torch.inf)).sum())
    steps.take()
    assert torch.equal(model.weight, before)
    assert (model.seen, scaler.get_scale()) == ([], scale / 2)
    steps.backward(model(torch.ones(1, 3)).sum())
    steps.take()
    assert not torch.equal(model.weight, before)
    assert len(model.seen) == 1


def test_a_run_whose_gradients_always_overflow_ends() -> None:
    model, steps, _ = scaled()
    with pytest.raises(RunFailed) as caught:
        for _ in range(50):
            steps.backward(model(torch.full((1, 3), torch.inf)).sum())
            steps.take()
    assert model.seen == []
    assert str(caught.value) == (
        "Gradients were not finite in 41 consecutive steps, at any scale of the loss. "
        'Set Setup.precision to "bf16" or "fp32" in a new run.'
    )
