"""Steps that several processes take together: each works on its part of a batch, all get what one would get.

```text
rank 0   sample --embed--> embeddings --+                +--compare--> the loss of the whole batch
                                        |-- share ------>|
rank 1   sample --embed--> embeddings --+                +--compare--> the same
```

With one process the functions here call the task, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ignite_trainer.api.batch import PartialBatch, rows_of, values_of
from ignite_trainer.api.task import EmbeddingTask, StepOutput, Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.support.distributed import all_say, gather_rows, rank, sum_over_all, world_size


class Joint(NamedTuple):
    """What a step gives of the batch of all processes.

    Attributes:
        output: as if one process had taken the step; None if no process has a sample.
        batch: its samples, by rank; of their fields lists and numbers are there, and of arrays it is only
            said who has one: a `PartialBatch` without values. With one process it is the batch as it is.
    """

    output: StepOutput | None
    batch: Batch


def training_step(task: Task, model: nn.Module, batch: Batch) -> Joint:
    """Take a training step; the gradient of its loss is to be averaged over the processes."""
    if world_size() == 1:
        return Joint(task.training_step(model, batch.sample), batch)
    if isinstance(task, EmbeddingTask):
        return comparison(task, model, task.embed(model, batch.sample), batch)
    output = task.training_step(model, batch.sample)
    whole, tensors = _share(batch, {"y_pred": output.y_pred.detach(), "y": output.y}, output.y_pred.device)
    return Joint(StepOutput(tensors["y_pred"], tensors["y"], _mean_loss(output.loss, batch, whole)), whole)


def comparison(
    task: EmbeddingTask, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Batch
) -> Joint:
    """Compare embeddings, with those of all processes."""
    if world_size() == 1:
        return Joint(task.compare(model, embeddings, batch.sample), batch)
    device = next((values.device for values in embeddings.values()), torch.device("cpu"))
    whole, embeddings = _share(batch, embeddings, device)
    return Joint(task.compare(model, embeddings, whole.sample), whole)


def evaluation_step(task: Task, model: nn.Module, batch: Batch, *, device: torch.device) -> Joint:
    """Take an evaluation step; of a loss there is no need."""
    output = None if batch.sample is None else task.evaluation_step(model, batch.sample)
    if world_size() == 1:
        return Joint(output, batch)
    features = output.features if output and output.features else {}
    tensors = {f"feature {name}": values for name, values in features.items()}
    if output:
        tensors |= {"y_pred": output.y_pred, "y": output.y}
    whole, tensors = _share(batch, tensors, device)
    if "y_pred" not in tensors:
        return Joint(None, whole)
    features = {
        name.removeprefix("feature "): values
        for name, values in tensors.items()
        if name.startswith("feature ")
    }
    return Joint(StepOutput(tensors["y_pred"], tensors["y"], features=features or None), whole)


def _mean_loss(loss: Tensor | None, batch: Batch, whole: Batch) -> Tensor | None:
    """The mean over all samples of a loss that is the mean over those of this process.

    Its gradient is this process's part times their number, so that the mean over the processes is right.
    """
    if loss is None:
        return None
    part = loss * (len(batch.indices) * world_size() / len(whole.indices))
    return part + (sum_over_all(part.detach()) / world_size() - part.detach())


class _Field(NamedTuple):
    """What a process says of a field of its samples."""

    form: str  # "none", "list", "numbers" (a tensor [n]) or "array"
    rows: list[int]
    values: Any = None  # those of a list, the type of numbers


class _Part(NamedTuple):
    """What a process says of its part of a batch."""

    indices: list[int]
    make: Callable[[list[Any]], Any] | None
    fields: list[_Field]
    tensors: dict[str, tuple[int, tuple[int, ...], torch.dtype]]


def _share(
    batch: Batch, tensors: Mapping[str, Tensor], device: torch.device
) -> tuple[Batch, dict[str, Tensor]]:
    """Put the samples of all processes together, and the rows of their tensors, which keep their gradient.

    Rows are gathered on `device`: a process without rows cannot know where the others' are.
    """
    sample, count = batch.sample, len(batch.indices)
    parts = all_say(
        _Part(
            indices=batch.indices.tolist(),
            make=None if sample is None else getattr(type(sample), "_make", type(sample)),
            fields=[] if sample is None else [_field(field, count) for field in sample],
            tensors={name: (len(rows), tuple(rows.shape[1:]), rows.dtype) for name, rows in tensors.items()},
        )
    )
    gathered: dict[str, Tensor] = {}
    for name in sorted({name for part in parts for name in part.tensors}):
        shape, kind = next(part.tensors[name][1:] for part in parts if name in part.tensors)
        rows = tensors[name] if name in tensors else torch.zeros((0, *shape), dtype=kind)
        gathered[name] = gather_rows(rows.to(device), [part.tensors.get(name, (0,))[0] for part in parts])
    indices = torch.tensor([index for part in parts for index in part.indices], dtype=torch.int64)
    make = next((part.make for part in parts if part.make), None)
    if make is None:
        return Batch(indices, None), gathered
    own = list(sample) if sample is not None else []
    fields = [
        _join(parts, number, own[number] if own else None, device)
        for number in range(max(len(part.fields) for part in parts))
    ]
    return Batch(indices, make(fields)), gathered


def _field(field: Any, count: int) -> _Field:
    rows, values = rows_of(field, count).tolist(), values_of(field)
    if values is None:
        return _Field("none", [])
    if isinstance(values, list):
        return _Field("list", rows, values)
    if isinstance(values, Tensor) and values.dim() == 1:
        return _Field("numbers", rows, values.dtype)
    return _Field("array", rows)


def _join(parts: list[_Part], number: int, own: Any, device: torch.device) -> Any:
    """One field of the batch of all processes."""
    said = [part.fields[number] if part.fields else _Field("none", []) for part in parts]
    forms = {field.form for field in said} - {"none"}
    if not forms:
        return None
    first = 0
    rows: list[int] = []
    for part, field in zip(parts, said, strict=True):
        rows += [first + row for row in field.rows]
        first += len(part.indices)
    values: Any = None
    if forms == {"list"}:
        values = [value for field in said for value in field.values or ()]
    elif forms == {"numbers"}:
        mine = values_of(own)
        if said[rank()].form == "none":
            kind = next(field.values for field in said if field.form == "numbers")
            mine = torch.zeros(0, dtype=kind)
        values = gather_rows(mine.to(device), [len(field.rows) for field in said])
    if values is not None and len(rows) == first:
        return values
    return PartialBatch(torch.tensor(rows), values)
