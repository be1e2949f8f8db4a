"""Batch norm in train mode needs two values for each channel: what would be alone there.

A field of a sample, such as its sound, is alone where no other sample embedded with it has that field. Where
that is certain (batches of one) the run is refused; where it comes by chance the field is left out of the
step, and counted. Which fields reach a batch norm is found by sending one through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ignite_trainer import random_state
from ignite_trainer.batch import PaddedBatch, PartialBatch, part_of, rebuild, rows_of, values_of, without_row
from ignite_trainer.data import Batch, SplitLoader
from ignite_trainer.distributed import all_say, rank, world_size
from ignite_trainer.errors import ProtocolError, RunFailed
from ignite_trainer.gradient_cache import even_parts, usual_size
from ignite_trainer.parameters import ParameterPlan
from ignite_trainer.precision import autocast
from ignite_trainer.protocol import Setup
from ignite_trainer.self_description import look_at, looked_at
from ignite_trainer.task import EmbeddingTask, Task
from ignite_trainer.unreadable import as_unreadable

_OF_PROBES = (ValueError, RuntimeError, AttributeError, TypeError, LookupError)


class LeftOut(NamedTuple):
    """A field that was left out of a step.

    Attributes:
        field: its name.
        position: of the sample in the data set.
    """

    field: str
    position: int


class Seen(NamedTuple):
    """Batch norms in train mode that a step went through.

    Attributes:
        any: whether there was one.
        alone: the name of one that saw a single value for each channel; None: none did.
    """

    any: bool
    alone: str | None


class Company:
    """Leaves fields out of batches that would be alone in a batch norm in train mode.

    Where several processes share batch norm a field is also left out if some of them have none: they would
    wait for each other.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        setup: Setup,
        *,
        device: torch.device,
        incomplete: bool = False,
        count: Callable[[list[LeftOut], int, int], None] = lambda *_: None,
    ) -> None:
        """Look for fields that are alone in the steps of `task`.

        Args:
            task: the task.
            model: in the modes of training when a batch is looked at.
            setup: of the run.
            device: where the model is.
            incomplete: whether samples may lack fields; the same in all processes, which then tell each
                other in every step what they have.
            count: is told what all processes left out, with epoch and iteration.
        """
        self._task, self._model, self._setup, self._device = task, model, setup, device
        self._incomplete = incomplete and world_size() > 1
        self._synchronised = world_size() > 1 and setup.sync_batch_norm
        self._count = count
        self._seen: dict[str, Seen] = {}

    def keep(self, batch: Batch, *, epoch: int, iteration: int) -> Batch:
        """Return the batch without the fields that are alone.

        Raises:
            RunFailed: its only sample would be left without any.
        """
        parts = parts_of(len(batch.indices), self._setup, self._task)
        fields = _arrays(batch.sample)
        unknown = self._synchronised or not self._may_be_alone(batch.sample, fields, parts)
        if not self._incomplete and unknown:
            return batch
        rows = {name: rows_of(batch.sample[at], len(batch.indices)).tolist() for name, at in fields.items()}
        own = {
            name: [[row for row in rows[name] if part.start <= row < part.stop] for part in parts]
            for name in rows
        }
        counts = [{name: [len(found) for found in own[name]] for name in own}]
        if self._incomplete:
            counts = all_say(counts[0])
        left: list[tuple[str, int]] = []
        for name, by_part in own.items():
            for number, found in enumerate(by_part):
                if self._is_left_out(name, number, counts) and found and self._reaches(batch, name, found[0]):
                    left += [(name, row) for row in found]
        told = [LeftOut(name, int(batch.indices[row])) for name, row in left]
        if self._incomplete:
            told = [one for of_rank in all_say(told) for one in of_rank]
        if told:
            self._count(told, epoch, iteration)
        sample = batch.sample
        for name, row in left:
            changed = list(sample)
            changed[fields[name]] = without_row(changed[fields[name]], row, len(batch.indices))
            sample = rebuild(sample, changed)
        if len(batch.indices) == 1 and left and not _arrays(sample):
            raise RunFailed(
                f"Sample {int(batch.indices[0])} of the training split is the only one of its batch that can "
                "be read, and batch norm in train mode needs two. Mend or remove those that cannot be read, "
                "or raise the batch size with -b."
            )
        return Batch(batch.indices, sample)

    def _may_be_alone(self, sample: Any, fields: dict[str, int], parts: Sequence[slice]) -> bool:
        partial = any(isinstance(sample[at], PartialBatch) for at in fields.values())
        return partial or any(part.stop - part.start == 1 for part in parts)

    def _is_left_out(self, name: str, part: int, counts: Sequence[dict[str, list[int]]]) -> bool:
        """Return whether a part of the batch has too few of a field, over all ranks that share batch norm."""
        if not self._synchronised:
            own = counts[rank() if len(counts) > 1 else 0]
            return own[name][part] == 1
        having = [of_rank.get(name, [])[part : part + 1] or [0] for of_rank in counts]
        numbers = [number for (number,) in having]
        return sum(numbers) == 1 or 0 in numbers

    def _reaches(self, batch: Batch, name: str, row: int) -> bool:
        """Return whether a field meets a batch norm that would see it alone, or keep other ranks waiting."""
        if name not in self._seen:
            one = part_of(batch.sample, slice(row, row + 1))
            self._seen[name] = self._probe(one, name)
        seen = self._seen[name]
        return seen.any if self._synchronised else seen.alone is not None

    def _probe(self, one: Any, name: str) -> Seen:
        """Send one sample through the model, at first without its other fields."""
        fields = _arrays(one)
        alone = [
            None if at in fields.values() and at != fields[name] else field for at, field in enumerate(one)
        ]
        for sample in (rebuild(one, alone), one):
            try:
                return batch_norms_seen(
                    self._task, self._model, sample, setup=self._setup, device=self._device
                )
            except _OF_PROBES:  # a task may need several fields
                continue
        return Seen(any=False, alone=None)


