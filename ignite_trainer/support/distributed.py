"""Communication between the processes that train one model.

torchrun (or any launcher that sets its variables) starts one process per device. Each process embeds its part
of a batch. Then all processes gather all embeddings, and each computes either its part of the loss or, like
all others, the loss of the global batch.

Gradients. The loss L is the sum of the parts L_r of W processes. `sum_over_all` returns L, and its backward
pass gives L_r the gradient W. The backward pass of `gather_rows` sums the gradients of each row over all
processes, which yields W dL/d(row) in the process that owns the row, and `average_gradients` divides by W.
Parameters that the rows depend on therefore receive the sum over all rows of dL/d(row) d(row)/d(parameter),
as in a single process. Parameters of the loss itself, such as a scale, receive the sum of dL_r/d(parameter).
If each process computes all of L instead, the W equal gradients of a row have the same sum. torch's
DistributedDataParallel expects one forward pass through one module, but a step calls several methods of a
model, or one method several times.

Control messages (lists, flags, sizes) and CPU tensors, which NCCL does not support, use gloo, so no device
waits for them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.nn.functional import all_reduce
from torch.distributed.rendezvous import rendezvous

from ignite_trainer.support.errors import ProtocolError

T = TypeVar("T")

_CONTROL_TIMEOUT = timedelta(hours=12)
"""Timeout for control messages: a process may be decoding a data set. gloo detects dead processes."""

_DEVICE_TIMEOUT = timedelta(minutes=10)
"""Timeout for NCCL, which does not detect dead processes; long waits use control messages."""

_PARTING_TIMEOUT = timedelta(seconds=30)

_BUCKET_BYTES = 64 * 2**20


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if _is_distributed() else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints."""
    return rank() == 0


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the process group if torchrun started several processes, and destroy it at the end.

    After an error, the group is not destroyed, because NCCL would wait for other processes, which may be
    waiting for this process. This process must then exit, and torchrun ends the others.

    Raises:
        ProtocolError: This machine has fewer GPUs than processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _is_distributed():
        yield
        return
    import ignite.distributed as idist  # noqa: PLC0415 - slow to import, and data sets import this module

    on_cuda = torch.cuda.is_available()
    # torchrun keeps its store when it restarts processes; the prefix hides addresses of dead processes.
    found, number, count = next(rendezvous("env://", timeout=_CONTROL_TIMEOUT))
    store = PrefixStore(f"start {restarts()}", found)
    _STORE.append(store)
    dist.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=number,
        world_size=count,
        timeout=_DEVICE_TIMEOUT if on_cuda else _CONTROL_TIMEOUT,
    )
    if on_cuda:
        _take_device()
    _control()  # a collective call: all processes create the group here
    idist.sync()
    yield
    _CONTROL.clear()
    _STORE.clear()
    idist.finalize()


def _take_device() -> None:
    """Select a different GPU in each process on this machine."""
    processes, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if devices < processes:
        gpus = "GPU" if devices == 1 else "GPUs"
        raise ProtocolError(
            f"{processes} processes on this machine, {devices} {gpus}: start torchrun with "
            f"--nproc-per-node {devices}, or hide the {gpus} with CUDA_VISIBLE_DEVICES=''."
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def restarts() -> int:
    """Return how many times torchrun has restarted the processes after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextlib.contextmanager
def as_single_process() -> Iterator[None]:
    """Hide the other processes from ignite inside a `with` block.

    Every process updates its metrics with the outputs of all processes, so ignite must not reduce the metrics
    again. ignite has no public switch for this.
    """
    from ignite.distributed import utils as ignite_utils  # noqa: PLC0415
    from ignite.distributed.comp_models.base import _SerialModel  # noqa: PLC0415

    before = ignite_utils._model
    ignite_utils._model = _SerialModel()
    try:
        yield
    finally:
        ignite_utils._model = before


def all_gather(value: T) -> list[T]:
    """Gather a picklable value from every process, in rank order."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_control())
    return values


def run_on_main(function: Callable[[], T]) -> T:
    """Call a function in the main process, and return its result or raise its error in all processes."""
    if not _is_distributed():
        return function()
    outcome: list[Any] = [None, None]  # result and error
    if is_main():
        try:
            outcome[0] = function()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=_control())
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]  # type: ignore[no-any-return]


