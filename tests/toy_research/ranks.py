"""Calls functions in several processes, started as by torchrun; and the functions to call."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from ignite_trainer.data import loader
from ignite_trainer.support.distributed import process_group, rank
from ignite_trainer.support.errors import RunStopped
from tests.ignite_trainer.data import loading
from toy_research.protocols import run_toy


def on_ranks(count: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the results of `function(*args)` in each of `count` processes, by rank.

    Results are passed in files in `folder` (gigabytes for models), which are deleted once read.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_process, (count, port, folder, function, args), nprocs=count, start_method="spawn")
    files = [folder / f"rank-{number}.pt" for number in range(count)]
    results = [torch.load(file, weights_only=False) for file in files]
    for file in files:
        file.unlink()
    return results


def _process(
    number: int, count: int, port: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    with process_group():
        assert rank() == number
        torch.save(function(*args), folder / f"rank-{number}.pt")


def run_limited_and_averaged(root: Path) -> dict[str, Any]:
    """Run five epochs with limited gradients and a mean of the weights; return the last state's content."""
    result = run_toy(
        root,
        Setup__epochs=5,
        Setup__batch_of="all",
        Setup__swa=0.5,
        Model={"class": "toy_research.network.TwoTowers", "args": {"dropout": 0.0, "norm": False}},
        Transforms=[{"class": "toy_research.augment.Fit", "args": {"length": 16, "train": False}}],
        Parameters=[
            {"match": "left.*", "max_gradient_norm": 0.02},
            {"match": ".*", "max_gradient_norm": 0.01},
        ],
    )
    assert result.end.last_checkpoint is not None
    return {"metrics": result.end.last, **torch.load(result.end.last_checkpoint, weights_only=True)}


def run_averaged_with_own_statistics(root: Path) -> dict[str, Any]:
    """Run three epochs in which each process has its own batch norm; return results and evaluated weights."""
    result = run_toy(
        root,
        Setup__epochs=3,
        Setup__batch_of="all",
        Setup__sync_batch_norm=False,
        Setup__ema=0.9,
        Evaluations={"Confidence": {"class": "toy_research.measuring.Confidence"}},
    )
    assert result.end.last_checkpoint is not None
    state = torch.load(result.end.last_checkpoint, weights_only=True)
    return {"confidence": result.record.evaluations["Confidence"], "model": state["model"]}


Batches = list[list[int]]

STREAMED = {"class": "toy_research.signals.TonesInStretches", "args": {"fold": 1}}
WHOLE = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM"}}
STOPPED = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", "step": 7}}


def read_shards(manifest: str, batch_size: int, workers: Sequence[int]) -> dict[str, Any]:
    """Read this process's part of an epoch with each number of workers; then half of one, and the rest.

    Returns:
        "epochs": the indices of each batch, by number of workers; "before" and "after": the same for the two
        halves; "read": labels of the samples, by index.
    """
    from utils.datasets import Shards

    multiprocessing.set_start_method("fork", force=True)  # as torchrun does
    loader._processors = lambda: max(workers)  # as on a larger machine

    def batches(count: int, *, epoch: int, start: int = 0, end: int | None = None) -> tuple[Batches, Any]:
        loader = loading.loader(Shards(manifest), batch_size=batch_size, workers=count)
        loader.set_epoch(epoch, start=start)
        found: Batches = []
        read: dict[int, Any] = {}
        for batch in loader:
            found.append(batch.indices.tolist())
            if batch.sample is not None:
                read.update(zip(found[-1], batch.sample.labels, strict=True))
            if len(found) == end:
                break
        loader.close()
        return found, read

    epochs = {count: batches(count, epoch=1) for count in workers}
    half = len(epochs[workers[0]][0]) // 2
    return {
        "epochs": {count: found for count, (found, _) in epochs.items()},
        "read": epochs[workers[0]][1],
        "before": batches(workers[-1], epoch=2, end=half)[0],
        "after": batches(workers[0], epoch=2, start=half)[0],
    }


def run_streamed(folder: Path, **changes: Any) -> None:
    """Run the toy protocol on streamed tones, until it is stopped."""
    with contextlib.suppress(RunStopped):
        run_toy(folder, Dataset=STREAMED, Setup__batch_train=4, Setup__batch_of="all", **changes)


def run_beginnings(folder: Path) -> None:
    """Carry out a complete run, one stopped within an epoch, and one whose batch size is per process."""
    run_streamed(folder / "whole", Task=WHOLE)
    run_streamed(folder / "stopped", Task=STOPPED)
    run_toy(folder / "each", Setup__epochs=1, Task=WHOLE)


def run_in_two_sessions(folder: Path, changes: dict[str, Any], *, first: int, epochs: int) -> None:
    """Carry out a whole run, and one that is resumed after its first epochs."""
    run_toy(folder / "whole", **changes, Setup__epochs=epochs)
    run_toy(folder / "resumed", **changes, Setup__epochs=first)
    run_toy(folder / "resumed", **changes, Setup__epochs=epochs, Setup__resume="auto")


def evaluate_points(folder: Path, kinds: Sequence[str]) -> dict[str, float]:
    """Evaluate the toy points, which have several labels, with metrics of ours; return the values by name."""
    folder.mkdir(exist_ok=True)
    lines = [{"line_label": kind, "class": f"utils.metrics.{kind}"} for kind in kinds]
    result = run_toy(
        folder,
        Setup__epochs=0,
        Dataset={"class": "toy_research.embedding.Points", "args": {"several": True}},
        Task={"class": "toy_research.embedding.Embedding", "args": {"several": True}},
        Transforms=[],
        Metrics={"Performance": {"lines": lines}},
    )
    return dict(result.end.last)
