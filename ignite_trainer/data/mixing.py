"""Mixes partners within a batch, and records in the list fields which samples each mixture consists of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ignite_trainer.api.batch import (
    Mixed,
    MixingTransform,
    PaddedBatch,
    PartialBatch,
    collate_field,
    field_values,
    rows_with_field,
)
from ignite_trainer.api.randomness import SampleRandom
from ignite_trainer.api.streamed import Indices
from ignite_trainer.data.samples import LoadedBatch, first_readable, not_an_array
from ignite_trainer.support.errors import ProtocolError


def mix(
    fields: Sequence[Any], at: int, transform: MixingTransform, random: SampleRandom, read: LoadedBatch
) -> list[Any]:
    """Mix the samples of a batch, and turn every value of its list fields into `Mixed`.

    Args:
        fields: collated fields of the batch.
        at: index of the field that the transform acts on.
        transform: transform that mixes samples.
        random: streams of the samples.
        read: the batch as it was loaded.
    """
    mixed, count = list(fields), len(read.indices)
    lists = [index for index, field in enumerate(fields) if isinstance(field_values(field), list)]
    partners = _partners(fields[at], [fields[index] for index in lists], read.places)
    shares = torch.ones(count, dtype=torch.float64)
    if (values := field_values(fields[at])) is not None:
        if not isinstance(values, PaddedBatch):
            raise not_an_array(values[0])
        rows = rows_with_field(fields[at], count)
        within = torch.searchsorted(rows, partners[rows])
        values, shares[rows] = transform(values, within, random.select(rows))
        mixed[at] = PartialBatch(rows, values) if isinstance(fields[at], PartialBatch) else values
    for index in lists:
        mixed[index] = _with_shares(fields[index], partners, shares, read.indices)
    return mixed


def place_of_partner(index: int, order: Indices, *, batch_size: int) -> int | None:
    """Return the position in an epoch's order of a sample's partner; None if the sample has none.

    A sample that occurs several times in the epoch has several partners; this is the first. A sample that
    does not occur has none.

    Args:
        index: position of the sample in the data set.
        order: samples of the epoch in order.
        batch_size: global batch size; even if several processes share a batch.
    """
    found = np.flatnonzero(np.asarray(order) == index)
    if not len(found):
        return None
    start = int(found[0]) // batch_size * batch_size
    place = start + (int(found[0]) - start ^ 1)
    return place if place < min(start + batch_size, len(order)) else None


def mixtures(sample: Any) -> dict[str, str]:
    """Describe the mixed values of a batch of size 1 by field, such as {"labels": "dog 0.71, rain 0.29"}."""
    described = {}
    for name, field in zip(getattr(sample, "_fields", range(len(sample))), sample, strict=True):
        for row in field if isinstance(field, list) else []:
            if isinstance(row, Mixed) and len(row.values) > 1:
                shares = zip(row.values, row.weights, strict=True)
                described[str(name)] = ", ".join(f"{_text(value)} {share:.2f}" for value, share in shares)
    return described


def check_fields(dataset: Any, *, where: str) -> None:
    """Raise ProtocolError if a field would not be mixed, or no field would record the mixtures.

    Args:
        dataset: data set whose samples are mixed.
        where: JSON path of the transform, for the error message.
    """
    sample = first_readable(dataset)
    names = getattr(sample, "_fields", range(len(sample)))
    fields = {name: collate_field([value]) for name, value in zip(names, sample, strict=True)}
    for name, field in fields.items():
        if isinstance(field, Tensor):
            raise ProtocolError(
                f'{where} mixes samples, but the field "{name}" is a number, which would not be mixed. Let '
                'the data set return a list, such as ["dog"], or remove the transform.'
            )
    if not any(isinstance(field, list) for field in fields.values()):
        raise ProtocolError(
            f"{where} mixes samples, but they have no labels or texts, in which the shares of a mixture are "
            "recorded. Let the data set return a list of labels, which may be empty, or remove the transform."
        )


def _partners(field: Any, lists: Sequence[Any], places: Sequence[int]) -> Tensor:
    """Return the row of each row's partner, or the row itself if the two cannot be mixed.

    Both must have the field, and either both or neither must have each of the list fields.
    """
    count = len(places)
    own, pairs = torch.arange(count), torch.tensor(places, dtype=torch.int64) // 2
    has, *has_lists = (torch.isin(own, rows_with_field(each, count)) for each in (field, *lists))
    fits = (pairs[1:] == pairs[:-1]) & has[1:] & has[:-1]
    for has_list in has_lists:
        fits &= has_list[1:] == has_list[:-1]
    first = fits.nonzero()[:, 0]
    partners = own.clone()
    partners[first], partners[first + 1] = first + 1, first
    return partners


def _with_shares(field: Any, partners: Tensor, shares: Tensor, indices: Tensor) -> Any:
    """Turn the values of a list field into `Mixed`."""
    rows = rows_with_field(field, len(indices)).tolist()
    values = dict(zip(rows, field_values(field), strict=True))
    mixed = []
    for row in rows:
        share, partner, index = float(shares[row]), int(partners[row]), int(indices[row])
        if share == 1.0:
            mixed.append(Mixed((values[row],), (1.0,), (index,)))
        else:
            members = (values[row], values[partner])
            mixed.append(Mixed(members, (share, 1.0 - share), (index, int(indices[partner]))))
    return field._replace(values=mixed) if isinstance(field, PartialBatch) else mixed


def _text(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
