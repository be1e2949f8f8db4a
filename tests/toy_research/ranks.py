"""Several processes on this machine that call one function, as torchrun would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from ignite_trainer.support.distributed import rank, several_processes


def on_ranks(count: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what `function(*args)`, a function of a module, returns in each of `count` processes, by rank.

    Results travel through files in `folder`, gigabytes for whole models, which are deleted once read.
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
    with several_processes():
        assert rank() == number
        torch.save(function(*args), folder / f"rank-{number}.pt")
