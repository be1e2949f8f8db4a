"""Contrastive losses of a small AudioCLIP in several processes, and in one for comparison."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_research.joint import STANDING_NORMS, Noises, Reached, Scenes, small_audioclip

from ignite_trainer.api.batch import Mixed, PaddedBatch, PartialBatch, collate, rebuild, slice_batch
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support import distributed
from ignite_trainer.training import forward
from ignite_trainer.training.parameters import apply_rules
from model.parts import LossKind, PairLoss
from tests.ignite_trainer.training.stepping import CPU, setup
from utils.tasks import AudioTextContrastive, Contrastive

SIZE = 9
WEIGHTS = {"dog": 1.0, "rain": 2.0, "wind": 0.5, "siren": 3.0}
ALL: dict[str, Any] = {"positives": "same_label", "label_smoothing": 0.1}

CLIPS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "softmax with weights, in blocks": {"class_weights": WEIGHTS, "block": 1},
    "softmax, mixed": {},
    "softmax with all, mixed": {**ALL, "class_weights": WEIGHTS},
    "sigmoid": {"loss": "sigmoid"},
    "sigmoid in one block": {"loss": "sigmoid", "block": 100},
    "sigmoid with all, mixed": {**ALL, "class_weights": WEIGHTS, "loss": "sigmoid", "block": 1},
}
"""Arguments of `AudioTextContrastive`, by name; in those with "mixed", samples are."""

SCENES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "softmax with all, mixed": ALL,
    "sigmoid": {"loss": "sigmoid", "reduction": "factorial"},
    "sigmoid with all, mixed": {**ALL, "loss": "sigmoid"},
}
"""Arguments of `Contrastive`, by name; samples lack sounds, images, or both."""

IN_PARTS = ("softmax", "sigmoid with all, mixed")
"""Cases that are also embedded in parts (`Setup.chunk`)."""


def take_steps() -> dict[str, Reached]:
    """Take a step with each task, on a model that is the same each time."""
    model = small_audioclip(torch.float64, spectrum="stft", size=32, logit_bias=-2.0)
    rules = [STANDING_NORMS, ParameterRule(match=r"visual\..*", mode="eval"), ParameterRule(match=".*")]
    apply_rules(model, rules).train_mode(model)
    sets = {"clips": Noises(torch.float64), "scenes": Scenes(torch.float64)}
    found = {}
    for data, kind, cases in (("clips", AudioTextContrastive, CLIPS), ("scenes", Contrastive, SCENES)):
        samples = [sets[data][index] for index in range(SIZE)]
        for name, options in cases.items():
            chosen = _mixed(samples) if "mixed" in name else samples
            for chunk in (None, 2) if name in IN_PARTS else (None,):
                task = kind(**options)
                found[f"{data}: {name}, chunk {chunk}"] = _step(task, model, _stacked(chosen), chunk)
    return found


def _mixed(samples: list[Any]) -> list[Any]:
    """Describe each sample as mixed with its neighbour; the last one with a sample that is not there."""
    rows = []
    for index, sample in enumerate(samples):
        partner = samples[index ^ 1] if index ^ 1 < len(samples) else sample
        share = 0.55 + 0.05 * index
        mix = Mixed((sample.labels, partner.labels), (share, 1 - share), (index, index ^ 1))
        rows.append(sample._replace(labels=mix))
    return rows


def _stacked(samples: list[Any]) -> Any:
    """Collate samples whose arrays have equal lengths."""

    def values(field: Any) -> Any:
        if isinstance(field, PartialBatch):
            return field._replace(values=values(field.values))
        return field.values if isinstance(field, PaddedBatch) else field

    batch = collate(samples)
    return rebuild(batch, [values(field) for field in batch])


def _step(task: Any, model: Any, samples: Any, chunk: int | None) -> Reached:
    ranks, rank = distributed.world_size(), distributed.rank()
    own = slice(SIZE * rank // ranks, SIZE * (rank + 1) // ranks)
    batch = Batch(torch.arange(own.start, own.stop), slice_batch(samples, own))
    model.zero_grad()
    if chunk is None:
        output, whole = forward.training_step(task, model, batch)
    else:
        cache = forward.GradientCache(
            task, model, setup(batch_train=SIZE, batch_of="all", chunk=chunk), device=CPU
        )
        output, whole = cache.forward(batch)
    assert output is not None and output.loss is not None
    assert whole.indices.tolist() == list(range(SIZE))
    output.loss.backward()
    if chunk is not None:
        cache.backward()
    distributed.average_gradients(model.parameters())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Reached([float(output.loss.detach())], gradients, {"scores": output.y_pred, "targets": output.y})


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of the tensors that operations create inside a `with` block, backward passes included.

    Attributes:
        peak: the most bytes that existed at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage._cdata)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._forget, storage._cdata, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def loss_memory(sizes: Iterable[int]) -> dict[tuple[str, int], int]:
    """Measure the peak bytes of a forward and backward pass in this process, by kind of loss and batch."""
    return {(kind, batch): _peak(kind, batch) for batch in sizes for kind in get_args(LossKind)}


def _peak(kind: LossKind, batch: int) -> int:
    ranks = distributed.world_size()
    share = batch // ranks
    own = slice(share * distributed.rank(), share * (distributed.rank() + 1))
    leaves = [torch.randn(share, 2, requires_grad=True) for _ in range(2)]
    with PeakMemory() as memory:
        rows, columns = (distributed.gather_rows(leaf, [share] * ranks) for leaf in leaves)

        def similarity(of_rows: slice, of_columns: slice) -> Tensor:
            return rows[of_rows] @ columns[of_columns].T

        part = PairLoss(batch=batch, kind=kind).part(similarity, own)
        distributed.sum_over_all(part).backward()
    return int(memory.peak)


def measured(sizes: Iterable[int]) -> dict[str, Any]:
    """Return everything that tests compare, in one start of the processes."""
    return {"steps": take_steps(), "memory": loss_memory(sizes)}
