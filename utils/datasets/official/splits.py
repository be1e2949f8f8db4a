"""Base class of published data sets with official splits, each listed in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.findings import Inspection
from model.audio_input import AUDIO_SUFFIXES
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.listed import ListedDataset
from utils.datasets.sample import VALIDATION, Entries, Entry
from utils.datasets.sources.exclusion import Exclude


class Split(NamedTuple):
    """The clips of a split that have a sound.

    Attributes:
        name: name of the split, as published.
        table: name of the table that lists it.
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
        """True if the table has as many clips as the published one, and all have a sound."""
        return len(self.entries) == self.listed == self.published

    def refuse_no_sound(self, folder: Path, advice: str) -> None:
        """Raise FileNotFoundError if no clip has a sound in the folder."""
        if not self.entries:
            raise FileNotFoundError(f"{folder} has no sound of any clip ({self}). {advice}{self.remark}")

    def __str__(self) -> str:
        counted = f"{self.listed:,} listed, {len(self.entries):,} with a sound"
        return f"{self.table}: {self.published:,} {self.name} clips published, {counted}"


class OfficialDataset(ListedDataset):
    """Clips in official splits. Clips without a file are skipped; `prepare` reports how many.

    The other arguments are `utils.datasets.listed.ListedDataset`'s.

    Args:
        folder: folder of the sounds.
        parts: the published splits that `splits` tells apart: those to train on, which may include the
            validation split; the held-out split; or all of them.
        splits: a `sample.TRAIN`, `VALIDATION` or `TEST` for each clip in the parts, in order.
        train: whether the parts are trained on.
        validation: whether the clips of the validation split choose the best epoch, instead of being trained
            on.
        whole: whether both splits are the whole data set.
    """

    to_hold_out: ClassVar[str] = (
        'the official splits with "training": {"key": "train", "yes": true, "no": false}'
    )

    def __init__(
        self,
        folder: Path,
        parts: Sequence[Split],
        splits: NDArray[np.str_],
        *,
        train: bool,
        validation: bool,
        whole: bool = False,
        class_names: Sequence[str] = (),
        sample_rate: int,
        mono: bool | None,
        cache: str | Path | bool | None,
        progress: bool,
        exclude: Exclude,
    ) -> None:
        super().__init__(
            folder,
            Entries(entry for part in parts for entry in part.entries),
            None,
            train=train,
            validation=splits == VALIDATION if validation else None,
            splits=splits,
            class_names=class_names,
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )
        self.held_out_splits = () if train or whole else (parts[0].name,)
        self.results_name = self._name(parts if whole else parts[:1])
        incomplete = [f"{part}.{part.remark}" for part in parts if not part.is_complete or part.remark]
        if incomplete and (train or not whole):  # once if both splits are the same
            self.skipped_notice = " ".join(incomplete)

    def _name(self, parts: Sequence[Split]) -> str:
        """Name the evaluated clips; the title alone means the held-out ones, as in published results."""
        names = " and ".join(part.name for part in parts)
        if all(part.is_complete for part in parts):
            return self.title if len(parts) == 1 else f"{self.title}, {names}"
        there, published = sum(len(part.entries) for part in parts), sum(part.published for part in parts)
        if there < published:
            return f"part of {self.title} ({there:,} of {published:,} {names} clips)"
        return f"{self.title}, other tables ({there:,} {names} clips)"

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Check the tables and the files for `--check`; takes the constructor's arguments."""
        return inspect_listed(cls, args)


def sounds_in(folder: Path) -> list[str]:
    """Return the names of the sound files in a folder; nothing if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)


def splits_of(parts: Sequence[Split], kinds: Mapping[str, str]) -> NDArray[np.str_]:
    """Return the official split of each clip in the parts, by the parts' names."""
    of_parts = np.array([kinds[part.name] for part in parts], dtype=f"<U{len(VALIDATION)}")
    return of_parts.repeat([len(part.entries) for part in parts])
