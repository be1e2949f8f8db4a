"""Protects batch norm in train mode, which needs at least two values per channel, from single values.

A batch size of 1 is refused before training. If, for example, only one sample of a batch has a sound, and a
batch norm refuses it, the step is repeated without the sound, and the dropped sound is counted.

Synchronised batch norm makes the processes wait for each other in each layer, which would never end if their
samples had different fields. In such steps, each process uses its own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ignite_trainer.api.batch import PartialBatch, field_values, rebuild, rows_with_field, slice_batch
from ignite_trainer.api.self_description import samples_to_check
from ignite_trainer.api.task import EmbeddingTask, Task
from ignite_trainer.data.loader import Batch, SplitLoader
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support import random_state
from ignite_trainer.support.distributed import all_gather, world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed, SampleUnreadable
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.training.batch_norm import SynchronisedBatchNorm
from ignite_trainer.training.forward import JointResult, autocast, parts_of
from ignite_trainer.training.parameters import ParameterPlan


class DroppedField(NamedTuple):
    """A field of one sample that was dropped from a step.

    Attributes:
        field: name of the field.
        position: position of the sample in the data set.
        epoch: epoch of the step, from 1.
        iteration: number of the step since the start of training, from 1.
    """

    field: str
    position: int
    epoch: int
    iteration: int


@dataclass(eq=False)
class LoneSamples:
    """Runs the forward pass of training steps, without fields of single samples that batch norm refuses.

    Attributes:
        record_dropped: callback with the fields that this process dropped from a step.
        record_unsynchronised: callback with the epoch and iteration of a step without synchronised batch
            norm.
    """

    task: Task
    model: nn.Module
    setup: Setup
    record_dropped: Callable[[list[DroppedField]], None] = lambda _: None
    record_unsynchronised: Callable[[int, int], None] = lambda *_: None

    def __post_init__(self) -> None:
        self._shared = [
            module for module in self.model.modules() if isinstance(module, SynchronisedBatchNorm)
        ]

    def take(
        self, batch: Batch, forward: Callable[[Batch], JointResult], *, epoch: int, iteration: int
    ) -> JointResult:
        """Run `forward` on the batch, without any fields that batch norm refuses, and return its result.

        The random state and the buffers end up as after a single pass.

        Raises:
            RunFailed: Nothing is left to train on.
        """
        parts = parts_of(len(batch.indices), self.setup, self.task)
        if any(norm.training for norm in self._shared):  # there are several processes
            fields = [[field is not None for field in slice_batch(batch.sample, part)] for part in parts]
            same = all(others == fields for others in all_gather(fields))
            for norm in self._shared:
                norm.synchronised = same
            if not same:
                self.record_unsynchronised(epoch, iteration)
        lone = _lone_rows(batch, parts)
        if not lone:
            return forward(batch)
        restore = _snapshot(self.model)
        for names in dict.fromkeys([(), *((name,) for name in lone), tuple(lone)]):
            reduced = _without(batch, {name: lone[name] for name in names})
            try:
                joint = forward(reduced)
            except Exception as error:
                if _is_refusal(error):
                    restore()
                    continue
                if _arrays(reduced.sample) or is_out_of_memory(error):
                    raise
                raise _nothing_left(batch) from error
            if names:
                dropped = [(name, int(batch.indices[row])) for name in names for row in lone[name]]
                self.record_dropped([DroppedField(*each, epoch, iteration) for each in dropped])
            return joint
        raise _nothing_left(batch)


def refuse_single_values(
    task: Task,
    model: nn.Module,
    plan: ParameterPlan,
    training: SplitLoader,
    setup: Setup,
    *,
    device: torch.device,
) -> None:
    """Refuse a setup whose training steps would pass a single sample to a batch norm in train mode.

    Raises:
        ProtocolError: A batch norm in train mode would see a single value per channel.
    """
    parts = parts_of(setup.batch_of_all(world_size(), train=True) // world_size(), setup, task)
    smallest = min(part.stop - part.start for part in parts)
    if not setup.epochs or smallest > 1 or (world_size() > 1 and setup.sync_batch_norm):
        return
    known: set[str] = set()
    entered: list[nn.Module] = []
    restore = _snapshot(model)
    plan.train_mode(model)
    hook = register_module_forward_pre_hook(lambda module, _: entered.append(module))
    try:
        for index in samples_to_check(len(training.dataset)):  # type: ignore[arg-type]
            try:
                sample = training.one(index, epoch=0)
            except SampleUnreadable:
                continue
            if _arrays(sample).keys() <= known:
                continue
            known |= _arrays(sample).keys()
            entered.clear()
            with torch.no_grad(), autocast(setup.precision, device), torch.compiler.set_stance("force_eager"):
                step = task.embed if isinstance(task, EmbeddingTask) else task.training_step
                step(model, sample)
    except (ValueError, RuntimeError) as error:
        if not _is_refusal(error):
            raise
        name = next((name for name, module in model.named_modules() if module in entered[-1:]), "")
        raise ProtocolError(_refusal(setup, name, parts=len(parts))) from None
    finally:
        hook.remove()
        restore()


def _lone_rows(batch: Batch, parts: Sequence[slice]) -> dict[str, list[int]]:
    """Return, for each array field, the rows that alone have the field in their part of the batch."""
    found: dict[str, list[int]] = {}
    for name, at in _arrays(batch.sample).items():
        rows = rows_with_field(batch.sample[at], len(batch.indices)).tolist()
        by_part = [[row for row in rows if part.start <= row < part.stop] for part in parts]
        lone = [rows_of_part[0] for rows_of_part in by_part if len(rows_of_part) == 1]
        if lone:
            found[name] = lone
    return found


def _without(batch: Batch, rows: dict[str, list[int]]) -> Batch:
    fields, positions = list(batch.sample), _arrays(batch.sample)
    for name, lone in rows.items():
        field = fields[positions[name]]
        owners, values = rows_with_field(field, len(batch.indices)), field_values(field)
        kept = ~torch.isin(owners, torch.tensor(lone))
        reduced = PartialBatch(owners[kept], values[kept.to(values.device)]) if kept.any() else None
        fields[positions[name]] = reduced
    return batch._replace(sample=rebuild(batch.sample, fields))


def _arrays(sample: Any) -> dict[str, int]:
    """Return the positions of a collated batch's array fields, by name."""
    names = getattr(sample, "_fields", range(len(sample)))
    values = [field_values(field) for field in sample]
    return {
        str(name): position
        for position, (name, value) in enumerate(zip(names, values, strict=True))
        if isinstance(value, Tensor) and value.dim() > 1
    }


