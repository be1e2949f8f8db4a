"""What tests of streams have each of several processes do."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ignite_trainer.data import loader
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.support.errors import RunStopped
from toy_research.protocols import run_toy

Batches = list[list[int]]

STREAMED = {"class": "toy_research.streaming.TonesInStretches", "args": {"fold": 1}}
WHOLE = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM"}}
STOPPED = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", "step": 7}}


def read_shards(manifest: str, batch_size: int, workers: Sequence[int]) -> dict[str, Any]:
    """Read this process's part of an epoch with each number of workers; and half of one, then the rest.

    Returns:
        "epochs": the indices of each batch, by the number of workers; "before" and "after": likewise, of two
        loaders; "read": labels of the samples of the last epoch, by index.
    """
    import webdataset.tariterators  # noqa: F401 - once, and not in each worker

    from utils.datasets import Shards

    multiprocessing.set_start_method("fork", force=True)  # as in processes that torchrun starts
    loader._processors = lambda: max(workers)  # those of a larger machine

    def batches(count: int, *, epoch: int, start: int = 0, end: int | None = None) -> tuple[Batches, Any]:
        loader = SplitLoader(
            Shards(manifest),
            [],
            batch_size=batch_size,
            workers=count,
            shuffle=True,
            drop_last=False,
            seed=5,
            device=torch.device("cpu"),
        )
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
    """Carry out the toy protocol over streamed tones, or the beginning of it, in the processes there are."""
    with contextlib.suppress(RunStopped):
        run_toy(folder, Dataset=STREAMED, Setup__batch_train=4, Setup__batch_of="all", **changes)


def run_beginnings(folder: Path) -> None:
    """Carry out a run to its end, one stopped within an epoch, and one with batches of each process."""
    run_streamed(folder / "whole", Task=WHOLE)
    run_streamed(folder / "stopped", Task=STOPPED)
    run_toy(folder / "each", Setup__epochs=1, Task=WHOLE)
