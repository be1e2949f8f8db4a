"""Batches embedded in parts: gradients, random numbers, statistics and memory."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from toy_research.network import TwoTowers
from toy_research.pairing import Pairing
from toy_research.protocols import run_toy, toy
from toy_research.sameness import differences
from toy_research.signals import Tone

from ignite_trainer.api.batch import PaddedBatch, part_of
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.sections import ParameterRule, Setup
from ignite_trainer.protocol.validation import validate
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.training.engines import make_trainer
from ignite_trainer.training.forward import GradientCache
from ignite_trainer.training.optimizer_steps import NotFinite, StepWatch
from ignite_trainer.training.parameters import apply_rules

CPU = torch.device("cpu")
PAIRING = {"class": "toy_research.pairing.Pairing", "args": {}}


def setup(**changes: Any) -> Setup:
    return Setup(**{"name": "x", "batch_train": 12, "epochs": 1, "saved_models_path": "x", **changes})


def tones(size: int, *, seed: int = 1, length: int = 16) -> Tone:
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(size, 1, length, generator=generator)
    return Tone(signal, None, 0.0, [""] * size, torch.randint(3, (size,), generator=generator))


def towers(**options: Any) -> TwoTowers:
    torch.manual_seed(0)
    return TwoTowers(**{"dropout": 0.0, "norm": False, **options})


def exact(model: TwoTowers, batch: Tone) -> tuple[TwoTowers, Tone]:
    return model.double(), batch._replace(signal=batch.signal.double())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def step_in_parts(model: nn.Module, batch: Tone, chunk: int, task: Pairing | None = None) -> Tensor:
    """Carry out forward and backward pass; return the loss."""
    task = task or Pairing()
    cache = GradientCache(task, model, setup(chunk=chunk, batch_train=len(batch.target)), device=CPU)
    output, _ = cache.forward(Batch(torch.arange(len(batch.target)), batch))
    assert output is not None and output.loss is not None
    loss = output.loss
    loss.backward()
    cache.backward()
    return loss.detach()


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 6, 11, 12, 40])
@pytest.mark.parametrize("named_only", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_batch(chunk: int, named_only: bool) -> None:
    model, batch = exact(towers(), tones(12))
    task = Pairing(named_only=named_only)
    whole = task.training_step(model, batch).loss
    assert whole is not None
    whole.backward()
    expected = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    loss = step_in_parts(model, batch, chunk, task)
    torch.testing.assert_close(loss, whole.detach(), rtol=0, atol=1e-12)
    assert gradients(model).keys() == expected.keys() == dict(model.named_parameters()).keys()
    for name, gradient in gradients(model).items():
        assert expected[name].abs().max() > 1e-6, name
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


def test_what_is_frozen_gets_no_gradient_and_what_is_learned_beside_it_does() -> None:
    for pattern in ("right.*", "left.*|right.*"):
        model, batch = exact(towers(), tones(12))
        apply_rules(model, [ParameterRule(match=pattern, train=False), ParameterRule(match=".*")])
        loss = Pairing().training_step(model, batch).loss
        assert loss is not None
        loss.backward()
        expected = copy.deepcopy(gradients(model))
        model.zero_grad()
        step_in_parts(model, batch, 4)
        assert gradients(model).keys() == expected.keys()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10)


class Listening(Pairing):
    """Keeps the embeddings of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bool, dict[str, Tensor]]] = []

    def embed(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        embeddings = super().embed(model, batch)
        kept = {name: values.detach() for name, values in embeddings.items()}
        self.seen.append((torch.is_grad_enabled(), kept))
        return embeddings


def test_both_passes_draw_the_same_numbers_and_the_step_as_many_as_one() -> None:
    model, task = towers(dropout=0.5, norm=True), Listening()
    torch.manual_seed(3)
    step_in_parts(model, tones(12), 4, task)
    after = torch.rand(3)
    with_gradient = [kept for graph, kept in task.seen if graph]
    without = [kept for graph, kept in task.seen if not graph]
    assert len(with_gradient) == len(without) == 3
    for one, other in zip(with_gradient, without, strict=True):
        assert torch.equal(one["signal"], other["signal"])
        assert torch.equal(one["class"], other["class"])
    assert any((kept["class"] == 0).any() for kept in without), "something was dropped"
    torch.manual_seed(3)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        task.embed(model, part_of(tones(12), part))
    assert torch.equal(after, torch.rand(3))


def test_batch_norm_sees_a_part_at_a_time_and_counts_it_once() -> None:
    model, batch = exact(towers(norm=True), tones(12))
    by_hand = copy.deepcopy(model)
    task = Pairing()
    step_in_parts(model, batch, 5)  # three parts of four samples
    parts = [task.embed(by_hand, part_of(batch, slice(at, at + 4))) for at in (0, 4, 8)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("signal", "class")}
    loss = task.compare(by_hand, joined, batch).loss
    assert loss is not None
    loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, gradients(by_hand)[name], rtol=0, atol=1e-10)
    moved = dict(by_hand.named_buffers())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, moved[name]), name
    assert int(model.get_buffer("left.norm.num_batches_tracked")) == 3


