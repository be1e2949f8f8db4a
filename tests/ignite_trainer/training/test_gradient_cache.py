"""Batches embedded in parts: gradients, random numbers, statistics and memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from toy_research.learning import Pairing
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy, toy

from ignite_trainer.api.batch import slice_batch
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.training.forward import GradientCache
from ignite_trainer.training.optimizer_steps import NonFinite, StepWatch
from ignite_trainer.training.parameters import apply_rules
from tests.ignite_trainer.training.stepping import CPU, setup, tones, towers, train

PAIRING = {"class": "toy_research.learning.Pairing", "args": {}}
MOMENTUM = {"lr": 0.2, "momentum": 0.9}


def exact(size: int = 12, **options: Any) -> tuple[TwoTowers, Batch]:
    """Build towers and a batch in float64."""
    batch = tones(size)
    return towers(**options).double(), batch._replace(
        sample=batch.sample._replace(signal=batch.sample.signal.double())
    )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def step(model: nn.Module, batch: Batch, task: Pairing | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the forward and backward pass on the whole batch; return loss and gradients."""
    loss = (task or Pairing()).training_step(model, batch.sample).loss
    assert loss is not None
    loss.backward()
    found = gradients(model)
    model.zero_grad()
    return loss.detach(), found


def step_in_parts(
    model: nn.Module, batch: Batch, chunk: int, task: Pairing | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the forward and backward pass in parts; return loss and gradients."""
    settings = setup(chunk=chunk, batch_train=len(batch.indices))
    cache = GradientCache(task or Pairing(), model, settings, device=CPU)
    output, _ = cache.forward(batch)
    assert output is not None and output.loss is not None
    output.loss.backward()
    cache.backward()
    return output.loss.detach(), gradients(model)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 6, 11, 12, 40])
@pytest.mark.parametrize("named_only", [False, True])
def test_loss_and_gradients_equal_those_of_the_whole_batch(chunk: int, named_only: bool) -> None:
    model, batch = exact()
    task = Pairing(named_only=named_only)
    expected_loss, expected = step(model, batch, task)
    loss, found = step_in_parts(model, batch, chunk, task)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-12)
    assert_close(found, expected)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 1e-6 for gradient in expected.values())


@pytest.mark.parametrize("pattern", ["right.*", "left.*|right.*"])
def test_frozen_parameters_get_no_gradient_and_the_others_do(pattern: str) -> None:
    model, batch = exact()
    apply_rules(model, [ParameterRule(match=pattern, train=False), ParameterRule(match=".*")])
    _, expected = step(model, batch)
    assert_close(step_in_parts(model, batch, 4)[1], expected)


class EmbeddingRecorder(Pairing):
    """A task that records the embeddings of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, dict[str, Tensor]]] = []

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        embeddings = super().embed(model, batch)
        kept = {name: values.detach() for name, values in embeddings.items()}
        self.seen.append((torch.is_grad_enabled(), kept))
        return embeddings


def test_both_passes_draw_the_same_numbers_and_count_as_one() -> None:
    model, task = towers(dropout=0.5, norm=True), EmbeddingRecorder()
    torch.manual_seed(3)
    step_in_parts(model, tones(12), 4, task)
    after = torch.rand(3)
    with_gradient = [kept for graph, kept in task.seen if graph]
    without = [kept for graph, kept in task.seen if not graph]
    assert len(with_gradient) == len(without) == 3
    for one, other in zip(with_gradient, without, strict=True):
        assert torch.equal(one["signal"], other["signal"])
        assert torch.equal(one["class"], other["class"])
    assert any((kept["class"] == 0).any() for kept in without), "dropout has an effect"
    torch.manual_seed(3)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        task.embed(model, slice_batch(tones(12).sample, part))
    assert torch.equal(after, torch.rand(3))


def test_batch_norm_normalises_one_part_at_a_time_and_counts_each_once() -> None:
    model, batch = exact(norm=True)
    by_hand = copy.deepcopy(model)
    task = Pairing()
    _, found = step_in_parts(model, batch, 5)  # three parts of four samples
    parts = [task.embed(by_hand, slice_batch(batch.sample, slice(at, at + 4))) for at in (0, 4, 8)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("signal", "class")}
    loss = task.compare(by_hand, joined, batch.sample).loss
    assert loss is not None
    loss.backward()
    assert_close(found, gradients(by_hand))
    moved = dict(by_hand.named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, moved[name]), name
    assert int(model.get_buffer("left.norm.num_batches_tracked")) == 3


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return float(torch.cat([(a - b).detach().flatten() for a, b in pairs]).norm())


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 1e-5),
        ({"accumulate": 2}, 1e-5),
        ({"precision": "bf16"}, 0.02),
        ({"precision": "fp16"}, 0.01),
        ({"precision": "fp16", "accumulate": 3}, 0.01),
    ],
)
def test_trained_weights_equal_those_of_whole_batches(changes: dict[str, Any], tolerance: float) -> None:
    data = [tones(12, seed=seed) for seed in range(5)]
    start, whole, parts = towers(), towers(), towers()
    for model, chunk in ((whole, None), (parts, 4)):
        train(model, data, task=Pairing(), args=MOMENTUM, chunk=chunk, **changes)
    assert 0 < distance(whole, parts) < tolerance * distance(whole, start)


