"""Responds to faults during a run: counts and reports them or ends the run, as the `Faults` section says."""

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
from ignite_trainer.training.lone_samples import LeftOut
from ignite_trainer.training.optimizer_steps import NotFinite, StepWatch, not_finite_weights

_STEPS_LEFT_OUT = "steps left out"
# Messages from gloo and NCCL when another process is gone.
_PROCESS_GONE = re.compile(r"gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class FaultPolicy:
    """Policy that decides how to respond to faults, reports them, and counts those that do not end the run.

    Args:
        faults: `Faults` section of the protocol.
        dataset: training split, for the names of samples.
        folder: run folder, for error messages.
        reporters: reporters to notify.

    Attributes:
        watch: detector of values that are not finite, for the trainer.
        counts: number of faults of each kind.
    """

    def __init__(self, faults: Faults, dataset: Any, *, folder: Path, reporters: Reporter) -> None:
        self._faults = faults
        self._dataset = dataset
        self._folder = folder
        self._reporters = reporters
        self.watch = StepWatch(self._leave_out if faults.not_finite == "skip" else None)
        self.counts: Counter[str] = Counter()
        self._not_shared: list[LeftOut] = []

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from saved counts."""
        self.counts.clear()
        self.counts.update(state)

    def counted(self, unreadable: Iterable[UnreadableSamples]) -> dict[str, int]:
        """Return the number of faults of each kind, including skipped samples; zeros are omitted."""
        samples = sum(len(split.names) for split in unreadable)
        return {**self.counts, **({"samples skipped": samples} if samples else {})}

    def require_finite(self, epoch: int, iteration: int, model: nn.Module | None = None) -> None:
        """Check the steps since the last call and, if a model is given, its weights before they are saved.

        Raises:
            RunFailed: A loss, gradient or weight is not finite.
        """
        found = self.watch.first()
        if not found and model is not None and (spoiled := not_finite_weights(model)):
            what = f"The last step made {listing(spoiled, most=3)} not finite"
            found = NotFinite(what, epoch, iteration, [])
        if found:
            self._end(found)

    def left_out(self, fields: Iterable[LeftOut]) -> None:
        """Note fields that were left out of a step; with several processes, the next `share` counts them."""
        self._not_shared += fields
        if world_size() == 1:
            self.share()

    def share(self) -> None:
        """Count the fields that any process has left out, in all processes; report the first of each kind."""
        lists, self._not_shared = all_gather(self._not_shared), []
        for left in sorted(itertools.chain(*lists), key=lambda left: left.iteration):
            self._count(
                f'"{left.field}" left out of a step, alone in its batch',
                Fault(
                    epoch=left.epoch,
                    iteration=left.iteration,
                    what=f'Only one sample in the batch has "{left.field}", but batch norm needs two',
                    done="the step leaves it out; further cases are only counted",
                    samples=(sample_name(self._dataset, left.position),),
                ),
            )

    def unsynchronised(self, epoch: int, iteration: int) -> None:
        """Count a step in which batch norm is not synchronised between processes."""
        self._count(
            "steps in which batch norm was not shared by the processes",
            Fault(
                epoch=epoch,
                iteration=iteration,
                what="The samples of the processes have different fields, so a shared batch norm would wait "
                "forever",
                done="each process takes the step with its own batch norm; further cases are only counted",
            ),
        )

    def _count(self, kind: str, fault: Fault) -> None:
        """Count a fault, and report the first of its kind."""
        self.counts[kind] += 1
        if self.counts[kind] == 1:
            self._reporters.on_fault(fault)

    def _leave_out(self, found: NotFinite) -> None:
        """Leave out a step, count and report it; end the run if there were too many."""
        if self.counts[_STEPS_LEFT_OUT] >= self._faults.not_finite_at_most:
            self._end(found)
        self.counts[_STEPS_LEFT_OUT] += 1
        self._report(found, "the step is left out")

    def _report(self, found: NotFinite, done: str) -> list[str]:
        """Report a value that is not finite; return the names of the step's samples."""
        names = [sample_name(self._dataset, index) for index in found.indices]
        self._reporters.on_fault(
            Fault(
                epoch=found.epoch, iteration=found.iteration, what=found.what, done=done, samples=tuple(names)
            )
        )
        return names

    def _end(self, found: NotFinite) -> None:
        names = self._report(found, "the run ends")
        samples = f", in a step with {listing(names)}" if names else ""
        before = "".join(f" {what.capitalize()} before: {count}." for what, count in self.counts.items())
        advice = ""
        if self._faults.not_finite == "stop":
            advice = (
                ' Set Faults.not_finite to "skip" to leave such steps out; this also works with --resume.'
            )
        raise RunFailed(
            f"{found.what} at epoch {found.epoch}, iteration {found.iteration}{samples}.{before} The results "
            f"of earlier epochs are kept in {self._folder}. Look at these samples, or start a new run with a "
            f"lower Optimizer.args.lr.{advice}"
        )


@contextlib.contextmanager
def explained(folder: Path, request: StopRequest | None = None) -> Iterator[None]:
    """Raise a RunFailed with a clear message in place of errors such as a full disk or lack of memory.

    If a signal that is noted in `request` also killed a worker, raise RunStopped.
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
                f"A process that loads samples (pid {killed[1]}) was killed, as the system does when "
                "memory runs out. Lower Setup.workers_train and Setup.workers_test or, in a new run, "
                f"the batch size with -b; or use a machine with more memory. {kept}."
            ) from error
        if world_size() > 1 and isinstance(error, RuntimeError) and _PROCESS_GONE.search(str(error)):
            raise RunFailed(
                f"Another process has ended, and this one cannot continue alone ({first_line(error)}). "
                f"{kept}; --resume continues from there."
            ) from error
        if is_out_of_memory(error):
            raise RunFailed(
                f"Not enough memory ({first_line(error)}). Start a new run with a smaller batch: -b. {kept}."
            ) from error
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise failed_writing(Path(error.filename or folder), error) from error
        raise
