"""Steps that batch norm in train mode cannot take: single values, and processes that wait for each other.

Batch norm needs two values for each channel. Batches of one sample are refused before a run. Where only one
sample of a batch has a sound, say, the step is repeated without the sound if a batch norm refuses it, and the
sound is counted.

Processes that share batch norm wait for each other in each layer. Where their samples have different fields,
each takes the step with batch norm of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ignite_trainer import random_state
from ignite_trainer.batch import PaddedBatch, part_of, rebuild, rows_of, values_of, without_row
from ignite_trainer.batch_norm import SynchronisedBatchNorm
from ignite_trainer.data import Batch, SplitLoader
from ignite_trainer.distributed import all_say, world_size
from ignite_trainer.errors import ProtocolError, RunFailed
from ignite_trainer.gradient_cache import even_parts, usual_size
from ignite_trainer.joint_steps import Joint
from ignite_trainer.memory import is_out_of_memory
from ignite_trainer.parameters import ParameterPlan
from ignite_trainer.precision import autocast
from ignite_trainer.protocol import Setup
from ignite_trainer.self_description import looked_at
from ignite_trainer.task import EmbeddingTask, Task

_REFUSAL_OF_TORCH = "Expected more than 1 value per channel"


class LeftOut(NamedTuple):
    """A field that was left out of a step.

    Attributes:
        field: its name.
        position: index of the sample in the data set.
        epoch: from 1.
        iteration: since the start of training, from 1.
    """

    field: str
    position: int
    epoch: int
    iteration: int


class Company:
    """Takes the forward pass of training steps, without fields that are alone in a batch norm in train mode.

    Args:
        task: the task.
        model: the model.
        setup: the `Setup` of the run.
        left_out: called with the fields that this process left out of a step.
        unsynchronised: called with epoch and iteration of a step in which batch norm is not shared.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        setup: Setup,
        *,
        left_out: Callable[[list[LeftOut]], None] = lambda _: None,
        unsynchronised: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._task = task
        self._model = model
        self._setup = setup
        self._left_out = left_out
        self._unsynchronised = unsynchronised
        self._shared = [module for module in model.modules() if isinstance(module, SynchronisedBatchNorm)]

    def take(self, batch: Batch, forward: Callable[[Batch], Joint], *, epoch: int, iteration: int) -> Joint:
        """Return what `forward` gives for a batch, or for the batch without fields that are alone.

        Random numbers and buffers are as after a single pass.

        Raises:
            RunFailed: nothing is left to train on.
        """
        parts = parts_of(len(batch.indices), self._setup, self._task)
        if world_size() > 1 and any(norm.training for norm in self._shared):
            self._agree(batch, parts, epoch, iteration)
        lone = lone_rows(batch, parts)
        if not lone:
            return forward(batch)
        restore = _snapshot(self._model)
        for names in dict.fromkeys([(), *((name,) for name in lone), tuple(lone)]):
            fewer = _without(batch, {name: lone[name] for name in names})
            try:
                joint = forward(fewer)
            except Exception as error:
                if not _is_refusal(error):
                    if _arrays(fewer.sample) or is_out_of_memory(error):
                        raise
                    raise self._nothing_left(batch) from error
            else:
                left = [(name, row) for name in names for row in lone[name]]
                told = [LeftOut(name, int(batch.indices[row]), epoch, iteration) for name, row in left]
                if told:
                    self._left_out(told)
                return joint
            restore()
        raise self._nothing_left(batch)

    def _agree(self, batch: Batch, parts: Sequence[slice], epoch: int, iteration: int) -> None:
        """Share batch norm in this step only if every part has the same fields in all processes."""
        own = [[field is not None for field in part_of(batch.sample, part)] for part in parts]
        same = all(other == own for other in all_say(own))
        for norm in self._shared:
            norm.synchronised = same
        if not same:
            self._unsynchronised(epoch, iteration)

    def _nothing_left(self, batch: Batch) -> RunFailed:
        return RunFailed(
            f"Batch norm in train mode needs two values for each channel, and of the batch with sample "
            f"{int(batch.indices[0])} of the training split nothing else can be trained on. Repair or remove "
            "samples that cannot be read, or raise the batch size with -b. What finished epochs reached is "
            "kept."
        )


