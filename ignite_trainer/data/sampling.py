"""Class-balanced sampling: random draws of training samples, in which rare labels are more frequent."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ignite_trainer.api.self_description import labels, listing, place
from ignite_trainer.api.streamed import Streamed
from ignite_trainer.support.errors import ProtocolError

_MAX_NAMED = 3  # samples without a label, in a message


class BalancedSampling:
    """Draws samples with replacement; the frequencies of its labels determine a sample's probability.

    The probability is proportional to the sum over the sample's labels of 1 / (number of samples with that
    label). If each sample has a single label, all labels are drawn equally often.

    Source: PSLA, arXiv 2102.01243. (PaSST, arXiv 2110.05069, adds 100 to each number of samples and draws
    without replacement.)

    Args:
        dataset: training split, whose method `listing` returns the labels of a sample.
        draws: number of draws in an epoch; None for the number of samples.

    Attributes:
        draws: number of draws in an epoch.
        probabilities: probability of each sample, float64 `[samples]`.

    Raises:
        ProtocolError: The labels are unknown, a sample has no label, or the data set is streamed.
    """

    def __init__(self, dataset: Any, *, draws: int | None = None) -> None:
        numbers, flat, lengths = _numbered_labels(dataset)
        self.draws = draws or len(lengths)
        self._names = list(numbers)
        self._counts = np.bincount(flat)
        starts = np.cumsum(lengths) - lengths
        weights: NDArray[np.float64] = np.add.reduceat(1 / self._counts[flat], starts)
        self.probabilities = weights / weights.sum()
        self._cumulative = np.cumsum(self.probabilities)
        drawn = np.bincount(flat, np.repeat(self.probabilities, lengths))
        self._gains = drawn * len(lengths) / self._counts

    def draw(self, key: int) -> NDArray[np.int64]:
        """Draw the samples of an epoch.

        Args:
            key: seed of the draw.

        Returns:
            Positions of the samples in the data set, int64 `[draws]`, in random order.
        """
        random = torch.Generator().manual_seed(key)
        points = torch.rand(self.draws, generator=random, dtype=torch.float64).numpy()
        total = self._cumulative[-1]
        # Without the last sample's bound, rounding cannot lead beyond that sample.
        drawn: NDArray[np.int64] = np.searchsorted(self._cumulative[:-1], points * total, side="right")
        return drawn

    @property
    def description(self) -> str:
        """Number of draws, and how often the rarest and the most frequent label are drawn."""
        rarest, *others = dict.fromkeys([int(self._counts.argmin()), int(self._counts.argmax())])
        frequent = "".join(f", {self._named(label)} {self._gains[label]:.3g} times" for label in others)
        return (
            f"balanced: {self.draws:,} draws per epoch; {len(self._names):,} labels, of which "
            f"{self._named(rarest)} is drawn {self._gains[rarest]:.3g} times as often as in the data"
            f"{frequent}"
        )

    def _named(self, label: int) -> str:
        count = int(self._counts[label])
        return f'"{self._names[label]}" ({count:,} sample{"s" * (count > 1)})'


def repetitions(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count, for each position in an order, the earlier occurrences of the same sample: int64 `[n]`."""
    by_sample = np.argsort(order, kind="stable")
    ordered = order[by_sample]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
    lengths = np.diff(firsts, append=len(order))
    found = np.empty_like(by_sample)
    found[by_sample] = np.arange(len(order)) - np.repeat(firsts, lengths)
    return found


def _numbered_labels(dataset: Any) -> tuple[dict[str, int], NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of the labels by name, the labels of all samples in a row, and their counts."""
    name = type(dataset).__name__
    problem, each = 'Setup.sampling is "balanced", but', 'set Setup.sampling to "each"'
    if isinstance(dataset, Streamed):
        raise ProtocolError(
            f"{problem} {name} is read sequentially, and rare samples cannot be read more often; use the "
            f"data set that it was made from, or {each}."
        )
    numbers: dict[str, int] = {}
    flat, lengths, unlabelled = array("q"), array("q"), list[int]()
    for index in range(len(dataset)):
        names = labels(dataset, index)
        if names is None:
            raise ProtocolError(
                f"{problem} {name} does not list the labels of its samples; give it a method listing(index) "
                f"(see ignite_trainer/api/self_description.py), or {each}."
            )
        own = {numbers.setdefault(label, len(numbers)) for label in names}
        if not own:
            unlabelled.append(index)
        flat.extend(own)
        lengths.append(len(own))
    if unlabelled:
        places = [place(dataset, index) for index in unlabelled[:_MAX_NAMED]]
        raise ProtocolError(
            f"{problem} {len(unlabelled):,} of {len(lengths):,} training samples have no label and would "
            f"never be drawn ({listing(places)}); label or remove them, or {each}."
        )
    return numbers, np.frombuffer(flat, np.int64), np.frombuffer(lengths, np.int64)
