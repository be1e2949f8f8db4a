"""Forward passes of a step: in the protocol's precision, over all processes, and in parts.

```text
rank 0   sample --embed--> embeddings --+             +--compare--> part of the loss --+
                                        |-- share --->|                                |-- sum --> loss
rank 1   sample --embed--> embeddings --+             +--compare--> part of the loss --+
```

With one process, the functions only call the task.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ignite_trainer.api.batch import PartialBatch, field_values, rows_with_field
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.task import EmbeddingTask, StepOutput, Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import Precision, Setup
from ignite_trainer.support import random_state
from ignite_trainer.support.distributed import all_gather, gather_rows, rank, sum_over_all, world_size

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def tf32_setting(precision: Precision) -> Iterator[None]:
    """Allow TensorFloat-32 if and only if `precision` is "tf32".

    This applies to CUDA's matrix products and to cuDNN's convolutions, where torch allows it by default.
    """
    backends: Any = torch.backends  # its annotations lack the newer switches
    switches = (backends.cuda.matmul, backends.cudnn.conv)
    before = [switch.fp32_precision for switch in switches]
    _allow_tf32(precision == "tf32", precision == "tf32")
    try:
        yield
    finally:
        _allow_tf32(*(setting == "tf32" for setting in before))
        for switch, setting in zip(switches, before, strict=True):
            switch.fp32_precision = setting


def _allow_tf32(matrix_products: bool, convolutions: bool) -> None:
    """Set torch's older switches, which also set the newer ones.

    torch raises an error when a setting is read while the older and newer switches disagree.
    """
    torch.backends.cuda.matmul.allow_tf32 = matrix_products
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run in the protocol's precision; parameters stay float32."""
    with torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST):
        yield


@contextlib.contextmanager
def task_streams(task: Task, random: SampleRandom | None) -> Iterator[None]:
    """Set `Task.random` to a copy of these streams."""
    if random is not None:
        task.random = random.select(torch.arange(len(random)))
    try:
        yield
    finally:
        task.random = None


class JointResult(NamedTuple):
    """The result of a step over the global batch.

    Attributes:
        output: output as if a single process had taken the step; None if no process has a sample.
        batch: samples of all processes, in rank order; list and numeric fields are complete. An array field
            becomes a `PartialBatch` that has no values and only records which samples have the field. With
            one process, this is its batch, unchanged.
    """

    output: StepOutput | None
    batch: Batch


def training_step(task: Task, model: nn.Module, batch: Batch) -> JointResult:
    """Take a training step; the caller must average the gradients of its loss over the processes."""
    if world_size() > 1 and isinstance(task, EmbeddingTask):
        with task_streams(task, batch.random):
            embeddings = {**task.embed(model, batch.sample), **task.embed_targets(model, batch.sample)}
        return comparison(task, model, embeddings, batch)
    with task_streams(task, batch.random):
        output = task.training_step(model, batch.sample)
    if world_size() == 1:
        return JointResult(output, batch)
    whole, tensors, _ = _share(batch, {"y_pred": output.y_pred.detach(), "y": output.y}, output.y_pred.device)
    return JointResult(
        StepOutput(tensors["y_pred"], tensors["y"], _mean_loss(output.loss, batch, whole)), whole
    )


def comparison(
    task: EmbeddingTask, model: nn.Module, embeddings: Mapping[str, Tensor], batch: Batch
) -> JointResult:
    """Compare the embeddings of all processes; each process computes its part if the task can divide it."""
    if world_size() == 1:
        return JointResult(task.compare(model, embeddings, batch.sample), batch)
    device = next((values.device for values in embeddings.values()), torch.device("cpu"))
    whole, embeddings, own = _share(batch, embeddings, device)
    part = task.compare_part(model, embeddings, whole.sample, own)
    if part is None:
        return JointResult(task.compare(model, embeddings, whole.sample), whole)
    if task.scores_are_read:
        with torch.no_grad():
            counts = all_gather(len(part.y_pred))
            part = part._replace(y_pred=gather_rows(part.y_pred, counts), y=gather_rows(part.y, counts))
    return JointResult(part._replace(loss=None if part.loss is None else sum_over_all(part.loss)), whole)


def evaluation_step(task: Task, model: nn.Module, batch: Batch, *, device: torch.device) -> JointResult:
    """Take an evaluation step; with several processes its output has no loss."""
    output = None if batch.sample is None else task.evaluation_step(model, batch.sample)
    if world_size() == 1:
        return JointResult(output, batch)
    tensors: dict[str, Tensor] = {}
    if output:
        tensors = {"y_pred": output.y_pred, "y": output.y}
        tensors |= {f"feature {name}": values for name, values in (output.features or {}).items()}
        tensors |= {f"count {name}": values for name, values in (output.counts or {}).items()}
    whole, tensors, _ = _share(batch, tensors, device)
    if not tensors:
        return JointResult(None, whole)
    scores, targets = tensors.pop("y_pred"), tensors.pop("y")
    features, counts = (
        {name.removeprefix(kind): values for name, values in tensors.items() if name.startswith(kind)}
        for kind in ("feature ", "count ")
    )
    return JointResult(StepOutput(scores, targets, features=features or None, counts=counts or None), whole)


