"""Loads single samples, applies per-sample transforms, and counts unreadable samples."""

from __future__ import annotations

import contextlib
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_trainer.api.batch import BatchTransform, collate, draw_alternatives, rebuild
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.self_description import listing, look_at, sample_name, samples_to_check
from ignite_trainer.support.distributed import all_gather
from ignite_trainer.support.errors import ProtocolError, RunFailed, SampleUnreadable, described
from ignite_trainer.support.memory import is_out_of_memory

_BUGS = (ProtocolError, NotImplementedError, RecursionError)
_KEPT = "The results of finished epochs are kept."


class PlacedTransform(NamedTuple):
    """A transform in the pipeline.

    Attributes:
        apply: the transform.
        field: index of the field that it acts on.
        position: its position in the pipeline.
        where: its JSON path.
        is_tried: whether this is a trial, in which errors become a ProtocolError with the path; in a run,
            they remain as they are.
    """

    apply: Callable[..., Any]
    field: int = 0
    position: int = 0
    where: str = "Transforms"
    is_tried: bool = False

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Add the path to errors if the transform is tried, unless they are about the sample."""
        try:
            yield
        except SampleUnreadable:
            raise
        except Exception as error:
            if not self.is_tried:
                raise
            raise ProtocolError(f"{self.where}: {described(error)}") from error


class Reference(NamedTuple):
    """A sample in an epoch: its position in the data set, and how often it was drawn before in the epoch."""

    epoch: int
    position: int
    repetition: int = 0


class Unreadable(NamedTuple):
    """The position of an unreadable sample in the data set, and the error message."""

    position: int
    error: str


class LoadedBatch(NamedTuple):
    """The readable samples of a batch.

    Attributes:
        indices: positions of the readable samples in the data set, int64 `[B]`.
        sample: the readable samples, collated; None if there are none.
        failed: the unreadable samples.
        places: positions of the readable samples in the batch as planned, ascending.
        repetitions: how often each readable sample was drawn before in the epoch.
    """

    indices: Tensor
    sample: Any
    failed: list[Unreadable]
    places: Sequence[int]
    repetitions: Sequence[int]


@dataclass(eq=False)
class TransformedSamples(Dataset[Any]):
    """A data set indexed by references that applies the per-sample transforms.

    An item is a pair of reference and sample; an `Unreadable` replaces a sample that cannot be read. If
    `draws`, one value is drawn from fields with `Alternatives`.
    """

    dataset: Dataset[Any]
    steps: list[PlacedTransform]
    seed: int
    draws: bool = False

    def __getitem__(self, reference: Reference) -> tuple[Reference, Any]:
        return self.load(reference, lambda: self.dataset[reference.position])

    def load(self, reference: Reference, read: Callable[[], Any]) -> tuple[Reference, Any]:
        """Call `read`, which returns a sample or raises an error, and transform the sample."""
        epoch, index, repetition = reference
        sample = attempt(read, index)  # an error raised in a worker would arrive as pages of traceback
        if isinstance(sample, Unreadable):
            return reference, sample
        if not isinstance(sample, tuple | list):
            raise ProtocolError(
                f"Dataset.class returns samples of type {type(sample).__name__}; "
                "each sample must be a tuple or named tuple of fields."
            )
        if not self.steps and not self.draws:
            return reference, sample
        streams = SampleRandom.of(seed=self.seed, epoch=epoch, indices=[index], repetitions=[repetition])
        fields = draw_alternatives(sample, streams) if self.draws else list(sample)
        try:
            for step in self.steps:
                if (value := fields[step.field]) is not None:
                    with step.named():
                        fields[step.field] = _transform_one(step.apply, value, streams.stream(step.position))
        except SampleUnreadable as error:
            return reference, Unreadable(index, str(error))
        return reference, rebuild(sample, fields)


def collate_read(items: list[tuple[Reference, Any]]) -> LoadedBatch:
    """Collate the readable samples among items of `TransformedSamples`."""
    failed = [sample for _, sample in items if isinstance(sample, Unreadable)]
    places = [place for place, (_, sample) in enumerate(items) if not isinstance(sample, Unreadable)]
    samples = collate([items[place][1] for place in places]) if places else None
    return _loaded([items[place][0] for place in places], samples, failed, places)


def read_readable(source: Any, references: list[Reference]) -> LoadedBatch:
    """Read a batch, dropping unreadable samples."""
    indices = [reference.position for reference in references]
    try:
        return _loaded(references, source.read_batch(indices), [], range(len(references)))
    except Exception as error:
        as_unreadable(error, indices[0])  # re-raises bugs
        single = [attempt(partial(source.read_batch, [index]), index) for index in indices]
        failed = [batch for batch in single if isinstance(batch, Unreadable)]
        if not failed:  # every sample is readable, but the batch is not
            raise
    places = [place for place, index in enumerate(indices) if index not in dict(failed)]
    readable = [references[place] for place in places]
    sample = source.read_batch([reference.position for reference in readable]) if readable else None
    return _loaded(readable, sample, failed, places)


def attempt(read: Callable[[], Any], index: int) -> Any:
    """Call `read`; return its result, or an `Unreadable` if the sample cannot be read."""
    try:
        return read()
    except Exception as error:
        return as_unreadable(error, index)


def as_unreadable(error: Exception, index: int) -> Unreadable:
    """Describe an unreadable sample; re-raise the error if it is a bug in the data set's code.

    A missing or broken file causes an OSError, a ValueError, an EOFError or a RuntimeError (from a decoder).
    A ValueError or RuntimeError may also be a bug, so the description includes its type and the function
    that raised it.
    """
    from_file = isinstance(error, OSError | ValueError | EOFError | RuntimeError)
    if not from_file or isinstance(error, _BUGS) or is_out_of_memory(error):
        raise error
    message = str(error) or type(error).__name__
    if isinstance(error, OSError | EOFError):
        return Unreadable(index, message)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return Unreadable(index, f"{message.rstrip('.')} ({type(error).__name__} in {place.name})")


def first_readable(dataset: Any, predicate: Callable[[Any], bool] = lambda _: True) -> Any:
    """Return the first readable sample that satisfies `predicate` among the samples to check, or None.

    Raises:
        ProtocolError: None of these samples can be read.
    """
    failed: list[Unreadable] = []
    indices = samples_to_check(len(dataset))
    for index in indices:
        sample = attempt(partial(look_at, dataset, index), index)
        if isinstance(sample, Unreadable):
            failed.append(sample)
        elif predicate(sample):
            return sample
    if len(failed) < len(indices):
        return None
    raise ProtocolError(
        f"Dataset: none of the {len(failed)} samples checked could be read: {failed[0].error}"
    )


@dataclass(eq=False)
class UnreadableSamples:
    """The unreadable samples found in a split so far.

    `max_share` is the maximum share of the split that may be skipped, from 0 to 1. If it is None, the first
    unreadable sample ends the run.
    """

    dataset: Any
    split: str
    max_share: float | None = None
    _found: dict[int, str] = field(default_factory=dict, init=False)

    @property
    def may_skip(self) -> bool:
        """True if unreadable samples may be skipped."""
        return self.max_share is not None

    @property
    def names(self) -> list[str]:
        """Names of the unreadable samples."""
        return [sample_name(self.dataset, index) for index in self._found]

    def state_dict(self) -> dict[int, str]:
        """Return the error messages, keyed by sample position."""
        return dict(self._found)

    def load_state_dict(self, state: Mapping[int, str]) -> None:
        """Restore a state; raise a ValueError if it has positions outside the split."""
        if not all(type(index) is int and 0 <= index < len(self.dataset) for index in state):
            raise ValueError(
                f"it lists unreadable samples at positions that the {self.split} split does not have."
            )
        self._found = {index: str(error) for index, error in state.items()}

    def merge_across_processes(self) -> None:
        """Merge the findings of all processes; raise a RunFailed if there are too many unreadable samples."""
        for found in all_gather(self._found):
            self._found |= found
        self._limit(f"Some samples of the {self.split} split cannot be read.")

    def add(self, failed: list[Unreadable], *, none_left: bool) -> None:
        """Count the unreadable samples of a batch.

        Args:
            failed: unreadable samples of the batch, at least one.
            none_left: whether the batch belongs to a training step and has no readable sample.

        Raises:
            RunFailed: Too many samples are unreadable, or none is left for a training step.
        """
        self._found |= dict(failed)
        name = sample_name(self.dataset, failed[0].position)
        problem = f"{name} of the {self.split} split cannot be read: {failed[0].error.rstrip('.')}."
        if self.max_share is None:
            raise RunFailed(f'{problem} Repair or remove it, or set Faults.unreadable to "skip". {_KEPT}')
        self._limit(problem)
        if none_left:
            raise RunFailed(
                f"{problem} No sample in its batch can be read, and a training step needs at least one; "
                f"remove {listing(self.names)} from the data set. {_KEPT}"
            )

    def _limit(self, problem: str) -> None:
        if self.max_share is not None and len(self._found) > self.max_share * len(self.dataset):
            raise RunFailed(
                f"{problem} {len(self._found)} of {len(self.dataset)} samples are unreadable, more than "
                f"Faults.unreadable_at_most allows ({100 * self.max_share:.3g} % of the split): "
                f"{listing(self.names)}. {_KEPT}"
            )


def not_an_array(value: Any) -> ValueError:
    """Make the error about a value that a transform of whole batches cannot take."""
    kind = "number" if isinstance(value, int | float) or hasattr(value, "ndim") else type(value).__name__
    return ValueError(f"it transforms arrays, but its field has values of type {kind}.")


def _loaded(
    references: Sequence[Reference], sample: Any, failed: list[Unreadable], places: Sequence[int]
) -> LoadedBatch:
    indices = torch.tensor([reference.position for reference in references], dtype=torch.int64)
    return LoadedBatch(indices, sample, failed, places, [reference.repetition for reference in references])


def _transform_one(transform: Callable[..., Any], value: Any, streams: SampleRandom) -> Any:
    if isinstance(transform, BatchTransform):
        try:
            array = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise not_an_array(value) from None
        if not array.ndim:
            raise not_an_array(value)
        return transform(array, streams)
    with _global_seed(streams.seeds()[0]):
        return transform(value)


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed all global generators for a third-party transform, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
