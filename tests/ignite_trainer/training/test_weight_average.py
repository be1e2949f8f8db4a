"""Averages of the weights follow their formulas, and training does not depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_research.augment import Fit
from toy_research.network import TwoTowers
from toy_research.protocols import draw_toy, run_toy, toy
from toy_research.ranks import on_ranks, run_averaged_with_own_statistics
from toy_research.records import differences, only_run
from toy_research.signals import Tones
from toy_research.watching import Notebook

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs import resuming
from ignite_trainer.support.errors import ProtocolError, RunStopped
from ignite_trainer.training.parameters import apply_rules
from ignite_trainer.training.weight_average import EpochAverage, MovingAverage, WeightAverage

RULES = [ParameterRule(match=r"right\..*", train=False), ParameterRule(match=".*")]
ACCURACY = {"line_label": "Acc.", "class": "ignite.metrics.Accuracy", "is_checkpoint": True}
METRICS = {"Performance": {"lines": [ACCURACY]}}


class Training:
    """Training steps of a model with a frozen tower, and a moving average or a mean over epochs."""

    def __init__(self, *, decay: float | None = None, first_epoch: int = 1) -> None:
        torch.manual_seed(0)
        self.model = TwoTowers(dropout=0.0)
        self.plan = apply_rules(self.model, RULES)
        self.optimizer = torch.optim.SGD(self.plan.groups, lr=0.5)
        self.average: WeightAverage = EpochAverage(self.model, self.plan, first_epoch=first_epoch)
        if decay is not None:
            self.average = MovingAverage(self.model, self.plan, self.optimizer, decay=decay)
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


def require_restored(first: Training, second: Training) -> dict[str, Any]:
    """Restore the state of one training in another; return the part of it that belongs to the average."""
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
    return part


def test_a_state_restores_weights_and_averages() -> None:
    first, second = Training(decay=0.9), Training(decay=0.9)
    for _ in range(3):
        first.step()
    require_restored(first, second)


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
    scores, targets = _held_out(model)
    return float((scores.argmax(dim=1) == targets).float().mean())


def _held_out(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scores and targets of the held-out samples."""
    tones, fit = Tones(train=False), Fit(length=16, train=False)
    held_out = [tones[index] for index in range(len(tones))]
    signals = torch.stack([fit(torch.as_tensor(tone.signal)) for tone in held_out])
    return model(signals).detach(), torch.tensor([tone.target for tone in held_out])


@pytest.mark.processes
def test_all_processes_evaluate_the_average_that_is_saved(tmp_path: Path) -> None:
    """Without synchronised batch norm, each process has its own average of the running statistics."""
    found = on_ranks(2, tmp_path, run_averaged_with_own_statistics, tmp_path / "both")[0]
    model = TwoTowers()
    model.load_state_dict(found["model"])
    scores, targets = _held_out(model.eval())
    highest = scores.softmax(dim=-1).amax(dim=-1)
    for target in set(targets.tolist()):
        expected = float(highest[targets == target].mean())
        assert found["confidence"][f"target {target}"]["mean"] == pytest.approx(expected, rel=1e-5)


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


# The mean over epochs


def test_a_mean_over_epochs_is_the_plain_mean_of_weights_and_running_statistics() -> None:
    training, after = Training(first_epoch=3), list[dict[str, Tensor]]()
    for epoch in range(1, 7):
        for _ in range(2):
            training.step()
        training.average.finish_epoch(epoch)
        training.average.finish_epoch(epoch)  # as if the run were resumed here
        after.append(training.state())
        recorded = after[2:] or [after[-1]]
        for name, value in training.averages().items():
            if value.is_floating_point():
                mean = torch.stack([state[name] for state in recorded]).double().mean(dim=0)
                torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(value, after[-1][name])
        assert torch.equal(training.state()["left.linear.weight"], after[-1]["left.linear.weight"])
    spread = (after[2]["left.norm.running_mean"] - after[5]["left.norm.running_mean"]).abs().max()
    assert spread > 1e-4, "running statistics have averages, too"


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_state_restores_a_mean_before_and_after_it_begins(epochs: int) -> None:
    first, second = Training(first_epoch=2), Training(first_epoch=2)
    for epoch in range(1, epochs + 1):
        first.step()
        first.average.finish_epoch(epoch)
    assert bool(require_restored(first, second)["weights"]) == (epochs > 1)


