"""What counts as a match in retrieval; ranking by embeddings is left to `utils.evaluations.retrieval`."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class PositivePairs:
    """Which items answer which query: those that share a label with it.

    Kept as the labels of each query and the items of each label, so that no matrix of queries by items is
    ever made. For the other direction of retrieval swap the arguments.
    """

    def __init__(
        self, query_labels: Iterable[Collection[Hashable]], item_labels: Iterable[Collection[Hashable]]
    ) -> None:
        self._labels_of_query = [tuple(labels) for labels in query_labels]
        items_of_label: dict[Hashable, list[int]] = {}
        self.item_count = 0
        for item, labels in enumerate(item_labels):
            self.item_count += 1
            for label in set(labels):
                items_of_label.setdefault(label, []).append(item)
        self._items_of_label = {
            label: np.array(items, dtype=np.int64) for label, items in items_of_label.items()
        }

    @classmethod
    def by_label(
        cls, query_labels: Tensor | Sequence[Hashable], item_labels: Tensor | Sequence[Hashable]
    ) -> PositivePairs:
        """Match queries and items of the same label.

        Args:
            query_labels: one for each query: names or numbers, or an integer tensor `[Nq]`.
            item_labels: one for each item, `[Ni]`.

        Raises:
            ValueError: a tensor is not one-dimensional, or not of integers.
        """
        return cls(*([(label,) for label in _listed(labels)] for labels in (query_labels, item_labels)))

    @classmethod
    def by_label_sets(
        cls, query_labels: Sequence[Collection[Hashable]], item_labels: Sequence[Collection[Hashable]]
    ) -> PositivePairs:
        """Match queries and items that have at least one label in common.

        Args:
            query_labels: the labels of each query, possibly none.
            item_labels: the labels of each item, possibly none.

        Raises:
            ValueError: the labels of one are a string.

        Example:
            >>> pairs = PositivePairs.by_label_sets([["dog"], ["rain"]], [["rain", "wind"], ["dog"], ["dog"]])
            >>> [pairs.items_of(query).tolist() for query in range(2)]
            [[1, 2], [0]]
        """
        for labels in (*query_labels, *item_labels):
            if isinstance(labels, str):
                raise ValueError(
                    f'A set of labels is the string "{labels}"; give a collection such as ["{labels}"], or '
                    "use by_label where everything has exactly one label."
                )
        return cls(query_labels, item_labels)

    @classmethod
    def by_index(cls, count: int) -> PositivePairs:
        """Match query i and item i alone, for `count` of both."""
        return cls.by_label(range(count), range(count))

    @property
    def query_count(self) -> int:
        """How many queries these are the positives of."""
        return len(self._labels_of_query)

    def items_of(self, query: int) -> NDArray[np.int64]:
        """Return the indices of the query's positives, each once, ascending."""
        known = self._items_of_label
        found = [known[label] for label in self._labels_of_query[query] if label in known]
        if len(found) == 1:
            return found[0]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def _listed(labels: Tensor | Sequence[Hashable]) -> Sequence[Hashable]:
    if not isinstance(labels, Tensor):
        return labels
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f"Labels are a tensor of {labels.dtype} with shape {list(labels.shape)}; expected integers, one "
            "for each query or item. For several labels each use by_label_sets."
        )
    numbers: list[int] = labels.tolist()
    return numbers