def require_company(
    task: Task,
    model: nn.Module,
    plan: ParameterPlan,
    training: SplitLoader,
    setup: Setup,
    *,
    device: torch.device,
) -> None:
    """Refuse steps that embed each sample by itself where that is too few for batch norm.

    Raises:
        ProtocolError: a batch norm in train mode would see one value for each channel.
    """
    batch = setup.batch_of_all(world_size(), train=True)
    parts = parts_of(batch // world_size(), setup, task)
    smallest = min(part.stop - part.start for part in parts)
    if not setup.epochs or smallest > 1 or (world_size() > 1 and setup.sync_batch_norm):
        return
    restore = _snapshot(model)
    plan.train_mode(model)
    try:
        for sample in _of_every_field(training):
            with torch.no_grad(), autocast(setup.precision, device):
                name = _norm_with_one_value(task, model, sample)
            if name is not None:
                raise ProtocolError(_refusal(setup, name, parts=len(parts)))
    finally:
        restore()


def parts_of(samples: int, setup: Setup, task: Task) -> list[slice]:
    """List the parts of a process's batch that go through the model together."""
    if isinstance(task, EmbeddingTask) and setup.embeds_in_parts and setup.chunk and samples:
        return even_parts(samples, at_most=setup.chunk, usual=usual_size(setup))
    return [slice(0, samples)]


def lone_rows(batch: Batch, parts: Sequence[slice]) -> dict[str, list[int]]:
    """Return, for each array field, the rows that are the only ones to have it in their part of the batch."""
    found: dict[str, list[int]] = {}
    for name, at in _arrays(batch.sample).items():
        rows = rows_of(batch.sample[at], len(batch.indices)).tolist()
        of_parts = [[row for row in rows if part.start <= row < part.stop] for part in parts]
        lone = [row for inside in of_parts if len(inside) == 1 for row in inside]
        if lone:
            found[name] = lone
    return found


def _without(batch: Batch, rows: dict[str, list[int]]) -> Batch:
    fields, at = list(batch.sample), _arrays(batch.sample)
    for name, of_field in rows.items():
        for row in of_field:
            fields[at[name]] = without_row(fields[at[name]], row, len(batch.indices))
    return Batch(batch.indices, rebuild(batch.sample, fields))


def _is_refusal(error: Exception) -> bool:
    """Return whether torch's batch norm refuses a single value; a compiled module raises a RuntimeError."""
    return isinstance(error, ValueError | RuntimeError) and _REFUSAL_OF_TORCH in str(error)


def _norm_with_one_value(task: Task, model: nn.Module, sample: Any) -> str | None:
    """Name the batch norm that refuses a batch, or return None."""
    entered: list[str] = []
    with ExitStack() as hooks, torch.compiler.set_stance("force_eager"):
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                hook = module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
                hooks.callback(hook.remove)
        try:
            if isinstance(task, EmbeddingTask):
                task.embed(model, sample)
            else:
                task.training_step(model, sample)
        except (ValueError, RuntimeError) as error:
            if not _is_refusal(error):
                raise
            return entered[-1] if entered else ""
    return None


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """Snapshot a model's buffers and modes and the random state; return a function that restores them."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    random = random_state.capture()

    @torch.no_grad()
    def restore() -> None:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)
        random_state.reinstate(random)

    return restore


def _of_every_field(training: SplitLoader) -> Iterator[Any]:
    """Yield batches of one sample until every field with arrays was in one of them."""
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
    """Return the positions of the fields of a collated batch that hold arrays, by name."""
    names = getattr(sample, "_fields", range(len(sample)))
    return {
        str(name): at for at, (name, field) in enumerate(zip(names, sample, strict=True)) if _is_array(field)
    }


def _is_array(field: Any) -> bool:
    values = values_of(field)
    return isinstance(values, PaddedBatch) or (isinstance(values, Tensor) and values.dim() > 1)
