"""What the samples of a batch have: sounds, pictures, texts and labels, any of which some samples lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ignite_trainer.api.batch import PaddedBatch, PartialBatch, rows_of, values_of


class Given(NamedTuple):
    """What the samples of a batch have.

    Attributes:
        samples: how many there are.
        rows: int64 `[n]` by modality, on the CPU: who has it.
        audio: of those who have it, `[n, C, T]` or padded; None if nobody has.
        image: `[n, 3, H, W]`, likewise.
        texts: of those who have one, what describes the sample, or the list of its labels.
        labels: of each sample; none if it has none.
    """

    samples: int
    rows: dict[str, Tensor]
    audio: Any
    image: Any
    texts: list[str | Sequence[str]]
    labels: list[Sequence[str]]

    @classmethod
    def of(cls, batch: Any, modalities: frozenset[str]) -> Given:
        """Take a collated batch apart, `Sample` or `DescribedSample`."""
        count = max(_reach(field) for field in batch)
        labels: list[Sequence[str]] = [()] * count
        for row, of_sample in _listed(batch.labels, count):
            labels[row] = of_sample
        texts: dict[int, str | Sequence[str]] = {row: names for row, names in enumerate(labels) if names}
        texts |= dict(_listed(getattr(batch, "text", None), count))
        rows = {name: rows_of(getattr(batch, name), count) for name in ("audio", "image")}
        rows["text"] = torch.tensor(sorted(texts), dtype=torch.int64)
        return cls(
            count,
            {name: which for name, which in rows.items() if name in modalities},
            values_of(batch.audio) if "audio" in modalities else None,
            values_of(batch.image) if "image" in modalities else None,
            [texts[row] for row in sorted(texts)] if "text" in modalities else [],
            labels,
        )

    def shared(self, first: str, second: str) -> Tensor:
        """The samples that have both modalities: int64 `[n]`, ascending."""
        return self.rows[first][torch.isin(self.rows[first], self.rows[second])]

    def identities(self, rows: Tensor) -> list[Sequence[str]]:
        """By what samples are the same as others: their labels, or else their text, or else none."""
        texts = dict(zip(self.rows["text"].tolist(), self.texts, strict=True)) if self.texts else {}
        return [
            self.labels[row] or ([f"text: {texts[row]}"] if row in texts else [f"sample: {row}"])
            for row in rows.tolist()
        ]


def _reach(field: Any) -> int:
    """The number of samples that a collated field speaks of: of a partial one up to the last that has it."""
    if isinstance(field, PartialBatch):
        return int(field.rows.max()) + 1 if len(field.rows) else 0
    if isinstance(field, PaddedBatch):
        return len(field.values)
    return 0 if field is None else len(field)


def _listed(field: Any, count: int) -> list[tuple[int, Any]]:
    """Row and value of each sample that has a field."""
    values = values_of(field)
    return [] if values is None else list(zip(rows_of(field, count).tolist(), values, strict=True))