def test_compiled_towers_are_trained_to_the_same_weights() -> None:
    data = [tones(12, seed=seed) for seed in range(2)]
    whole, parts = towers(), towers()
    train(whole, data, task=Pairing(), chunk=4)
    for tower in (parts.left, parts.right):
        tower.compile(dynamic=False, backend="aot_eager")
    train(parts, data, task=Pairing(), chunk=4)
    assert distance(whole, parts) < 1e-5


def test_a_skipped_step_changes_no_state() -> None:
    data = [tones(12, seed=seed) for seed in range(4)]
    skipped: list[NonFinite] = []
    bad, good = towers(norm=True), towers(norm=True)
    watch = StepWatch(skipped.append)
    train(bad, data, task=Pairing(explode_at=2), args=MOMENTUM, watch=watch, chunk=4)
    train(good, [data[0], *data[2:]], task=Pairing(), args=MOMENTUM, chunk=4)
    assert [found.what for found in skipped] == ["The loss is inf"]
    for (name, one), other in zip(bad.state_dict().items(), good.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_after_a_step_runs_out_of_memory_a_part_that_fits_is_suggested(tmp_path: Path) -> None:
    task = {**PAIRING, "args": {"most": 4}}
    with pytest.raises(RunFailed, match=r"new run with --Setup\.chunk 4, which embeds 4 samples at a time"):
        run_toy(tmp_path, Task=task)
    assert run_toy(tmp_path, Task=task, Setup__chunk=4).end.last_epoch == 2


def test_parts_are_refused_for_a_task_that_compares_no_embeddings(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"Setup\.chunk is 4, but the loss of Matching does not compare"):
        draw(validate(toy(tmp_path, Setup__chunk=4)), trusted=("toy_research",))


class SavedBytes(saved_tensors_hooks):
    """Counts the bytes that autograd keeps for the backward pass, except `given` tensors such as weights."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.held: dict[int, tuple[int, int]] = {}
        self.peak = 0
        super().__init__(self._pack, lambda kept: kept[0])

    def _pack(self, tensor: Tensor) -> list[Tensor]:
        kept, storage = _Kept([tensor]), tensor.untyped_storage()
        if storage.data_ptr() not in self._given:
            self.held[id(kept)] = storage.data_ptr(), storage.nbytes()
            weakref.finalize(kept, self.held.pop, id(kept))
            self.peak = max(self.peak, sum(dict(self.held.values()).values()))
        return kept


class _Kept(list[Tensor]):
    """A list that can be weakly referenced."""


def test_memory_depends_on_the_size_of_a_part_and_not_of_the_batch() -> None:
    wide = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.Tanh())]

    def peak(samples: int, chunk: int | None) -> int:
        model, batch = towers(), tones(samples)
        model.left = nn.Sequential(nn.Linear(16, 512), *wide, nn.Linear(512, 8))
        saved = SavedBytes([*model.parameters(), *model.buffers(), batch.sample.signal])
        with saved:
            step_in_parts(model, batch, chunk or samples)
        assert not saved.held, "everything is freed"
        return saved.peak

    part, whole = peak(8, None), peak(64, None)
    assert whole > 7 * part
    assert peak(64, 8) < 1.2 * part
    # Embeddings and comparisons take little memory compared with the activations of the towers.
    assert peak(128, 8) < 0.2 * 128 / 8 * part


@pytest.mark.parametrize(
    ("size", "chunk", "usual", "sizes"),
    [(12, 5, 12, [4, 4, 4]), (11, 4, 12, [3, 4, 4]), (2, 4, 12, [1, 1]), (9, 8, 8, [4, 5])],
)
def test_parts_are_even_and_a_smaller_batch_has_the_same_number(
    size: int, chunk: int, usual: int, sizes: list[int]
) -> None:
    task = EmbeddingRecorder()
    cache = GradientCache(task, towers(), setup(chunk=chunk, batch_train=usual), device=CPU)
    cache.forward(tones(size))
    assert [len(kept["signal"]) for _, kept in task.seen] == sizes
