"""Samples one by one, with the transforms that run where they are loaded."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_trainer.api.batch import BatchTransform, collate, rebuild
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.data.unreadable import Unreadable, as_unreadable
from ignite_trainer.support.errors import ProtocolError, SampleUnreadable

Step = tuple[int, int, Callable[..., Any]]
"""Position of a field in the sample, position in the pipeline, transform."""

Batched = tuple[Tensor, Any, list[Unreadable]]
"""Indices of the samples of a batch that were read, these collated (None: there are none), and the others."""


class TransformedSamples(Dataset[Any]):
    """A data set asked for by (epoch, index), with the steps that take one sample at a time.

    It gives the index and the sample, or an `Unreadable` in its place.
    """

    def __init__(self, dataset: Dataset[Any], steps: list[Step], seed: int) -> None:
        self._dataset, self._steps, self._seed = dataset, steps, seed

    def __getitem__(self, reference: tuple[int, int]) -> tuple[int, Any]:
        return self.load(reference, lambda: self._dataset[reference[1]])

    def load(self, reference: tuple[int, int], read: Callable[[], Any]) -> tuple[int, Any]:
        """Load the sample of a reference by a function that gives it or raises."""
        epoch, index = reference
        try:
            sample = read()
        except Exception as error:
            # Passed on, since what is raised in another process arrives as pages of text.
            return index, as_unreadable(error, index)
        if not isinstance(sample, tuple | list):
            raise ProtocolError(
                f"Dataset.class gives a {type(sample).__name__} as a sample; "
                "it must give a (named) tuple of fields."
            )
        if not self._steps:
            return index, sample
        streams = SampleRandom.of(seed=self._seed, epoch=epoch, indices=[index])
        fields = list(sample)
        try:
            for field, position, transform in self._steps:
                if fields[field] is not None:
                    fields[field] = _transform_one(transform, fields[field], streams.stream(position))
        except SampleUnreadable as error:
            return index, Unreadable(index, str(error))
        return index, rebuild(sample, fields)


def collate_read(items: list[tuple[int, Any]]) -> Batched:
    """Collate the samples that were read."""
    failed = [sample for _, sample in items if isinstance(sample, Unreadable)]
    read = [(index, sample) for index, sample in items if not isinstance(sample, Unreadable)]
    samples = collate([sample for _, sample in read]) if read else None
    return torch.tensor([index for index, _ in read], dtype=torch.int64), samples, failed


def _transform_one(transform: Callable[..., Any], value: Any, streams: SampleRandom) -> Any:
    if isinstance(transform, BatchTransform):
        return transform(torch.as_tensor(value), streams)
    with _global_seed(streams.seeds()[0]):
        return transform(value)


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """Seed every global generator for a foreign transform, and put back their states after it."""
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