def _mean_loss(loss: Tensor | None, batch: Batch, whole: Batch) -> Tensor | None:
    """Convert the mean loss over the samples of this process to the mean over the samples of all processes.

    The result's gradient is this process's contribution times the number of processes; averaging over the
    processes then gives the gradient of the mean over all samples.
    """
    if loss is None:
        return None
    part = loss * (len(batch.indices) * world_size() / len(whole.indices))
    return part + (sum_over_all(part.detach()) / world_size() - part.detach())


class _EmbeddedPart(NamedTuple):
    """A part of a batch, the random state before embedding, and the rows of its embeddings."""

    batch: Batch
    random: dict[str, Any]
    rows: dict[str, slice]


@dataclass(eq=False)
class GradientCache:
    """Training steps that embed a batch in parts; only the activations of one part are in memory at a time.

    ```text
    1  embed       part by part, without gradients     -> embeddings of the whole batch
    2  compare     with gradients                      -> loss, and its gradients w.r.t. the embeddings
    3  embed       part by part, with gradients;       -> gradients w.r.t. the parameters
                   a part's backward pass starts from the gradients w.r.t. its embeddings
    ```

    Loss and gradients equal those of the whole batch up to rounding, except with batch norm in train mode,
    which normalises each part separately and updates its running statistics once per part. Both passes
    through a part draw the same random numbers and start from the same buffers; after a step, random state
    and buffers are the same as after a single pass. The caller runs the loss's backward pass between
    `forward` and `backward`.

    `setup.chunk` is the maximum size of a part.

    Source: Gao et al., arXiv 2101.06983. The method costs one additional forward pass.
    """

    task: EmbeddingTask
    model: nn.Module
    setup: Setup
    device: torch.device
    _parts: list[_EmbeddedPart] = field(init=False, default_factory=list)
    _embeddings: dict[str, Tensor] = field(init=False, default_factory=dict)
    _buffers: list[Tensor] = field(init=False, default_factory=list)

    def forward(self, batch: Batch) -> JointResult:
        """Return the result of the step; its loss is differentiable."""
        self._buffers = self._copied_buffers()
        self._parts, self._embeddings = [], {}
        embedded: dict[str, list[Tensor]] = {}
        targets: dict[str, list[Tensor]] = {}
        for place in parts_of(len(batch.indices), self.setup, self.task):
            part, random = batch.part(place), random_state.capture()
            # An autocast block caches 16-bit copies of the parameters. The copies made here have no gradient,
            # so each pass needs a separate block.
            with torch.no_grad():
                embeddings = self._embed(part)
                with task_streams(self.task, part.random), autocast(self.setup.precision, self.device):
                    found = self.task.embed_targets(self.model, part.sample)
                for name, values in found.items():
                    targets.setdefault(name, []).append(values)
            rows = {}
            for name, values in embeddings.items():
                before = sum(map(len, embedded.setdefault(name, [])))
                rows[name] = slice(before, before + len(values))
                embedded[name].append(values)
            self._parts.append(_EmbeddedPart(part, random, rows))
        self._embeddings = {
            name: torch.cat(values).requires_grad_(values[0].is_floating_point())
            for name, values in embedded.items()
        }
        with autocast(self.setup.precision, self.device):
            whole = self._embeddings | {name: torch.cat(values) for name, values in targets.items()}
            return comparison(self.task, self.model, whole, batch)

    def backward(self) -> None:
        """Backpropagate from the embeddings' gradients to the parameters."""
        gradients = {
            name: values.grad for name, values in self._embeddings.items() if values.grad is not None
        }
        parts, self._parts, self._embeddings = self._parts, [], {}
        if not gradients:
            return
        random, buffers = random_state.capture(), self._copied_buffers()
        self._put_buffers(self._buffers)
        for part in parts:
            random_state.reinstate(part.random)
            embeddings = self._embed(part.batch)
            learned = [name for name in gradients if name in embeddings and embeddings[name].requires_grad]
            if learned:
                with record_function("step/backward"):
                    torch.autograd.backward(
                        [embeddings[name] for name in learned],
                        [gradients[name][part.rows[name]] for name in learned],
                    )
        random_state.reinstate(random)
        self._put_buffers(buffers)

    def _embed(self, part: Batch) -> Mapping[str, Tensor]:
        with task_streams(self.task, part.random), autocast(self.setup.precision, self.device):
            return self.task.embed(self.model, part.sample)

    def _moving_buffers(self) -> list[Tensor]:
        """List the buffers of modules in train mode, mostly running statistics."""
        training = (module for module in self.model.modules() if module.training)
        return [buffer for module in training for buffer in module.buffers(recurse=False)]

    def _copied_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._moving_buffers()]

    @torch.no_grad()
    def _put_buffers(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self._moving_buffers(), values, strict=True):
            buffer.copy_(value)


