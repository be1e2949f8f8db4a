"""The contents of a batch of samples with any of the modalities, for `Contrastive`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ignite_trainer.api.batch import Mixed, PaddedBatch, PartialBatch, field_values, rows_with_field
from model.matches import Mixtures
from utils.tasks.mixing import mixtures_of, own_values


class Given(NamedTuple):
    """The contents of a batch in which samples may lack sounds, images, texts or labels.

    Attributes:
        samples: number of samples.
        rows: indices of the samples that have a modality, by modality, int64 `[n]` on the CPU; a sample with
            several captions is repeated.
        audio: audio of the samples that have audio, `[n, C, T]` or padded; None without any audio.
        image: images of the samples that have an image, `[n, 3, H, W]`; None without any image.
        texts: captions, or lists of labels of samples without a caption.
        labels: labels of each sample; may be empty.
        mixed: labels and captions of the samples in each row's mixture; empty if samples are not mixed.
    """

    samples: int
    rows: dict[str, Tensor]
    audio: Any
    image: Any
    texts: list[str | Sequence[str]]
    labels: list[Sequence[str]]
    mixed: list[Mixed]

    @classmethod
    def of(cls, batch: Any, modalities: frozenset[str], *, several_captions: bool = False) -> Given:
        """Unpack a collated batch of `Sample` or `DescribedSample`.

        Raises:
            ValueError: A sample has several captions, and `several_captions` is false.
        """
        count = max(map(reach, batch))
        labels: list[Sequence[str]] = [()] * count
        label_rows, text_rows = (
            dict(_by_row(getattr(batch, name, None), count)) for name in ("labels", "text")
        )
        for row, of_sample in zip(label_rows, own_values(label_rows.values()), strict=True):
            labels[row] = of_sample or ()
        captions = {
            row: [text] if isinstance(text, str) else list(text or ())
            for row, text in zip(text_rows, own_values(text_rows.values()), strict=True)
        }
        if not several_captions and (most := max(map(len, captions.values()), default=0)) > 1:
            raise ValueError(
                f"A sample has {most} captions, but training takes one. Return them as "
                "ignite_trainer.api.batch.Alternatives: then one is drawn for each epoch."
            )
        texts: list[tuple[int, str | Sequence[str]]] = []
        for row, names in enumerate(labels):
            texts += [(row, caption) for caption in captions.get(row, ())] or [(row, names)] * bool(names)
        rows = {name: rows_with_field(getattr(batch, name), count) for name in ("audio", "image")}
        rows["text"] = torch.tensor([row for row, _ in texts], dtype=torch.int64)
        return cls(
            count,
            {name: which for name, which in rows.items() if name in modalities},
            field_values(batch.audio) if "audio" in modalities else None,
            field_values(batch.image) if "image" in modalities else None,
            [text for _, text in texts] if "text" in modalities else [],
            labels,
            _mixed(label_rows, text_rows, count),
        )

    def shared(self, first: str, second: str) -> Tensor:
        """Return the indices of the samples that have both modalities, int64 `[n]`, ascending."""
        return self.rows[first][torch.isin(self.rows[first], self.rows[second])]

    def identities(self, rows: Tensor) -> list[Sequence[str]]:
        """Return keys that equal samples share: the labels, or else the text, or else the sample's index."""
        if self.mixed:
            return own_values(self._mixed_identities(rows))
        texts = dict(zip(self.rows["text"].tolist(), self.texts, strict=True)) if self.texts else {}
        return [_identity(self.labels[row], texts.get(row), row) for row in rows.tolist()]

    def mixtures(self, rows: Tensor, *, by_label: bool) -> Mixtures | None:
        """Return the mixtures in some rows, see `utils.tasks.mixing.mixtures_of`; None without mixing."""
        return mixtures_of(self._mixed_identities(rows), by_label=by_label) if self.mixed else None

    def _mixed_identities(self, rows: Tensor) -> list[Mixed]:
        mixed = [self.mixed[row] for row in rows.tolist()]
        return [
            row._replace(
                values=tuple(
                    _identity(labels, text if "text" in self.rows else None, sample)
                    for (labels, text), sample in zip(row.values, row.samples, strict=True)
                )
            )
            for row in mixed
        ]


def reach(field: Any) -> int:
    """Return the number of samples implied by a collated field; a partial field ends at its last row."""
    if isinstance(field, PartialBatch):
        return int(field.rows.max()) + 1 if len(field.rows) else 0
    if isinstance(field, PaddedBatch):
        return len(field.values)
    return 0 if field is None else len(field)


def _mixed(labels: Mapping[int, Any], texts: Mapping[int, Any], count: int) -> list[Mixed]:
    """Pair the labels and the caption of each sample in each row's mixture; empty without mixtures."""
    fields = [field for field in (labels, texts) if isinstance(next(iter(field.values()), None), Mixed)]
    if not fields:
        return []
    rows = []
    for row in range(count):
        known = next((field[row] for field in fields if row in field), Mixed((None,), (1.0,), (-1 - row,)))
        absent = [None] * len(known.samples)
        values = [field[row].values if row in field else absent for field in (labels, texts)]
        rows.append(known._replace(values=tuple(zip(*values, strict=True))))
    return rows


def _identity(labels: Sequence[str] | None, text: Any, sample: int) -> Sequence[str]:
    return labels or ([f"text: {text}"] if text else [f"sample: {sample}"])


def _by_row(field: Any, count: int) -> list[tuple[int, Any]]:
    """Return the row and the value of each sample that has this field."""
    values = field_values(field)
    return [] if values is None else list(zip(rows_with_field(field, count).tolist(), values, strict=True))
