"""Leaves training samples out by their recordings: those of known evaluation sets, or listed in files."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.datasets.sources.audioset_files import SEGMENTS, find_table
from utils.datasets.sources.recordings import esc50_recording, freesound, us8k_recording, youtube
from utils.datasets.sources.tables import open_lines, read_table
from utils.fetching.published import ESC_50, URBAN_SOUND_8K

Exclude = str | Sequence[str] | None
"""Argument that names recordings to leave out of training: files of identifiers, known sets, or None."""


class KnownSet(NamedTuple):
    """A public evaluation set.

    Attributes:
        folder: folder where it is expected.
        read: function that reads the recordings of its evaluation samples from the tables in a folder.
    """

    folder: str
    read: Callable[[Path], Iterable[str | None]]


class Excluded(NamedTuple):
    """Samples to leave out.

    Attributes:
        mask: True for samples to leave out, bool `[samples]`.
        counts: number of samples to leave out, by the first list that names their recording.
        unknown: number of samples whose recording is unknown.
    """

    mask: NDArray[np.bool_]
    counts: dict[str, int]
    unknown: int

    def __str__(self) -> str:
        by_list = " or ".join(f"{name} ({count:,})" for name, count in self.counts.items())
        unknown = f"; the recordings of {self.unknown:,} samples are unknown" if self.unknown else ""
        return (
            f"{sum(self.counts.values()):,} of {len(self.mask):,} training samples are left out, because "
            f"their recordings are in {by_list}{unknown}."
        )


class Exclusion:
    """Recordings to leave out of training.

    Args:
        exclude: one or several of: the path of a file with an identifier at the beginning of each line; the
            name of a known set, whose tables are in its usual folder; a name with another folder, such as
            "ESC-50:/data/ESC-50". An identifier without a prefix, as in "100032", matches any prefix.

    Raises:
        ValueError: Neither a file nor a known set has this name, its tables cannot be read, or it lists
            nothing.
    """

    def __init__(self, exclude: str | Sequence[str]) -> None:
        names = [exclude] if isinstance(exclude, str) else exclude
        if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) for n in names):
            raise ValueError(f"exclude is {exclude!r}; {_allowed()} is expected, or a list of them.")
        read: dict[str, frozenset[str]] = {}
        for name in names:
            known, identifiers = _read(name)
            if not identifiers:
                raise ValueError(f"exclude is {name!r}, which names no recording.")
            read[known] = read.get(known, frozenset()) | identifiers  # one set may be in several folders
        self._lists = {name: _Identifiers(identifiers) for name, identifiers in read.items()}

    def apply(self, sources: Sequence[str | None]) -> Excluded:
        """Find the training samples to leave out by the recordings that they come from.

        Raises:
            ValueError: No recording is known, or no sample is left.
        """
        if not any(sources):
            raise ValueError(
                "exclude is given, but the recording of no training sample is known; in a table, name the "
                'column that has it with "source".'
            )
        found = [
            None if source is None else next((n for n, ids in self._lists.items() if source in ids), None)
            for source in sources
        ]
        counts = Counter(name for name in found if name is not None)
        if counts.total() == len(sources):
            raise ValueError(f"exclude is {' and '.join(self._lists)}; that leaves no sample to train on.")
        return Excluded(
            np.array([name is not None for name in found]),
            {name: counts[name] for name in self._lists},
            sum(source is None for source in sources),
        )


def check_that_something_is_held_out(exclude: Exclude, *, held_out: bool) -> None:
    """Raise ValueError if recordings are to be left out of training, but no split is kept for evaluation."""
    if exclude is not None and not held_out:
        raise ValueError(
            f"exclude is {exclude!r}, but nothing is held out, so both splits are the whole data set; hold "
            "something out, or set exclude to null."
        )


def exclusion_remedy(name: str) -> str:
    """Return advice for samples of other data sets that share recordings with a known set."""
    return (
        f"Leave these out of training with --Dataset.args.exclude {name}, or {name}:FOLDER if its tables are "
        f"not in {KNOWN_SETS[name].folder}."
    )


class _Identifiers:
    """A set of identifiers, some of which may lack the prefix."""

    def __init__(self, identifiers: Iterable[str]) -> None:
        self._all = frozenset(identifiers)
        self._without_prefix = frozenset(one.partition(":")[2] or one for one in self._all)

    def __contains__(self, source: str) -> bool:
        _, colon, rest = source.partition(":")
        return source in self._all or (rest in self._all if colon else source in self._without_prefix)


def _read(name: str) -> tuple[str, frozenset[str]]:
    """Return the name of a list for messages, and the identifiers in it."""
    known, _, folder = name.partition(":")
    if known in KNOWN_SETS:
        root = Path(folder or KNOWN_SETS[known].folder).expanduser()
        try:
            return known, frozenset(filter(None, KNOWN_SETS[known].read(root)))
        except (OSError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(
                f'exclude is "{name}", but the table of {known} cannot be read: {reason}. Name the folder of '
                f'{known}, as in "{known}:FOLDER".'
            ) from error
    path = Path(name).expanduser()
    if path.is_file():
        return name, frozenset(_first_values(path))
    near = difflib.get_close_matches(known, KNOWN_SETS, n=1)
    raise ValueError(
        f'exclude is "{name}"; {_allowed()} is expected.' + (f' Did you mean "{near[0]}"?' if near else "")
    )


def _allowed() -> str:
    return (
        f"the path of a file of identifiers, or {', '.join(KNOWN_SETS)}, also with a folder, as in "
        '"ESC-50:FOLDER",'
    )


def _first_values(table: Path) -> Iterator[str]:
    """Read the first value of each line, except empty lines and comments (`#`)."""
    with open_lines(table) as lines:
        for line in lines:
            value = re.split(r"[,;\t]", line.strip(), maxsplit=1)[0].strip().strip('"')
            if value and not value.startswith("#"):
                yield value


def _esc50(root: Path) -> Iterator[str | None]:
    return (esc50_recording(row) for row in read_table(root / ESC_50.table, ["filename"]))


def _us8k(root: Path) -> Iterator[str | None]:
    return (us8k_recording(row) for row in read_table(root / URBAN_SOUND_8K.table, ["slice_file_name"]))


def _audioset(root: Path) -> Iterator[str]:
    table = find_table(root, SEGMENTS["eval"], advice="put the tables of AudioSet there")
    return map(youtube, _first_values(table))


def _audiocaps(root: Path) -> Iterator[str]:
    table = find_table(root, "test.csv", advice="put the tables of AudioCaps there")
    return (youtube(row.required("youtube_id")) for row in read_table(table, ["youtube_id"]))


def _vggsound(root: Path) -> Iterator[str]:
    with open_lines(find_table(root, "vggsound.csv", advice="put the table of VGGSound there")) as lines:
        yield from (youtube(values[0]) for values in csv.reader(lines) if values and values[-1] == "test")


def _fsd50k(root: Path) -> Iterator[str | None]:
    table = root / "FSD50K.ground_truth/eval.csv"
    return (freesound(row.text("fname")) for row in read_table(table, ["fname"]))


def _clotho(root: Path) -> Iterator[str | None]:
    table = root / "clotho_metadata_evaluation.csv"
    # Its names of sounds are not all in UTF-8; numbers are in any case.
    with table.open(encoding="latin-1", newline="") as file:
        yield from (freesound(row.get("sound_id")) for row in csv.DictReader(file))


KNOWN_SETS: dict[str, KnownSet] = {
    "ESC-50": KnownSet("data/ESC-50", _esc50),
    "UrbanSound8K": KnownSet("data/UrbanSound8K", _us8k),
    "FSD50K": KnownSet("data/FSD50K", _fsd50k),
    "Clotho": KnownSet("data/Clotho", _clotho),
    "AudioSet": KnownSet("data/AudioSet", _audioset),
    "AudioCaps": KnownSet("data/AudioCaps", _audiocaps),
    "VGGSound": KnownSet("data/VGGSound", _vggsound),
}
"""Evaluation sets by name: all folds of ESC-50 and UrbanSound8K, the evaluation splits of the others."""
