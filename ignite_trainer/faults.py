"""What a run does about its faults, by the protocol's `Faults`: counts, tells, goes on or ends."""

from __future__ import annotations

import contextlib
import errno
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ignite_trainer.errors import ProtocolError, RunFailed
from ignite_trainer.finite import NotFinite, StepWatch, not_finite_weights
from ignite_trainer.out_of_memory import first_line, is_out_of_memory
from ignite_trainer.protocol import Faults
from ignite_trainer.reporters.reporter import Fault, Reporter
from ignite_trainer.self_description import listing, sample_name
from ignite_trainer.unreadable import UnreadableSamples
from ignite_trainer.writing import failed_writing

STEPS_LEFT_OUT = "steps left out"
SAMPLES_SKIPPED = "samples skipped"
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

    def require_finite(self, model: nn.Module | None = None) -> None:
        """Look at all steps since the last call, and at the weights of a model that is about to be saved.

        Raises:
            RunFailed: something is not finite, and the run is to end.
        """
        found = self.watch.first()
        if found:
            self._tell(found, "the run ends")
            raise self._ended(found)
        spoiled = not_finite_weights(model) if model is not None else []
        if spoiled:
            raise RunFailed(
                f"The last step left weights that are not finite: {listing(spoiled, most=3)}. They are not "
                f"saved; what was saved before is kept in {self._folder}. Lower Optimizer.args.lr, say."
            )

    def counted(self, unreadable: Iterable[UnreadableSamples]) -> dict[str, int]:
        """Count what was lived with, by what it was; nothing that did not happen."""
        samples = sum(len(of_split.names) for of_split in unreadable)
        return {**self.counts, **({SAMPLES_SKIPPED: samples} if samples else {})}

    def _leave_out(self, found: NotFinite) -> None:
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
        left_out = self.counts[STEPS_LEFT_OUT]
        before = f" Steps left out before: {left_out}." if left_out else ""
        advice = ' Faults.not_finite "skip" leaves such steps out.' * (self._faults.not_finite == "stop")
        return RunFailed(
            f"{found.what} at epoch {found.epoch}, iteration {found.iteration}, of {listing(names)}.{before} "
            f"What earlier epochs reached is kept in {self._folder}. Lower Optimizer.args.lr, say, or look "
            f"at these samples.{advice}"
        )


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of the machine, of which torch says what only its authors need, into a RunFailed."""
    try:
        yield
    except (RunFailed, ProtocolError):
        raise
    except Exception as error:
        killed = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
        if isinstance(error, RuntimeError) and killed:
            raise RunFailed(
                f"A process that loads samples (pid {killed[1]}) was killed, which the system does where "
                "memory runs out. Lower Setup.workers_train and Setup.workers_test, or the batch size with "
                f"-b, or run on a machine with more memory. What finished epochs reached is kept in {folder}."
            ) from error
        if is_out_of_memory(error):
            raise RunFailed(
                f"Memory does not suffice ({first_line(error)}). Lower the batch size with -b. What finished "
                f"epochs reached is kept in {folder}."
            ) from error
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise failed_writing(Path(error.filename or folder), error) from error
        raise
