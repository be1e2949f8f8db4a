"""Rules may lower the rates of lower layers and exempt biases and norms from weight decay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from toy_research.network import Layered, TwoTowers
from toy_research.protocols import Command, draw_toy, run_toy
from toy_research.records import differences, only_run
from toy_research.watching import Notebook

from ignite_trainer.api.self_description import Layer, layers
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.parameters import apply_rules

LAYERED = {"class": "toy_research.network.Layered", "args": {}}
ADAMW = {"class": "torch.optim.AdamW", "args": {"lr": 0.1, "weight_decay": 0.2}}
HALVING: list[dict[str, Any]] = [
    {"match": "right.*", "depth_decay": 0.5, "weight_decay_of": "matrices", "args": {"lr": 0.04}},
    {"match": ".*", "depth_decay": 0.25},
]
# By hand: right.linear is one layer below right.norm, left.linear one below left.norm.
RATES = {
    **{"right.norm.weight": 0.04, "right.norm.bias": 0.04},
    **{"right.linear.weight": 0.02, "right.linear.bias": 0.02},
    **{"left.norm.weight": 0.1, "left.norm.bias": 0.1, "scale": 0.1},
    **{"left.linear.weight": 0.025, "left.linear.bias": 0.025},
}
EXEMPT = {"right.norm.weight", "right.norm.bias", "right.linear.bias"}


def layered(*, norm: bool = True) -> Layered:
    torch.manual_seed(0)
    return Layered(dropout=0.0, norm=norm)


def optimizer_of(
    root: Path, model: nn.Module, rules: list[dict[str, Any]], *, rate: float = 1.0, **changes: Any
) -> Optimizer:
    blueprint = draw_toy(root, Parameters=rules, Model=LAYERED, **changes)
    plan = apply_rules(model, blueprint.protocol.parameters)
    optimizer, _ = build_optimization(blueprint, plan, rate=rate, batches=None)
    assert optimizer is not None
    return optimizer


def by_name(model: nn.Module, optimizer: Optimizer, key: str) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(each)]: group[key] for group in optimizer.param_groups for each in group["params"]}


def test_a_layer_is_as_deep_as_the_number_of_layers_after_it_in_its_tower() -> None:
    found = layers(layered())
    assert found["left.linear.bias"] == Layer(1, "left.linear")
    assert found["right.norm.weight"] == Layer(0, "right.norm")
    assert found["scale"] == Layer(0, "scale")
    assert layers(TwoTowers()) == {}


@pytest.mark.parametrize("devices", [1.0, 4.0])
def test_each_layer_has_its_rate_and_its_weight_decay(tmp_path: Path, devices: float) -> None:
    model = layered()
    optimizer = optimizer_of(tmp_path, model, HALVING, rate=devices, Optimizer=ADAMW)
    expected = {name: devices * rate for name, rate in RATES.items()}
    assert by_name(model, optimizer, "lr") == pytest.approx(expected)
    decays = {name: 0.0 if name in EXEMPT else 0.2 for name in RATES}
    assert by_name(model, optimizer, "weight_decay") == decays


def test_the_default_rate_of_an_optimizer_is_decayed(tmp_path: Path) -> None:
    model = layered()
    optimizer = optimizer_of(tmp_path, model, HALVING[1:], Optimizer={"class": "torch.optim.AdamW"})
    found = by_name(model, optimizer, "lr")
    assert found["left.norm.bias"] == 1e-3
    assert found["left.linear.bias"] == 0.25e-3


def test_without_the_keys_there_is_one_group_per_rule(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [{"match": "right.*", "args": {"lr": 0.04}}, {"match": ".*"}]
    optimizer = optimizer_of(tmp_path, layered(), rules)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 5]
    assert [group["lr"] for group in optimizer.param_groups] == [0.04, 0.1]


def gradients(model: nn.Module, step: int) -> dict[str, Tensor]:
    signal = torch.randn(6, 1, 16, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    model.zero_grad()
    model(signal).square().mean().backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_two_steps_are_those_computed_by_hand(tmp_path: Path, kind: str) -> None:
    rules = [{"match": ".*", "depth_decay": 0.5, "weight_decay_of": "matrices"}]
    args = {"lr": 0.1, "weight_decay": 0.2, **({"momentum": 0.9} if kind == "SGD" else {})}
    model = layered(norm=False).double()
    optimizer = optimizer_of(tmp_path, model, rules, Optimizer={"class": f"torch.optim.{kind}", "args": args})
    weights = {name: each.detach().clone() for name, each in model.named_parameters()}
    first = {name: torch.zeros_like(each) for name, each in weights.items()}
    second = {name: torch.zeros_like(each) for name, each in weights.items()}
    for step in (1, 2):
        for name, gradient in gradients(model, step).items():
            rate = 0.1 * (0.5 if "linear" in name else 1)
            decay = 0.2 if weights[name].ndim == 2 else 0.0
            if kind == "SGD":
                first[name] = 0.9 * first[name] + gradient + decay * weights[name]
                weights[name] = weights[name] - rate * first[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, power = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
                weights[name] = weights[name] * (1 - rate * decay) - rate * mean / (power.sqrt() + 1e-8)
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-9, atol=1e-12)


def test_a_run_logs_the_rate_of_the_last_layer_of_each_rule(tmp_path: Path) -> None:
    cosine = {"class": "ignite_trainer.training.schedules.WarmUpCosine", "args": {"warm_up": 0}}
    run_toy(tmp_path, Model=LAYERED, Parameters=HALVING, Setup__epochs=2, Scheduler=cosine)
    rates = [step.learning_rates for step in Notebook.last.of("iteration")]
    assert rates[0] == pytest.approx((0.04, 0.1))
    assert rates[-1] == pytest.approx((0.02, 0.05))
    facts = Notebook.last.of("start")[0].facts
    assert facts["Learning rate"] == "0.04, 0.1"
    assert "depth_decay 0.5, weight_decay_of matrices" in facts["Parameters right.*"]


def test_a_run_with_decayed_rates_resumes_bit_identically(tmp_path: Path) -> None:
    cosine = {"class": "ignite_trainer.training.schedules.WarmUpCosine", "interval": "step"}
    changes: dict[str, Any] = {"Model": LAYERED, "Parameters": HALVING, "Optimizer": ADAMW}
    changes |= {"Scheduler": cosine, "Setup__epochs": 3, "Setup__save_every_steps": 1}
    whole = run_toy(tmp_path / "whole", **changes)
    begun = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_toy(begun, **changes, Task={"class": "toy_research.learning.Interrupted"})
    folder = only_run(begun)
    protocol = folder / "protocol.json"
    protocol.write_text(protocol.read_text().replace("Interrupted", "Matching"))
    assert run_toy(begun, **changes, Setup__resume="auto").folder == folder
    assert differences(whole.folder, folder) == []


def test_explain_shows_layers_with_their_rates(command: Command) -> None:
    path = command.write(Model=LAYERED, Parameters=HALVING, Optimizer=ADAMW)
    status, said, _ = command("-c", path, "--explain")
    assert status == 0
    assert "groups 0-2" in said and "groups 3-4" in said
    rows = " ".join(said.split()).partition("toy.json: layers")[2]
    for row in (
        "0 right.norm 2 0 (exempt) 0.04",
        "1 right.linear 1 0.2 0.02",
        "2 right.linear 1 0 (exempt) 0.02",
        "3 scale, left.norm 3 0.2 0.1",
        "4 left.linear 2 0.2 0.025",
    ):
        assert row in rows


# Errors


def test_a_model_without_an_order_of_layers_has_no_decay() -> None:
    with pytest.raises(ProtocolError) as caught:
        apply_rules(TwoTowers(), [ParameterRule(match=".*", depth_decay=0.5)])
    assert caught.value.problems == [
        "Parameters[0].depth_decay is 0.5, but TwoTowers does not declare the layers of scale, "
        "left.linear.weight, left.linear.bias and 6 more in a method layer_order. Give these parameters a "
        "rule without depth_decay, or declare their layers."
    ]


def test_an_optimizer_without_weight_decay_exempts_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r'Parameters\[0\]\.weight_decay_of is "matrices", but Rprop has'):
        draw_toy(tmp_path, Parameters=HALVING, Optimizer={"class": "torch.optim.Rprop"})


def test_a_schedule_with_rates_of_its_own_excludes_decayed_rates(tmp_path: Path) -> None:
    one_cycle = {"class": "torch.optim.lr_scheduler.OneCycleLR", "args": {"max_lr": 0.4}, "lasts": "rest"}
    with pytest.raises(ProtocolError, match="OneCycleLR, which has rates of its own, so depth_decay"):
        draw_toy(tmp_path, Parameters=HALVING, Scheduler=one_cycle)


@pytest.mark.parametrize("given", [{"depth_decay": 0.5}, {"weight_decay_of": "matrices"}])
def test_frozen_parameters_have_no_rates(given: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=f"not trained have no optimizer arguments; remove {next(iter(given))}"
    ):
        ParameterRule(match=".*", train=False, **given)


@pytest.mark.parametrize("decay", [0, 1.5, "0.5", math.nan])
def test_a_decay_of_rates_is_between_0_and_1(decay: Any) -> None:
    with pytest.raises(ValueError, match="depth_decay"):
        ParameterRule(match=".*", depth_decay=decay)
