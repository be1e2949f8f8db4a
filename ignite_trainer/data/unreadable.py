"""Samples that cannot be read: named, and counted where the protocol lets them be skipped."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ignite_trainer.api.self_description import listing, look_at, looked_at, sample_name
from ignite_trainer.support.distributed import all_say
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.memory import is_out_of_memory


class Unreadable(NamedTuple):
    """A sample that cannot be read, and what was said of it."""

    position: int
    error: str


def as_unreadable(error: Exception, index: int) -> Unreadable:
    """Say that a sample cannot be read, if that is what an error means; else raise it again.

    A file that is gone or holds nonsense is an OSError, a ValueError, an EOFError or a RuntimeError (of a
    decoder). Anything else is taken for a defect of the data set's code. Where these may mean one, too, it is
    said which error was raised where.
    """
    means_so = isinstance(error, OSError | ValueError | EOFError | RuntimeError)
    if not means_so or isinstance(error, _OF_CODE) or is_out_of_memory(error):
        raise error
    said = str(error) or type(error).__name__
    if isinstance(error, OSError | EOFError):
        return Unreadable(index, said)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Unreadable(index, f"{said.rstrip('.')} ({type(error).__name__} in {place.name})")


_OF_CODE = (ProtocolError, NotImplementedError, RecursionError)


_KEPT = "What finished epochs reached is kept."


class UnreadableSamples:
    """The samples of a split that could not be read so far.

    Args:
        dataset: of the split; names its samples.
        split: its name, for messages.
        at_most: share of the split that may be skipped; None: none may, a sample that fails ends the run.
    """

    def __init__(self, dataset: Any, *, split: str, at_most: float | None = None) -> None:
        self._dataset, self._split, self._at_most = dataset, split, at_most
        self._found: dict[int, str] = {}

    @property
    def may_skip(self) -> bool:
        """Whether any may be skipped."""
        return self._at_most is not None

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [sample_name(self._dataset, index) for index in self._found]

    def state_dict(self) -> dict[int, str]:
        """What a state holds of it: positions of the samples, and what was said of each."""
        return dict(self._found)

    def load_state_dict(self, state: Mapping[int, str]) -> None:
        """Go on counting from a state; a ValueError if it is not of this split."""
        if not all(type(index) is int and 0 <= index < len(self._dataset) for index in state):
            raise ValueError(f"samples that cannot be read are none of the {self._split} split.")
        self._found = {index: str(error) for index, error in state.items()}

    def share(self) -> None:
        """Let all processes know those that any has found; a RunFailed if more than may be skipped."""
        for found in all_say(self._found):
            self._found |= found
        if self._at_most is not None and len(self._found) > self._at_most * len(self._dataset):
            raise self._too_many(f"Samples of the {self._split} split cannot be read.")

    def add(self, failed: list[Unreadable], *, of: int, needs_one: bool = True) -> None:
        """Count the samples of a batch that failed.

        Args:
            failed: these.
            of: number of samples that the batch was to have.
            needs_one: whether a batch without a sample is of no use.

        Raises:
            RunFailed: none may be skipped, or not so many, or a batch that needs a sample has none.
        """
        if not failed:
            return
        self._found |= dict(failed)
        name = sample_name(self._dataset, failed[0].position)
        what = f"{name} of the {self._split} split cannot be read: {failed[0].error.rstrip('.')}."
        if self._at_most is None:
            raise RunFailed(
                f'{what} Mend or remove it, or have such samples skipped by Faults.unreadable "skip". {_KEPT}'
            )
        if len(self._found) > self._at_most * len(self._dataset):
            raise self._too_many(what)
        if needs_one and len(failed) == of:
            raise RunFailed(
                f"{what} There is no other sample in its batch, and a step needs one; take "
                f"{listing(self.names)} out of the data set. {_KEPT}"
            )

    def _too_many(self, what: str) -> RunFailed:
        return RunFailed(
            f"{what} It is one of {len(self._found)} of {len(self._dataset)} samples, more than "
            f"Faults.unreadable_at_most lets be skipped ({self._at_most:.3g} of all): "
            f"{listing(self.names)}. {_KEPT}"
        )


def first_readable(dataset: Any, wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    """A sample that can be read, which tells what fields samples have; None if none that is `wanted`.

    It is the first of those looked at.
    """
    failed: list[Unreadable] = []
    indices = looked_at(len(dataset))
    for index in indices:
        try:
            sample = look_at(dataset, index)
        except Exception as error:
            failed.append(as_unreadable(error, index))
        else:
            if wanted(sample):
                return sample
    if len(failed) < len(indices):
        return None
    raise ProtocolError(
        f"Dataset: of {len(failed)} samples looked at none can be read: {failed[0].error if failed else ''}"
    )


def read_readable(source: Any, indices: list[int]) -> tuple[list[int], Any, list[Unreadable]]:
    """Read a batch, if need be without the samples that cannot be read.

    Returns:
        Positions of those that were read; them collated, None if there are none; the others.
    """
    try:
        return indices, source.read_batch(indices), []
    except Exception as error:
        as_unreadable(error, indices[0])  # raises what says something else
        failed = [found for index in indices if (found := _try(source, index))]
        if not failed:  # it is the batch, not one of its samples
            raise
    left = [index for index in indices if index not in {found.position for found in failed}]
    return left, source.read_batch(left) if left else None, failed


def _try(source: Any, index: int) -> Unreadable | None:
    try:
        source.read_batch([index])
    except Exception as error:
        return as_unreadable(error, index)
    return None
