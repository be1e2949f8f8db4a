"""Counts and reports faults during a run, or ends the run, as configured in `Faults`."""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ignite_trainer.api.reporter import Fault, Reporter
from ignite_trainer.api.self_description import listing, sample_name
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.protocol.sections import Faults
from ignite_trainer.support.distributed import all_gather, world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped, first_line
from ignite_trainer.support.files import failed_writing
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.support.signals import StopRequest
from ignite_trainer.training.lone_samples import DroppedField
from ignite_trainer.training.optimizer_steps import NonFinite, StepWatch, non_finite_weights

_SKIPPED_STEPS = "steps skipped"
_UNSYNCHRONISED_STEPS = "steps with unsynchronised batch norm"
# Names of kinds in the states of earlier versions.
_FORMER_KINDS = {
    "steps left out": _SKIPPED_STEPS,
    "steps in which batch norm was not shared by the processes": _UNSYNCHRONISED_STEPS,
}
# Messages from gloo and NCCL when another process has exited.
_PROCESS_EXITED = re.compile(r"gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class FaultPolicy:
    """Policy that decides how to respond to faults, reports them, and counts those that do not end the run.

    Args:
        faults: `Faults` section of the protocol.
        dataset: training split, for the names of samples.
        folder: run folder, for error messages.
        reporters: reporters to notify.

    Attributes:
        watch: detects non-finite values; the trainer calls it.
        counts: number of faults of each kind.
    """

    def __init__(self, faults: Faults, dataset: Any, *, folder: Path, reporters: Reporter) -> None:
        self._faults = faults
        self._dataset = dataset
        self._folder = folder
        self._reporters = reporters
        self.watch = StepWatch(self._skip_step if faults.not_finite == "skip" else None)
        self.counts: Counter[str] = Counter()
        self._dropped: list[DroppedField] = []  # not yet counted

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from saved counts."""
        self.counts.clear()
        self.counts.update({_FORMER_KINDS.get(kind, kind): count for kind, count in state.items()})

    def all_counts(self, unreadable: Iterable[UnreadableSamples]) -> dict[str, int]:
        """Return the number of faults of each kind, including skipped samples; zeros are omitted."""
        samples = sum(len(split.names) for split in unreadable)
        return {**self.counts, **({"samples skipped": samples} if samples else {})}

    def require_finite(self, epoch: int, iteration: int, model: nn.Module | None = None) -> None:
        """Check the steps since the last call and, if a model is given, its weights before they are saved.

        Raises:
            RunFailed: A loss, gradient or weight is non-finite.
        """
        found = self.watch.first()
        if not found and model is not None and (names := non_finite_weights(model)):
            what = f"The last step made {listing(names, most=3)} non-finite"
            found = NonFinite(what, epoch, iteration, [])
        if found:
            self._end(found)

    def record_dropped_fields(self, fields: Iterable[DroppedField]) -> None:
        """Record fields dropped from a step; with several processes, `share_counts` counts them later."""
        self._dropped += fields
        if world_size() == 1:
            self.share_counts()

    def share_counts(self) -> None:
        """In every process, count the fields dropped by any process; report the first of each kind."""
        lists, self._dropped = all_gather(self._dropped), []
        for dropped in sorted(itertools.chain(*lists), key=lambda dropped: dropped.iteration):
            self._count(
                f'steps without "{dropped.field}" (only one sample in the batch had it)',
                Fault(
                    epoch=dropped.epoch,
                    iteration=dropped.iteration,
                    what=f'Only one sample in the batch has "{dropped.field}", but batch norm needs two',
                    done="the step ignores it; further cases are only counted",
                    samples=(sample_name(self._dataset, dropped.position),),
                ),
            )

    def record_unsynchronised_step(self, epoch: int, iteration: int) -> None:
        """Count a step in which batch norm is not synchronised between processes."""
        self._count(
            _UNSYNCHRONISED_STEPS,
            Fault(
                epoch=epoch,
                iteration=iteration,
                what="Samples on different processes have different fields, so synchronised batch norm would "
                "deadlock",
                done="each process uses its own batch statistics for this step; further cases are only "
                "counted",
            ),
        )

    def _count(self, kind: str, fault: Fault) -> None:
        """Count a fault, and report the first of its kind."""
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            self._reporters.on_fault(fault)

    def _skip_step(self, found: NonFinite) -> None:
        """Count and report a skipped step; end the run if there were too many."""
        if self.counts[_SKIPPED_STEPS] >= self._faults.not_finite_at_most:
            self._end(found)
        self.counts[_SKIPPED_STEPS] += 1
        self._report(found, "the step is skipped")

    def _report(self, found: NonFinite, done: str) -> list[str]:
        """Report a non-finite value; return the names of the step's samples."""
        names = [sample_name(self._dataset, index) for index in found.indices]
        self._reporters.on_fault(
            Fault(
                epoch=found.epoch, iteration=found.iteration, what=found.what, done=done, samples=tuple(names)
            )
        )
        return names

    def _end(self, found: NonFinite) -> None:
        names = self._report(found, "the run ends")
        samples = f", in a step with {listing(names)}" if names else ""
        counts = ", ".join(f"{kind} ({count})" for kind, count in self.counts.items())
        before = f" Earlier faults: {counts}." if counts else ""
        advice = "Inspect these samples, or start" if names else "Start"
        advice += " a new run with a lower Optimizer.args.lr."
        if self._faults.not_finite == "stop":
            advice += ' Set Faults.not_finite to "skip" to skip such steps; this also works with --resume.'
        raise RunFailed(
            f"{found.what} at epoch {found.epoch}, iteration {found.iteration}{samples}.{before} The results "
            f"of earlier epochs are kept in {self._folder}. {advice}"
        )


@contextlib.contextmanager
def explain_errors(folder: Path, request: StopRequest | None = None) -> Iterator[None]:
    """Turn errors such as a full disk or lack of memory into a RunFailed with a clear message.

    Raise RunStopped if a worker was killed by the signal recorded in `request`.
    """
    kept = f"The results of finished epochs are kept in {folder}"
    try:
        yield
    except (RunFailed, ProtocolError):
        raise
    except Exception as error:
        killed = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
        if isinstance(error, RuntimeError) and killed:
            if request and request.signal:
                raise RunStopped(request.signal, folder) from error
            raise RunFailed(
                f"Data-loading worker (pid {killed[1]}) was killed, probably by the operating system because "
                "memory ran out. Lower Setup.workers_train and Setup.workers_test, start a new run with a "
                f"smaller batch size (-b), or use a machine with more memory. {kept}."
            ) from error
        if world_size() > 1 and isinstance(error, RuntimeError) and _PROCESS_EXITED.search(str(error)):
            raise RunFailed(
                f"Another process has exited, and this one cannot continue alone ({first_line(error)}). "
                f"{kept}; --resume continues from there."
            ) from error
        if is_out_of_memory(error):
            raise RunFailed(
                f"Not enough memory ({first_line(error)}). Start a new run with a smaller batch size (-b). "
                f"{kept}."
            ) from error
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            raise failed_writing(Path(error.filename or folder), error) from error
        raise
