"""What is wrong with a data set that is listed: lines of its tables, then its sounds and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.findings import Finding, Inspection, Severity, Space
from utils.datasets.checks.files import (
    Decoding,
    Sound,
    broken,
    broken_pictures,
    channels,
    decoded_bytes,
    equal,
    listen_to_all,
    suspicious,
    too_long,
)
from utils.datasets.checks.names import name_findings
from utils.datasets.checks.segments import place_of, segment_findings
from utils.datasets.checks.tables import BadLines, bad_lines, nothing_without, without_bad_lines
from utils.datasets.sources.cache import cache_folder
from utils.datasets.sources.entries import Entries, Entry
from utils.datasets.sources.hearing import Heard

T = TypeVar("T")


class Listed(Decoding, Protocol):
    """The parts of a `ListedDataset` that its check uses."""

    title: ClassVar[str]
    to_take_whole: ClassVar[str]
    sample_rate: int
    mono: bool | None
    entries: Entries
    class_names: list[str]
    digest: str
    notice: str | None
    passed_over: str | None
    absent: tuple[str, ...]
    unused_columns: str
    lines: Sequence[int] | NDArray[np.int64]
    source: str

    def is_to_be_decoded(self) -> bool:
        """Return whether `prepare` has clips to decode."""


MOST_LOOKED_AT = 20_000
"""Sounds, and pictures; of more than that so many are taken, evenly."""


def inspect_listed(
    build: Callable[[bool], Listed],
    *,
    cache: str | Path | bool | None = None,
    progress: bool = True,
    absent: Severity = "error",
) -> Inspection:
    """Look for faults in both splits of a data set.

    Args:
        build: makes the split to train on, or the other one; passes over files that are not there.
        cache: the data set's argument.
        progress: show a bar, or lines where there is no terminal.
        absent: what it is that a file is not there.

    Raises:
        ValueError, OSError: nothing of it can be read, or an argument is wrong.
    """
    bad: BadLines = {}
    try:
        train, test = without_bad_lines(lambda: (build(True), build(False)), bad)
    except (OSError, ValueError) as error:
        if bad:
            raise nothing_without(bad, error) from error
        raise
    apart = train.digest != test.digest
    placed = [("training split" * apart, entry) for entry in train.entries]
    if apart:
        placed += [("held-out split", entry) for entry in test.entries]
    splits = (train, test) if apart else (train,)
    findings = [*bad_lines(bad), *_left_out(splits, absent)]

    listed = _lines(splits)
    sounds = _evenly(list(dict.fromkeys(_sounds(placed, listed))))
    pictures = _evenly(list(dict.fromkeys(path for _, entry in placed for path in entry.images)))
    heard = listen_to_all(train.root, sounds, title=train.title, progress=progress)
    usable = {sound: one for sound, one in heard.items() if one.fault is None}
    findings += broken(heard)
    findings += name_findings(set(train.class_names))
    findings += broken_pictures(train.root, pictures, listed=listed, title=train.title, progress=progress)
    findings += suspicious(train.sample_rate, usable)
    findings += channels(train.mono, usable)
    whole = set(_sounds(((split, entry) for split, entry in placed if entry.segment is None), listed))
    read_whole = {sound: one for sound, one in usable.items() if sound in whole}
    findings += too_long(train.sample_rate, train.mono, read_whole)
    findings += equal(read_whole, place="split" if apart else "fold")
    findings += segment_findings(
        placed, usable, place="split" if apart else "fold", remedy=train.to_take_whole
    )
    seconds = _seconds(placed, usable)
    space: tuple[Space, ...] = ()
    if train.is_to_be_decoded():
        rate, undecoded = decoded_bytes(train, usable)
        findings += undecoded
        folder = cache_folder(None if isinstance(cache, bool) else cache)
        space = (Space(folder=folder, size_bytes=round(rate * seconds), purpose="decoded clips"),)
    return Inspection(
        findings=tuple(findings),
        space=space,
        to_build={"missing": "skip"} if train.absent and absent == "error" else {},
        summary=f"{train.title}: {len(placed):,} samples, {len(train.class_names)} classes, "
        f"{seconds / 3600:.2f} h of {len(sounds):,} sounds and {len(pictures):,} pictures looked at"
        + f"; unused columns: {train.unused_columns}"
        * bool(train.unused_columns),
    )


def _left_out(splits: Iterable[Listed], absent: Severity) -> Iterator[Finding]:
    """Files that are not there, where they are known by name, or else how many samples are without."""
    for dataset in splits:
        if dataset.notice is not None and not dataset.absent:
            yield Finding(severity="warning", what="Part of the data is not there.", where=dataset.notice)
        if dataset.passed_over is not None:
            yield Finding(
                severity="warning",
                what="Part of the folder, or of the arguments, is not used.",
                where=dataset.passed_over,
            )
    for path in dict.fromkeys(path for dataset in splits for path in dataset.absent):
        yield Finding(
            severity=absent,
            what="The file is not there.",
            where=path,
            remedy="Fetch it, or take it out of the data set; --Dataset.args.missing skip does without "
            "all such files.",
        )


def _lines(splits: Iterable[Listed]) -> dict[str, str]:
    """Where each file is listed first, by its path, if the data set knows."""
    lines: dict[str, str] = {}
    for dataset in splits:
        for entry, line in zip(dataset.entries, dataset.lines, strict=False):  # no lines: not known
            for path in (entry.audio, *entry.images):
                if path is not None:
                    lines.setdefault(path, f"{dataset.source}, line {line}")
    return lines


def _sounds(placed: Iterable[tuple[str, Entry]], listed: Mapping[str, str]) -> Iterator[Sound]:
    for split, entry in placed:
        if entry.audio is not None:
            listed_at = listed.get(entry.audio, "")
            yield Sound(entry.audio, place_of(split, entry), ", ".join(entry.labels), listed_at)


def _seconds(placed: Sequence[tuple[str, Entry]], heard: dict[Sound, Heard]) -> float:
    """How long all clips that were listened to are, each once."""
    length = {sound.path: one.samples / one.rate for sound, one in heard.items()}
    total = 0.0
    for audio, segment in {(entry.audio, entry.segment) for _, entry in placed}:
        if audio in length:
            begin, end = segment or (0.0, None)
            total += max(0.0, min(length[audio], length[audio] if end is None else end) - begin)
    return total


def _evenly(items: Sequence[T]) -> list[T]:
    """All of them, or as many as are looked at."""
    if len(items) <= MOST_LOOKED_AT:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, MOST_LOOKED_AT).astype(int)]
