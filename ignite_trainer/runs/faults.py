"""What a run does about its faults, by the protocol's `Faults`: counts, tells, goes on or ends."""

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
from ignite_trainer.support.distributed import all_say, world_size
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped, first_line
from ignite_trainer.support.files import failed_writing
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.support.signals import StopRequest
from ignite_trainer.training.lone_samples import LeftOut
from ignite_trainer.training.optimizer_steps import NotFinite, StepWatch, not_finite_weights

STEPS_LEFT_OUT = "steps left out"
SAMPLES_SKIPPED = "samples skipped"
FIELDS_LEFT_OUT = '"{}" left out of a step, alone in its batch'
STEPS_UNSYNCHRONISED = "steps in which batch norm was not shared by the processes"
# What gloo and NCCL say when a process they talk to is gone.
_OF_OTHERS = re.compile(r"gloo|nccl|closed by peer|reset by peer|broken pipe", re.IGNORECASE)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class FaultPolicy:
    """What is done about losses and gradients that are not finite.

    Args:
        faults: the protocol's.
        dataset: of the training split; names its samples.
        folder: of the run, for messages.
        reporters: told of every fault.

    Attributes:
        watch: to be given to the trainer.
        counts: how often what went wrong and was lived with.
    """

    def __init__(self, faults: Faults, dataset: Any, *, folder: Path, reporters: Reporter) -> None:
        self._faults, self._dataset, self._folder, self._reporters = faults, dataset, folder, reporters
        self.watch = StepWatch(self._leave_out if faults.not_finite == "skip" else None)
        self.counts: Counter[str] = Counter()
        self._not_shared: list[LeftOut] = []

    def require_finite(self, epoch: int, iteration: int, model: nn.Module | None = None) -> None:
        """Look at all steps since the last call, and at the weights of a model that is about to be saved.

        Raises:
            RunFailed: something is not finite.
        """
        found = self.watch.first()
        if not found and model is not None and (spoiled := not_finite_weights(model)):
            what = f"What the last step left of {listing(spoiled, most=3)} is not finite"
            found = NotFinite(what, epoch, iteration, [])
        if found:
            self._tell(found, "the run ends")
            raise self._ended(found)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return dict(self.counts)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting from a checkpoint."""
        self.counts.clear()
        self.counts.update(state)

    def counted(self, unreadable: Iterable[UnreadableSamples]) -> dict[str, int]:
        """Count what was lived with, by what it was; nothing that did not happen."""
        samples = sum(len(of_split.names) for of_split in unreadable)
        return {**self.counts, **({SAMPLES_SKIPPED: samples} if samples else {})}

    def left_out(self, fields: Iterable[LeftOut]) -> None:
        """Record fields left out of a step; with several processes they are counted by the next `share`."""
        self._not_shared += fields
        if world_size() == 1:
            self.share()

    def share(self) -> None:
        """Count the fields that any process left out, in all processes; report the first of each kind."""
        lists, self._not_shared = all_say(self._not_shared), []
        for left in sorted(itertools.chain(*lists), key=lambda left: left.iteration):
            self._live_with(
                FIELDS_LEFT_OUT.format(left.field),
                Fault(
                    epoch=left.epoch,
                    iteration=left.iteration,
                    what=f'"{left.field}" of one sample is alone in its batch, and batch norm needs two',
                    done="the step goes without it; others like it are counted",
                    samples=(sample_name(self._dataset, left.position),),
                ),
            )

    def unsynchronised(self, epoch: int, iteration: int) -> None:
        """Count a step in which the processes do not share batch norm."""
        what = "The samples of the processes have different fields, and batch norm shared by all would wait"
        done = "each process takes the step with batch norm of its own; others like it are counted"
        fault = Fault(epoch=epoch, iteration=iteration, what=what, done=done)
        self._live_with(STEPS_UNSYNCHRONISED, fault)

    def _live_with(self, what: str, fault: Fault) -> None:
        """Count a fault that does not end the run, and report its first occurrence."""
        self.counts[what] += 1
        if self.counts[what] == 1:
            self._reporters.on_fault(fault)

    def _leave_out(self, found: NotFinite) -> None:
        """Count and report a step that is left out, or end the run if there were too many."""
        if self.counts[STEPS_LEFT_OUT] >= self._faults.not_finite_at_most:
            self._tell(found, "the run ends")
            raise self._ended(found)
        self.counts[STEPS_LEFT_OUT] += 1
        self._tell(found, "the step is left out")

    def _tell(self, found: NotFinite, done: str) -> None:
        names = tuple(sample_name(self._dataset, index) for index in found.indices)
        fault = Fault(epoch=found.epoch, iteration=found.iteration, what=found.what, done=done, samples=names)
        self._reporters.on_fault(fault)

    def _ended(self, found: NotFinite) -> RunFailed:
        names = [sample_name(self._dataset, index) for index in found.indices]
        of = f", of {listing(names)}" if names else ""
        before = "".join(f" {what.capitalize()} before: {count}." for what, count in self.counts.items())
        advice = ' Faults.not_finite "skip" leaves such steps out, also with --resume.' * (
            self._faults.not_finite == "stop"
        )
        return RunFailed(
            f"{found.what} at epoch {found.epoch}, iteration {found.iteration}{of}.{before} "
            f"What earlier epochs reached is kept in {self._folder}. Look at these samples, or lower "
            f"Optimizer.args.lr, say, in a new run.{advice}"
        )


@contextlib.contextmanager
def explained(folder: Path, request: StopRequest | None = None) -> Iterator[None]:
    """Turn errors of the machine, of which torch says what only its authors need, into a RunFailed.

    A worker that died of what asked the run to stop, by `request`, makes it a RunStopped: it goes on from its
    last state.
    """
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
                f"A process that loads samples (pid {killed[1]}) was killed, which the system does where "
                "memory runs out. Lower Setup.workers_train and Setup.workers_test, or in a new run the "
                "batch size with -b, or run on a machine with more memory. What finished epochs reached is "
                f"kept in {folder}."
            ) from error
        if world_size() > 1 and isinstance(error, RuntimeError) and _OF_OTHERS.search(str(error)):
            raise RunFailed(
                f"Another process has ended, and this one cannot go on alone ({first_line(error)}). What "
                f"finished epochs reached is kept in {folder}; --resume goes on with it."
            ) from error
        if is_out_of_memory(error):
            raise RunFailed(
                f"Memory does not suffice ({first_line(error)}). Lower the batch size with -b, in a new run. "
                f"What finished epochs reached is kept in {folder}."
            ) from error
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise failed_writing(Path(error.filename or folder), error) from error
        raise