def lacks_fields(dataset: Any) -> bool:
    """Return whether, among the samples looked at, some lack a field that others have."""
    given: set[tuple[int, bool]] = set()
    for index in looked_at(len(dataset)):
        try:
            sample = look_at(dataset, index)
        except Exception as error:
            as_unreadable(error, index)  # raises what says something else
            continue
        given |= {(at, field is not None) for at, field in enumerate(sample)}
    return any((at, False) in given and (at, True) in given for at, _ in given)


def require_company(
    task: Task,
    model: nn.Module,
    plan: ParameterPlan,
    training: SplitLoader,
    setup: Setup,
    *,
    device: torch.device,
) -> None:
    """Refuse steps of which each embeds a sample by itself, where that is too few for batch norm.

    Raises:
        ProtocolError: a batch norm in train mode would see one value for each channel.
    """
    batch = setup.batch_of_all(world_size(), train=True)
    parts = parts_of(batch // world_size(), setup, task)
    smallest = min(part.stop - part.start for part in parts)
    if not setup.epochs or smallest > 1 or (world_size() > 1 and setup.sync_batch_norm):
        return
    modes = {module: module.training for module in model.modules()}
    plan.train_mode(model)
    try:
        for sample in _of_every_field(training):
            seen = batch_norms_seen(task, model, sample, setup=setup, device=device)
            if seen.alone is not None:
                raise ProtocolError(_refusal(setup, seen.alone, parts=len(parts)))
    finally:
        for module, mode in modes.items():
            module.training = mode


def parts_of(samples: int, setup: Setup, task: Task) -> list[slice]:
    """The parts of a process's batch that go through the model together."""
    if isinstance(task, EmbeddingTask) and setup.embeds_in_parts and setup.chunk and samples:
        return even_parts(samples, at_most=setup.chunk, usual=usual_size(setup))
    return [slice(0, samples)]


def batch_norms_seen(
    task: Task, model: nn.Module, sample: Any, *, setup: Setup, device: torch.device
) -> Seen:
    """Find the batch norms in train mode that a sample goes through; the model is not changed.

    Meanwhile they are in eval mode, so that they neither move nor wait for other processes.
    """
    found: dict[str, bool] = {}
    names = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.training
    }

    def note(module: _BatchNorm, given: tuple[Tensor, ...]) -> None:
        values = given[0]
        found[names[module]] = values.numel() == values.shape[1]

    random = random_state.capture()
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        for module in names:
            module.eval()
        with torch.no_grad(), autocast(setup.precision, device), _not_compiled():
            if isinstance(task, EmbeddingTask):
                task.embed(model, sample)
            else:
                task.training_step(model, sample)
    finally:
        for handle in handles:
            handle.remove()
        for module in names:
            module.train()
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        random_state.reinstate(random)
    return Seen(bool(found), next((name for name, alone in found.items() if alone), None))


def _of_every_field(training: SplitLoader) -> Iterator[Any]:
    """Batches of one sample, until every array that samples have was in one of them."""
    known: set[str] = set()
    for index in looked_at(len(training.dataset)):  # type: ignore[arg-type]
        try:
            sample = training.one(index, epoch=0)
        except ProtocolError:  # it cannot be read
            continue
        fields = set(_arrays(sample))
        if not fields <= known:
            known |= fields
            yield sample


def _refusal(setup: Setup, name: str, *, parts: int) -> str:
    what = (
        f"the batch norm {name} is in train mode, and would see one value for each channel, which has no "
        "variance"
    )
    otherwise = 'or keep it as it is: "mode": "eval" in Parameters'
    if parts > 1:
        return f"Setup.chunk is {setup.chunk}, which leaves parts of 1 sample: {what}. Raise it, {otherwise}."
    if setup.batch_train > 1 or world_size() > 1:
        return (
            f"Setup.batch_train is {setup.batch_train}, 1 on a device, and Setup.sync_batch_norm is false: "
            f"{what}. Set it to true, raise the batch size with -b, {otherwise}."
        )
    return f"Setup.batch_train is 1: {what}. Take 2 or more (-b 2), {otherwise}."


def _arrays(sample: Any) -> dict[str, int]:
    """Position of each field of a collated batch that holds arrays, by name."""
    names = getattr(sample, "_fields", range(len(sample)))
    return {
        str(name): at for at, (name, field) in enumerate(zip(names, sample, strict=True)) if _is_array(field)
    }


def _is_array(field: Any) -> bool:
    values = values_of(field)
    return isinstance(values, PaddedBatch) or (isinstance(values, Tensor) and values.dim() > 1)


@contextmanager
def _not_compiled() -> Iterator[None]:
    """A block in which compiled modules run as they are written, with their hooks."""
    with torch.compiler.set_stance("force_eager"):
        yield