def _is_refusal(error: Exception) -> bool:
    """Return whether torch's batch norm refused a single value; a compiled module raises a RuntimeError."""
    return isinstance(error, ValueError | RuntimeError) and "Expected more than 1 value per" in str(error)


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """Copy a model's buffers and modes and the random state; return a function that restores them."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    random = random_state.capture()

    @torch.no_grad()
    def restore() -> None:
        for module, mode in modes:
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)
        random_state.reinstate(random)

    return restore


def _nothing_left(batch: Batch) -> RunFailed:
    return RunFailed(
        f"Nothing is left to train on in the batch with sample {int(batch.indices[0])} of the training "
        "split: batch norm in train mode needs at least two values per channel. Repair or remove unreadable "
        "samples, or raise the batch size with -b. The results of finished epochs are kept."
    )


def _refusal(setup: Setup, norm: str, *, parts: int) -> str:
    why = (
        f"the batch norm {norm} is in train mode and would see a single value per channel, which has no "
        "variance"
    )
    otherwise = 'or freeze the batch norm\'s statistics with "mode": "eval" in Parameters'
    if parts > 1:
        return (
            f"Setup.chunk is {setup.chunk}, which leaves chunks of 1 sample: {why}. Raise Setup.chunk, "
            f"{otherwise}."
        )
    if setup.batch_train > 1 or world_size() > 1:
        return (
            f"Setup.batch_train is {setup.batch_train}, 1 per process, and Setup.sync_batch_norm is false: "
            f"{why}. Set Setup.sync_batch_norm to true, raise the batch size with -b, {otherwise}."
        )
    return f"Setup.batch_train is 1: {why}. Use 2 or more (-b 2), {otherwise}."
