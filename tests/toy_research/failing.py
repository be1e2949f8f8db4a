"""Data sets, tasks and a reporter that fail on request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import get_worker_info

from ignite_trainer.api.reporter import Iteration, Reporter, RunStart
from ignite_trainer.api.task import StepOutput
from ignite_trainer.support.errors import RunFailed
from toy_research.learning import Matching, wait_for
from toy_research.signals import Tone, Tones


class FaultyTones(Tones):
    """Tones, some of which are faulty.

    Args:
        nan: positions of tones with NaN values.
        gone: positions of unreadable tones.
        fatal: positions of tones that kill the worker that loads them.
    """

    def __init__(
        self, *, nan: Sequence[int] = (), gone: Sequence[int] = (), fatal: Sequence[int] = (), **options: Any
    ) -> None:
        super().__init__(**options)
        self._nan, self._gone, self._fatal = set(nan), set(gone), set(fatal)

    def record(self, position: int) -> dict[str, str | int]:
        return {"tone": f"{self._indices[position]}.wav", "fold": 1}

    def __getitem__(self, position: int) -> Tone:
        index = self._indices[position]
        if index in self._gone:
            raise OSError(f"{index}.wav is cut off")
        if index in self._fatal and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        tone = super().__getitem__(position)
        return tone._replace(signal=np.full_like(tone.signal, np.nan)) if index in self._nan else tone


class Prepared(Tones):
    """Tones whose preparation makes a folder; a signal interrupts the first attempt."""

    def __init__(self, *, folder: str, signal: str, **options: Any) -> None:
        super().__init__(**options)
        self._folder, self._signal = Path(folder), signal

    def prepare(self) -> None:
        from model.storage.atomic import make_once

        def fill(partial: Path) -> None:
            marker = self._folder.with_name("signalled")
            (partial / "half").write_text("of it")
            if not marker.exists():
                marker.touch()
                signal.raise_signal(signal.Signals[self._signal])

        make_once(self._folder, is_complete=Path.exists, fill=fill)


class PreparedByOne(Tones):
    """Tones that cannot be prepared in the process of rank 1."""

    def prepare(self) -> None:
        if os.environ.get("RANK") == "1":
            raise ValueError("the disk of rank 1 is gone.")


class TonesInBatches(FaultyTones):
    """Faulty tones that can also be read in whole batches."""

    def read_batch(self, indices: Sequence[int]) -> Any:
        from ignite_trainer.api.batch import collate

        return collate([self[index] for index in indices])


class Steep(Matching):
    """A finite loss whose gradient is non-finite in some steps."""

    def __init__(self, *, at: Sequence[int]) -> None:
        super().__init__()
        self._at = set(at)

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().training_step(model, batch)
        assert output.loss is not None
        if self._steps not in self._at:
            return output
        return output._replace(loss=output.loss + (0 * output.y_pred.sum()).sqrt())


class Greedy(Matching):
    """Allocates a petabyte for more than `most` samples, in training or, if `evaluating`, in evaluation."""

    def __init__(self, *, most: int, evaluating: bool = False) -> None:
        super().__init__()
        self._most, self._evaluating = most, evaluating

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        if not self._evaluating:
            self._allocate(batch)
        return super().training_step(model, batch)

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        if self._evaluating:
            self._allocate(batch)
        return super().evaluation_step(model, batch)

    def _allocate(self, batch: Any) -> None:
        if len(batch.target) > self._most:
            torch.empty(2**50, dtype=torch.uint8)


class FillsTheDisk(Reporter):
    """Fills the disk of the results once the first epoch is saved."""

    def on_start(self, run: RunStart) -> None:
        self._folder, self._file = run.folder, run.folder.parents[1] / "filling"

    def on_iteration(self, step: Iteration) -> None:
        if step.epoch < 2:
            return
        wait_for(self._folder, "checkpoints/last_epoch-1.pt")
        for size in (4096, 1):
            try:
                with self._file.open("ab", buffering=0) as file:
                    while file.write(bytes(size)):
                        pass
            except OSError:
                continue


class HungryOnDevice(Matching):
    """Allocates a fraction of the device's memory for every sample."""

    def __init__(self, *, share: float) -> None:
        super().__init__()
        self._share = share

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().training_step(model, batch)
        assert output.loss is not None
        total = torch.cuda.get_device_properties(0).total_memory
        taken = torch.empty(int(len(batch.target) * self._share * total), dtype=torch.uint8, device="cuda")
        return output._replace(loss=output.loss + 0 * taken[:1].sum())


class FailingRank(Matching):
    """Fails in the fifth step of the process of rank 1, as long as a file `marker` exists.

    Args:
        marker: path of the file.
        how: "raises", a RunFailed; "breaks", an error of another kind; or a signal.
        parts_together: whether no process destroys its group before all do, as with NCCL.
    """

    def __init__(self, *, marker: str, how: str, parts_together: bool = False) -> None:
        super().__init__()
        self._marker, self._how = Path(marker), how
        if parts_together:
            dist.destroy_process_group = _wait_for_all_to_part

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        output = super().training_step(model, batch)
        if self._steps == 5 and os.environ.get("RANK") == "1" and self._marker.exists():
            self._marker.unlink()
            if self._how == "raises":
                raise RunFailed("the fan of rank 1 is broken.")
            if self._how == "breaks":
                raise TypeError("the fan of rank 1 is broken.")
            os.kill(os.getpid(), signal.Signals[self._how])
        return output


def _wait_for_all_to_part(group: dist.ProcessGroup | None = None) -> None:  # noqa: ARG001
    store = dist.distributed_c10d._get_default_store()
    store.add("parting", 1)
    while store.add("parting", 0) < dist.get_world_size():
        time.sleep(0.05)
