"""Base class of data sets with captions in official splits, each listed in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ignite_trainer.api.findings import Inspection
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.listed import ListedDataset
from utils.datasets.sample import TEST, TRAIN, VALIDATION, Entries, Entry
from utils.datasets.sources.exclusion import Exclude


class Split(NamedTuple):
    """The clips of a table that have a sound.

    Attributes:
        name: name of the split, as published.
        table: name of the table.
        published: number of clips in the published table.
        listed: number of clips in this table.
        entries: clips that have a sound.
        remark: sentences about files that cannot be used, with a space before them.
    """

    name: str
    table: str
    published: int
    listed: int
    entries: list[Entry]
    remark: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the table has as many clips as the published one, all with a sound."""
        return len(self.entries) == self.listed == self.published

    def __str__(self) -> str:
        there = f"{self.listed:,} listed, {len(self.entries):,} with a sound"
        return f"{self.table}: {self.published:,} clips published, {there}"


class CaptionedDataset(ListedDataset):
    """Clips with captions and without labels, in official splits; results are named after the held-out clips.

    The other arguments are `utils.datasets.listed.ListedDataset`'s.

    Args:
        folder: folder of the sounds.
        parts: training split, which the validation split may follow; or the held-out split.
        train: whether these are trained on.
    """

    to_hold_out: ClassVar[str] = (
        'the official splits with "training": {"key": "train", "yes": true, "no": false}'
    )

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Split],
        *,
        train: bool,
        sample_rate: int,
        mono: bool | None,
        cache: str | Path | bool | None,
        progress: bool,
        exclude: Exclude,
    ) -> None:
        kinds = (TRAIN, VALIDATION) if train else (TEST,)
        splits = np.array([kind for kind, part in zip(kinds, parts, strict=False) for _ in part.entries])
        super().__init__(
            folder,
            Entries(entry for part in parts for entry in part.entries),
            None,
            train=train,
            validation=splits == VALIDATION if len(parts) > 1 else None,
            splits=splits,
            class_names=[],
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )
        self.held_out_splits = () if train else (parts[0].name,)
        self.results_name = self._name(parts[0])
        if incomplete := [f"{part}.{part.remark}" for part in parts if not part.is_complete or part.remark]:
            self.skipped_notice = " ".join(incomplete)

    def _name(self, part: Split) -> str:
        count = len(part.entries)
        if part.is_complete:
            return self.title
        if count < part.published:
            return f"part of {self.title} ({count:,} of {part.published:,} {part.name} clips)"
        return f"{self.title}, other tables ({count:,} {part.name} clips)"

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Check the tables and the files for `--check`; takes the constructor's arguments."""
        return inspect_listed(cls, args)