def parts_of(samples: int, setup: Setup, task: Task) -> list[slice]:
    """Divide a process's batch into parts; the samples of a part go through the model together.

    Part sizes differ by at most one sample, so that batch norm never gets a tiny last part. Processes may
    wait for each other in each part, so every process uses the same number of parts, computed from the usual
    batch size. A batch with fewer samples than that is divided into one part per sample.
    """
    count = 1
    if isinstance(task, EmbeddingTask) and setup.chunk:
        usual = math.ceil(setup.batch_of_all(world_size(), train=True) / world_size())
        count = max(1, min(samples, math.ceil(max(usual, samples) / setup.chunk)))
    ends = [samples * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


class _Field(NamedTuple):
    """A process's description of a field of its samples."""

    form: str  # "none", "list", "numbers" (a tensor [n]) or "array"
    rows: list[int]
    values: list[Any]  # empty unless `form` is "list"


class _Share(NamedTuple):
    """A process's description of its share of the global batch."""

    indices: list[int]
    make: Callable[[list[Any]], Any] | None
    fields: list[_Field]
    tensors: dict[str, tuple[int, tuple[int, ...], torch.dtype, bool]]
    """Number, shape and dtype of the rows, and whether they require gradients."""


def _share(
    batch: Batch, tensors: Mapping[str, Tensor], device: torch.device
) -> tuple[Batch, dict[str, Tensor], slice]:
    """Gather the samples and tensor rows of all processes; gradients flow back through the gathered rows.

    Also returns the rows of this process's samples. Tensor rows are gathered on `device`, as a process
    without rows cannot know the device of the others' rows.
    """
    sample = batch.sample
    fields = [] if sample is None else [_describe(field, len(batch.indices)) for field in sample]
    numbers = {
        f"field {at}": field_values(sample[at]) for at, field in enumerate(fields) if field.form == "numbers"
    }
    own = {**tensors, **numbers}
    shares = all_gather(
        _Share(
            indices=batch.indices.tolist(),
            make=None if sample is None else getattr(type(sample), "_make", type(sample)),
            fields=fields,
            tensors={
                name: (len(rows), tuple(rows.shape[1:]), rows.dtype, rows.requires_grad)
                for name, rows in own.items()
            },
        )
    )
    gathered: dict[str, Tensor] = {}
    for name in sorted({name for share in shares for name in share.tensors}):
        _, shape, dtype, learned = next(share.tensors[name] for share in shares if name in share.tensors)
        rows = own[name] if name in own else torch.zeros((0, *shape), dtype=dtype, requires_grad=learned)
        gathered[name] = gather_rows(rows.to(device), [share.tensors.get(name, (0,))[0] for share in shares])
    indices = torch.tensor([index for share in shares for index in share.indices], dtype=torch.int64)
    first = sum(len(share.indices) for share in shares[: rank()])
    own_rows = slice(first, first + len(batch.indices))
    make = next((share.make for share in shares if share.make), None)
    if make is None:
        return Batch(indices, None), gathered, own_rows
    count = max(len(share.fields) for share in shares)
    joined = make([_join(shares, at, gathered.pop(f"field {at}", None)) for at in range(count)])
    return Batch(indices, joined), gathered, own_rows


def _describe(field: Any, count: int) -> _Field:
    rows, values = rows_with_field(field, count).tolist(), field_values(field)
    if values is None:
        return _Field("none", [], [])
    if isinstance(values, list):
        return _Field("list", rows, values)
    return _Field("numbers" if isinstance(values, Tensor) and values.dim() == 1 else "array", rows, [])


def _join(shares: list[_Share], at: int, numbers: Tensor | None) -> Any:
    """Join a field of all processes' samples; `numbers` holds its values if the field is numeric."""
    fields = [share.fields[at] if share.fields else _Field("none", [], []) for share in shares]
    forms = {field.form for field in fields} - {"none"}
    if not forms:
        return None
    first = 0
    rows: list[int] = []
    for share, described in zip(shares, fields, strict=True):
        rows += [first + row for row in described.rows]
        first += len(share.indices)
    values: Any = numbers if forms == {"numbers"} else None
    if forms == {"list"}:
        values = [value for described in fields for value in described.values]
    if values is not None and len(rows) == first:
        return values
    return PartialBatch(torch.tensor(rows), values)