def train(model: nn.Module, data: list[Tone], *, task: Pairing | None = None, **changes: Any) -> Engine:
    plan = apply_rules(model, [ParameterRule(match=".*")])
    optimizer = torch.optim.SGD(plan.groups, lr=0.2, momentum=0.9)
    watch = changes.pop("watch", None)
    trainer = make_trainer(
        task or Pairing(), model, optimizer, plan, setup(**changes), device=CPU, watch=watch
    )
    trainer.run([Batch(torch.arange(len(tone.target)), tone) for tone in data], max_epochs=1)
    return trainer


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
def test_trained_weights_are_those_of_whole_batches(changes: dict[str, Any], tolerance: float) -> None:
    data = [tones(12, seed=seed) for seed in range(5)]
    start, whole, parts = towers(), towers(), towers()
    train(whole, data, **changes)
    train(parts, data, chunk=4, **changes)
    assert 0 < distance(whole, parts) < tolerance * distance(whole, start)


def test_compiled_towers_give_the_same() -> None:
    data = [tones(12, seed=seed) for seed in range(2)]
    whole, parts = towers(), towers()
    train(whole, data, chunk=4)
    for tower in (parts.left, parts.right):
        tower.compile(dynamic=False, backend="aot_eager")
    train(parts, data, chunk=4)
    assert distance(whole, parts) < 1e-5


def test_a_step_left_out_leaves_nothing_behind() -> None:
    data = [tones(12, seed=seed) for seed in range(4)]
    left_out: list[NotFinite] = []
    bad, good = towers(norm=True), towers(norm=True)
    train(bad, data, task=Pairing(explode_at=2), watch=StepWatch(left_out.append), chunk=4)
    train(good, [data[0], *data[2:]], chunk=4)
    assert [found.what for found in left_out] == ["The loss is inf"]
    for (name, one), other in zip(bad.state_dict().items(), good.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_a_run_in_parts_goes_on_to_the_bit(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"Setup__chunk": 3, "Task": PAIRING, "Setup__epochs": 3}
    whole = run_toy(tmp_path / "whole", **changes)
    begun = run_toy(tmp_path / "stopped", **{**changes, "Setup__epochs": 2})
    gone_on = run_toy(tmp_path / "stopped", **changes, Setup__resume="auto")
    assert begun.folder == gone_on.folder
    assert differences(whole.folder, gone_on.folder) == []


def test_too_much_memory_is_told_a_part_that_fits_and_it_does(tmp_path: Path) -> None:
    task = {**PAIRING, "args": {"most": 4}}
    with pytest.raises(RunFailed, match=r"Try --Setup\.chunk 4, which embeds so many samples at a time"):
        run_toy(tmp_path, Task=task)
    assert run_toy(tmp_path, Task=task, Setup__chunk=4).end.last_epoch == 2


def test_a_task_that_compares_no_embeddings_takes_no_parts(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=r"Setup\.chunk is 4, and the loss of Matching is no comparison"):
        draw(validate(toy(tmp_path, Setup__chunk=4)), trusted=("toy_research",))


class SavedBytes(saved_tensors_hooks):
    """Counts the bytes that autograd keeps for the backward pass; `peak` is the most of them.

    What is there anyway is left out: `given` tensors, such as weights and the batch.
    """

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
    """A list that can be referred to weakly."""


def test_memory_goes_with_the_part_not_with_the_batch() -> None:
    wide = [layer for _ in range(4) for layer in (nn.Linear(512, 512), nn.Tanh())]

    def peak(samples: int, chunk: int | None) -> int:
        model, batch = towers(), tones(samples)
        model.left = nn.Sequential(nn.Linear(16, 512), *wide, nn.Linear(512, 8))
        saved = SavedBytes([*model.parameters(), *model.buffers(), batch.signal])
        with saved:
            step_in_parts(model, batch, chunk or samples)
        assert not saved.held, "all of it is let go"
        return saved.peak

    part, whole = peak(8, None), peak(64, None)
    assert whole > 7 * part
    assert peak(64, 8) < 1.2 * part
    # Twice as many embeddings, four times the comparisons: of what the towers keep that is a small share.
    assert peak(128, 8) < 0.2 * 128 / 8 * part


def test_parts_of_a_batch_have_all_its_fields() -> None:
    lengths = PaddedBatch(torch.arange(8.0).reshape(4, 2), torch.tensor([2, 2, 1, 2]))
    batch = Tone(torch.arange(4), None, lengths, ["a", "b", "c", "d"], torch.ones(4, 2))
    part = part_of(batch, slice(1, 3))
    assert part.signal.tolist() == [1, 2]
    assert part.picture is None
    assert part.weight.values.tolist() == [[2, 3], [4, 5]]
    assert part.weight.lengths.tolist() == [2, 1]
    assert part.name == ["b", "c"]
    assert part.target.shape == (2, 2)


@pytest.mark.parametrize(
    ("size", "chunk", "usual", "sizes"),
    [(12, 5, 12, [4, 4, 4]), (11, 4, 12, [3, 4, 4]), (2, 4, 12, [1, 1]), (9, 8, 8, [4, 5])],
)
def test_parts_are_even_and_as_many_for_a_batch_that_lost_samples(
    size: int, chunk: int, usual: int, sizes: list[int]
) -> None:
    task = Listening()
    cache = GradientCache(task, towers(), setup(chunk=chunk, batch_train=usual), device=CPU)
    cache.forward(Batch(torch.arange(size), tones(size)))
    assert [len(kept["signal"]) for _, kept in task.seen] == sizes


def test_the_toy_task_compares_by_cosine() -> None:
    model, batch = towers(), tones(6)
    output = Pairing().training_step(model, batch)
    signals = model.left(batch.signal.flatten(1))
    scores = functional.normalize(signals, dim=1) @ model.prototypes()[batch.target].T
    torch.testing.assert_close(output.y_pred, scores)
