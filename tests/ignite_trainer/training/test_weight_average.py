"""The average of the weights follows its formula, and training does not depend on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_research.augment import Fit
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy, toy
from toy_research.signals import Tones
from toy_research.watching import Notebook

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.parameters import apply_rules
from ignite_trainer.training.weight_average import WeightAverage

RULES = [ParameterRule(match=r"right\..*", train=False), ParameterRule(match=".*")]
ACCURACY = {"line_label": "Acc.", "class": "ignite.metrics.Accuracy", "is_checkpoint": True}
METRICS = {"Performance": {"lines": [ACCURACY]}}


class Training:
    """Training steps of a model with a frozen tower."""

    def __init__(self, *, decay: float) -> None:
        torch.manual_seed(0)
        self.model = TwoTowers(dropout=0.0)
        self.plan = apply_rules(self.model, RULES)
        self.optimizer = torch.optim.SGD(self.plan.groups, lr=0.5)
        self.average = WeightAverage(self.model, self.plan, self.optimizer, decay=decay)
        self.plan.train_mode(self.model)

    def step(self) -> None:
        self.model(torch.randn(4, 1, 16)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def averages(self) -> dict[str, Tensor]:
        with self.average.in_place():
            return self.state()


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_averages_follow_the_formula(decay: float) -> None:
    training = Training(decay=decay)
    expected = training.state()
    for step in range(1, 8):
        training.step()
        d = min(decay, (1 + step) / (10 + step))
        for name, now in training.state().items():
            expected[name] = d * expected[name] + (1 - d) * now if now.is_floating_point() else now
    for name, value in training.averages().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    moved = (training.state()["left.norm.running_mean"] - expected["left.norm.running_mean"]).abs().max()
    assert moved > 1e-4, "running statistics have averages, too"


def test_frozen_weights_are_not_copied() -> None:
    kept = Training(decay=0.9).average.state_dict()["weights"]
    assert {name.split(".")[0] for name in kept} == {"scale", "left"}
    assert {"left.linear.weight", "left.norm.running_var"} <= kept.keys()
    assert "left.norm.num_batches_tracked" not in kept


def test_weights_are_restored_after_a_block_that_fails() -> None:
    training = Training(decay=0.9)
    training.step()
    before = training.state()
    with pytest.raises(KeyError), training.average.in_place():
        assert not torch.equal(training.state()["left.linear.weight"], before["left.linear.weight"])
        raise KeyError
    for name, value in training.state().items():
        assert torch.equal(value, before[name]), name


def test_a_state_restores_weights_and_averages() -> None:
    first, second = Training(decay=0.9), Training(decay=0.9)
    for _ in range(3):
        first.step()
    with first.average.in_place():
        model, part = first.state(), first.average.state_dict()
        part["weights"] = {name: value.clone() for name, value in part["weights"].items()}
    second.model.load_state_dict(model)
    second.average.load_state_dict(part)
    for one, other in ((first.state(), second.state()), (first.averages(), second.averages())):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    with pytest.raises(ValueError, match="averages cover weights other than"):
        second.average.load_state_dict({"steps": 1, "weights": {}})


def checkpoints(folder: Path) -> Path:
    return folder / "checkpoints"


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def test_a_run_evaluates_and_saves_averages_but_trains_unchanged(tmp_path: Path) -> None:
    plain = run_toy(tmp_path / "plain", Metrics=METRICS)
    averaged = run_toy(tmp_path / "averaged", Metrics=METRICS, Setup__ema=0.9)
    raw = load(checkpoints(plain.folder) / "last_epoch-2.pt")["model"]
    state = load(checkpoints(averaged.folder) / "last_epoch-2.pt")
    for name, weight in state["average"]["weights"].items():
        assert torch.equal(weight, raw[name]), f"{name}: training is unchanged"
    assert not torch.equal(state["model"]["left.linear.weight"], raw["left.linear.weight"])
    (best,) = checkpoints(averaged.folder).glob("best_acc_epoch-2_*.pt")
    for name, weight in load(best).items():
        assert torch.equal(weight, state["model"][name]), name

    model = TwoTowers()
    model.load_state_dict(state["model"])
    assert _accuracy(model.eval()) == pytest.approx(averaged.end.last["Acc."])


def _accuracy(model: nn.Module) -> float:
    tones, fit = Tones(train=False), Fit(length=16, train=False)
    held_out = [tones[index] for index in range(len(tones))]
    signals = torch.stack([fit(torch.as_tensor(tone.signal)) for tone in held_out])
    targets = torch.tensor([tone.target for tone in held_out])
    return float((model(signals).argmax(dim=1) == targets).float().mean())


def test_a_skipped_step_does_not_count(tmp_path: Path) -> None:
    exploding = {"class": "toy_research.learning.Matching", "args": {"explode_at": 2}}
    result = run_toy(tmp_path, Setup__ema=0.9, Task=exploding, Faults={"not_finite": "skip"}, Metrics=METRICS)
    (fault,) = Notebook.last.of("fault")
    assert fault.iteration == 2
    state = load(checkpoints(result.folder) / "last_epoch-2.pt")
    assert state["average"]["steps"] == 2 * 2 - 1


@pytest.mark.parametrize("decay", [0, 1, 1.5, "0.9", True])
def test_a_decay_must_be_between_0_and_1(tmp_path: Path, decay: Any) -> None:
    with pytest.raises(ProtocolError, match=r"Setup\.ema is "):
        validate(toy(tmp_path, Setup__ema=decay))
