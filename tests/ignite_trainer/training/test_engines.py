"""The training step: accumulation, complete gradients, precision, and the requirements of tasks."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.nn import functional
from toy_research.learning import Matching
from toy_research.network import EvenLinear, TwoTowers

from ignite_trainer.api.task import StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.engines import RUNNING_LOSS, make_evaluator, make_trainer
from ignite_trainer.training.forward import tf32_setting
from ignite_trainer.training.parameters import apply_rules
from tests.ignite_trainer.training.stepping import CPU, setup, tones, towers, train


def batches(count: int, size: int = 4) -> list[Batch]:
    return [tones(size, seed=seed) for seed in range(count)]


def mean_loss(model: nn.Module, group: list[Batch]) -> torch.Tensor:
    losses = [functional.cross_entropy(model(batch.sample.signal), batch.sample.target) for batch in group]
    return torch.stack(losses).mean()


def by_hand(model: TwoTowers, groups: list[list[Batch]]) -> None:
    """Take a plain gradient step for each group, on the mean loss of its batches."""
    for group in groups:
        gradients = torch.autograd.grad(mean_loss(model, group), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


# Accumulation


@pytest.mark.parametrize(
    ("accumulate", "groups"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (3, [3, 2]), (5, [5]), (8, [5])]
)
@pytest.mark.parametrize("epochs", [1, 2])
def test_accumulated_steps_equal_steps_on_the_mean_loss(
    accumulate: int, groups: list[int], epochs: int
) -> None:
    data, model, reference = batches(5), towers(), towers()
    train(model, data, epochs=epochs, accumulate=accumulate)
    split = list(torch.arange(5).split(groups))
    by_hand(reference, [[data[index] for index in group] for group in split] * epochs)
    torch.testing.assert_close(flat(model), flat(reference), rtol=1e-5, atol=1e-6)


def test_before_optimizer_step_sees_the_total_gradient_once_per_step() -> None:
    data, model, reference = batches(3), towers(even=True), towers(even=True)
    even = model.get_submodule("left.linear")
    assert isinstance(even, EvenLinear)
    start = even.weight.detach().clone()
    train(model, data[:2], accumulate=2)
    (seen,) = even.seen
    weight = reference.get_parameter("left.linear.weight")
    (total,) = torch.autograd.grad(mean_loss(reference, data[:2]), [weight])
    torch.testing.assert_close(seen, total, rtol=1e-5, atol=1e-7)
    moved = even.weight.detach() - start
    torch.testing.assert_close(moved, -0.5 * total / (total.abs().max() + 1e-8), rtol=1e-4, atol=1e-6)
    train(model, data, accumulate=2)
    assert len(even.seen) == 1 + 2


# Modes and precision


def test_every_epoch_starts_in_train_mode_and_evaluation_runs_in_eval_mode() -> None:
    model = TwoTowers()
    plan = apply_rules(model, [ParameterRule(match="right.*", train=False), ParameterRule(match=".*")])
    optimizer = torch.optim.SGD(plan.groups, lr=0.1)
    trainer = make_trainer(Matching(), model, optimizer, plan, setup(), device=CPU)
    evaluator = make_evaluator(Matching(), model, setup(), device=CPU, title="Evaluating")
    seen: list[tuple[str, bool, bool]] = []

    def note(what: str) -> None:
        seen.append((what, model.left.training, model.right.training))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: note("training"))
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: note("evaluation"))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(batches(1)) is None)
    trainer.run(batches(1), max_epochs=2)
    assert seen == [("training", True, False), ("evaluation", False, False)] * 2


def test_evaluation_prepares_once_per_pass_and_leaves_the_model_unchanged() -> None:
    class Counting(Matching):
        starts = 0

        def start_evaluation(self, model: nn.Module) -> None:
            assert not model.training
            assert torch.is_inference_mode_enabled()
            self.starts += 1
            super().start_evaluation(model)

    task, model = Counting(), TwoTowers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluator = make_evaluator(task, model, setup(), device=CPU, title="Evaluating")
    outputs: list[StepOutput] = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: outputs.append(evaluator.state.output))  # type: ignore[arg-type]
    evaluator.run(batches(3))
    evaluator.run(batches(1))
    assert task.starts == 2
    assert len(outputs) == 4
    assert not any(output.y_pred.requires_grad for output in outputs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class ScoreRecorder(Matching):
    """Records the dtype of the scores within autocast, and the losses."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []
        self.losses: list[float] = []

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().training_step(model, batch)
        assert output.loss is not None
        self.types.append(output.y_pred.dtype)
        self.losses.append(float(output.loss.detach()))
        return output

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().evaluation_step(model, batch)
        self.types.append(output.y_pred.dtype)
        return output


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_steps_run_in_the_precision_of_the_protocol(precision: str, dtype: torch.dtype) -> None:
    task, model = ScoreRecorder(), towers()
    trainer = train(model, batches(2), task=task, precision=precision).trainer
    make_evaluator(task, model, setup(precision=precision), device=CPU, title="E").run(batches(1))
    assert task.types == [dtype] * 3
    output: Any = trainer.state.output
    assert output.y_pred.dtype == output.loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_16_bit_steps_are_close_to_fp32(precision: str, accumulate: int) -> None:
    exact, rounded = towers(), towers()
    train(exact, batches(3, size=8), accumulate=accumulate)
    train(rounded, batches(3, size=8), precision=precision, accumulate=accumulate)
    step, error = flat(exact) - flat(towers()), flat(exact) - flat(rounded)
    assert 0 < error.norm() < 0.05 * step.norm()


def test_float32_products_are_rounded_to_tf32_only_on_request() -> None:
    def switches() -> list[bool]:
        return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]

    before = switches()
    for precision, allowed in (("fp32", False), ("tf32", True), ("bf16", False), ("fp16", False)):
        with tf32_setting(cast(Any, precision)):
            assert switches() == [allowed, allowed]
        assert switches() == before
    with pytest.raises(ZeroDivisionError), tf32_setting("tf32"):
        raise ZeroDivisionError
    assert switches() == before


def test_the_precision_of_a_run_overrides_torchs_newer_switches() -> None:
    switch: Any = torch.backends.cuda.matmul
    switch.fp32_precision = "tf32"  # torch now refuses to read the older switches
    try:
        with tf32_setting("fp32"):
            assert not switch.allow_tf32
        assert switch.fp32_precision == "tf32"
    finally:
        switch.allow_tf32 = False
        switch.fp32_precision = "none"


# The loss


def test_the_running_loss_is_an_exponential_average_since_the_start() -> None:
    task = ScoreRecorder()
    trainer = train(towers(), batches(3), epochs=2, task=task).trainer
    assert len(task.losses) == 6
    average = task.losses[0]
    for loss in task.losses[1:]:
        average = 0.98 * average + 0.02 * loss
    assert float(trainer.state.metrics[RUNNING_LOSS]) == pytest.approx(average, rel=1e-5)


def test_a_training_step_without_a_loss_is_an_error_that_names_the_task() -> None:
    class Lossless(Matching):
        def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
            return super().training_step(model, batch)._replace(loss=None)

    with pytest.raises(TypeError, match=r"^Lossless\.training_step returned no loss\.$"):
        train(towers(), batches(1), task=Lossless())