@pytest.mark.parametrize(
    ("swa", "epochs", "first"),
    [
        *((0.0, 4, 1), (0.5, 4, 3), (0.75, 50, 38), (0.75, 1, 1), (0.29, 100, 30), (0.99, 3, 3)),
        *((1 - 1e-12, 10, 10), (None, 3, None)),
    ],
)
def test_a_share_of_the_epochs_passes_before_averaging(swa: float, epochs: int, first: int | None) -> None:
    setup = validate(toy(Path("x"), Setup__swa=swa, Setup__epochs=epochs)).setup
    assert setup.first_averaged_epoch == first


def test_a_run_evaluates_and_saves_the_mean_but_trains_unchanged(tmp_path: Path) -> None:
    schedule = {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.9}}
    changes: dict[str, Any] = {"Metrics": METRICS, "Scheduler": schedule}
    raw = []
    for epochs in (2, 3, 4):
        plain = run_toy(tmp_path / "plain", **changes, Setup__epochs=epochs)
        raw.append(load(checkpoints(plain.folder) / f"last_epoch-{epochs}.pt")["model"])
    averaged = run_toy(tmp_path / "averaged", **changes, Setup__epochs=4, Setup__swa=0.5)
    state = load(checkpoints(averaged.folder) / "last_epoch-4.pt")
    for name, weight in state["average"]["weights"].items():
        assert torch.equal(weight, raw[-1][name]), f"{name}: training is unchanged"
        mean = (raw[1][name] + raw[2][name]) / 2
        torch.testing.assert_close(state["model"][name], mean, rtol=1e-5, atol=1e-6)
    model = TwoTowers()
    model.load_state_dict(state["model"])
    assert _accuracy(model.eval()) == pytest.approx(averaged.end.last["Acc."])
    (second,) = checkpoints(averaged.folder).glob("best_acc_epoch-2_*.pt")
    for name, weight in load(second).items():
        if isinstance(weight, Tensor):
            assert torch.equal(weight, raw[0][name]), (
                f"{name}: before averaging, weights are saved as they are"
            )


@pytest.mark.parametrize("at", [{"step": 5}, {"step": 6}, {"step": 7}, {"batch": 14}, {"batch": 20}])
def test_a_run_with_a_mean_and_limited_gradients_resumes_bit_identically(
    tmp_path: Path, at: dict[str, int]
) -> None:
    """Epochs have two steps and five batches of evaluation; averaging begins with the third."""
    changes: dict[str, Any] = {"Setup__epochs": 4, "Setup__swa": 0.5}
    changes |= {"Parameters": [{"match": ".*", "max_gradient_norm": 0.1}]}
    whole = run_toy(tmp_path / "whole", **changes)
    begun = tmp_path / "stopped"
    signalled = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", **at}}
    with pytest.raises(RunStopped):
        run_toy(begun, **changes, Task=signalled)
    folder = only_run(begun)
    protocol = json.loads((folder / "protocol.json").read_text())
    protocol["Task"] = json.loads((whole.folder / "protocol.json").read_text())["Task"]
    (folder / "protocol.json").write_text(json.dumps(protocol))
    assert run_toy(begun, **changes, Setup__resume="auto").folder == folder
    assert differences(whole.folder, folder) == []


def test_epochs_of_a_run_with_a_mean_cannot_be_raised(tmp_path: Path) -> None:
    done = run_toy(tmp_path, Setup__swa=0.5)
    message = r"Setup\.epochs is 3, but 2 in that run \(Setup\.swa, a share of the epochs, depends on it\)"
    with pytest.raises(ProtocolError, match=message):
        resuming.require_same(draw_toy(tmp_path, Setup__swa=0.5, Setup__epochs=3), done.folder)


def test_only_one_average_is_possible(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match=r"Setup\.ema is 0\.9 and Setup\.swa is 0\.5, but only one average"
    ):
        validate(toy(tmp_path, Setup__ema=0.9, Setup__swa=0.5))


def test_training_that_may_end_early_has_no_share_of_epochs_to_average(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"Setup\.patience is 3, which may end training before"):
        validate(toy(tmp_path, Setup__swa=0.5, Setup__patience=3))


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, "0.5", True])
def test_a_share_must_be_below_1(tmp_path: Path, share: Any) -> None:
    with pytest.raises(ProtocolError, match=r"Setup\.swa is "):
        validate(toy(tmp_path, Setup__swa=share))