def is_first_to_report() -> bool:
    """Return True only in the first process that calls this, so that a common error is printed once."""
    if not _is_distributed():
        return True
    try:
        reports: int = _STORE[0].add("reports", 1)
    except (RuntimeError, ValueError):  # the process that hosted the store has ended
        return is_main()
    return reports == 1


def all_or_none(function: Callable[[], T]) -> T:
    """Call a function in every process; if it fails in one process, raise that error in all processes."""
    if not _is_distributed():
        return function()
    result, error = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    for failure in (error, *all_gather(error)):
        if failure is not None:
            raise failure
    return result  # type: ignore[return-value]


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Return, for each flag, whether it is set in any process."""
    if not _is_distributed():
        return flags
    numbers = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=_control())
    return tuple(bool(number) for number in numbers.tolist())


def barrier() -> None:
    """Wait until all processes call this."""
    all_gather(None)


def wait_before_exit() -> None:
    """Wait up to half a minute for all processes, since some may not have been asked to stop."""
    if _is_distributed():
        with contextlib.suppress(RuntimeError):
            dist.monitored_barrier(group=_control(), timeout=_PARTING_TIMEOUT)


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Concatenate the rows of all processes in rank order; differentiable, see the module's docstring.

    Args:
        rows: rows of this process, `[n, ...]`; all dimensions but the first must be equal in all processes,
            and all or none of them must require gradients, because the backward pass communicates.
        counts: number of rows n in each process.

    Returns:
        All rows, `[sum of counts, ...]`.
    """
    if not _is_distributed():
        return rows
    gathered: Tensor = _GatherRows.apply(rows, tuple(counts))
    return gathered


def sum_over_all(value: Tensor) -> Tensor:
    """Sum a tensor over all processes; the backward pass sums the gradients."""
    if not _is_distributed():
        return value
    total: Tensor = all_reduce(value, group=_group_of(value))
    return total


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradient of each parameter over all processes.

    A gradient that only some processes have counts as zero in the others. A gradient that no process has
    stays None.
    """
    if not _is_distributed():
        return
    parameters = list(parameters)
    have_one = any_process(*(parameter.grad is not None for parameter in parameters))
    gradients = []
    for parameter, exists in zip(parameters, have_one, strict=True):
        if exists:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat, group=_group_of(flat))
        flat /= world_size()
        for gradient, values in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(values.view(gradient.shape))


@torch.no_grad()
def broadcast_state(model: nn.Module, *, buffers_alone: bool = False) -> None:
    """Copy the parameters and buffers of the main process to all other processes."""
    if not _is_distributed():
        return
    for tensor in [*model.buffers(), *([] if buffers_alone else model.parameters())]:
        if tensor.numel():
            values = tensor.contiguous()
            dist.broadcast(values, src=0, group=_group_of(values))
            tensor.copy_(values)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts
        # Pad to equal size, which is fastest in NCCL.
        most = max(counts)
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded, group=_group_of(padded))
        return torch.cat([of_rank[:count] for of_rank, count in zip(gathered, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        padded = gradient.new_zeros((world_size(), max(ctx.counts), *gradient.shape[1:]))
        for of_rank, rows in zip(padded, gradient.split(ctx.counts), strict=True):
            of_rank[: len(rows)] = rows
        total = torch.empty_like(padded[0])
        dist.reduce_scatter_tensor(total, padded.flatten(0, 1), group=_group_of(total))
        return total[: ctx.counts[rank()]], None


_CONTROL: list[Any] = []  # the gloo group, if it is not the default group
_STORE: list[PrefixStore] = []  # the store of the process group


def _control() -> Any:
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    if not _CONTROL:
        _CONTROL.append(dist.new_group(backend="gloo", timeout=_CONTROL_TIMEOUT))
    return _CONTROL[0]


def _group_of(tensor: Tensor) -> Any:
    """Return the group for tensors on this kind of device."""
    return _control() if tensor.device.type == "cpu" else dist.group.WORLD


def _is_distributed() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group consecutive tensors of the same dtype into buckets of about `_BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(member.nbytes for member in bucket) >= _BUCKET_BYTES
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
