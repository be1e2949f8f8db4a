"""Checks of a listed data set: first the lines of its tables, then its sounds and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ignite_trainer.api.findings import Finding, Inspection, Severity
from utils.datasets.checks import unreadable_lines, warning
from utils.datasets.checks.files import (
    Heard,
    Sound,
    broken_pictures,
    equal,
    estimate_space,
    listen_to_all,
    sound_findings,
    too_long,
    usable_sounds,
)
from utils.datasets.checks.names import name_findings
from utils.datasets.checks.segments import place_of, segment_findings
from utils.datasets.listed import ListedDataset
from utils.datasets.sample import Entry
from utils.datasets.sources.tables import build_without_bad_lines

T = TypeVar("T")

MOST_LOOKED_AT = 20_000
"""Maximum number of sounds, and of images, to check; beyond it, an evenly spaced selection is checked."""


def inspect_listed(
    kind: Callable[..., ListedDataset], args: Mapping[str, Any], *, absent: Severity = "error"
) -> Inspection:
    """Check both splits of a data set.

    Args:
        kind: class of the data set.
        args: arguments of its constructor, with which missing files do not raise an error; with `train`, only
            that split is checked.
        absent: severity of a missing file.

    Raises:
        ValueError, OSError: Nothing of the table can be read, or an argument is wrong.
    """

    def build() -> tuple[ListedDataset, ListedDataset]:
        if "train" in args:
            return (only := kind(**args)), only
        return kind(**{**args, "train": True}), kind(**{**args, "train": False})

    (train, test), bad_lines = build_without_bad_lines(build)
    cache, progress = args.get("cache"), bool(args.get("progress", True))
    apart = train.digest != test.digest
    place = "split" if apart else "fold"
    named = {"training split": train, "held-out split": test} if apart else {"": train}
    if train.validation is not None:
        named["validation split"] = train.validation
    splits = tuple(named.values())
    placed = [(name, entry) for name, data in named.items() for entry in data.entries]

    listed = _lines(splits)
    sounds = _evenly(list(dict.fromkeys(_sounds(placed, listed))))
    pictures = _evenly(list(dict.fromkeys(path for _, entry in placed for path in entry.images)))
    heard = listen_to_all(train.root, sounds, title=train.title, progress=progress)
    usable = usable_sounds(heard)
    whole = set(_sounds([one for one in placed if one[1].segment is None], listed))
    read_whole = {sound: one for sound, one in usable.items() if sound in whole}
    findings = unreadable_lines(bad_lines)
    findings += _left_out(splits, absent)
    findings += name_findings(train.class_names)
    findings += broken_pictures(train.root, pictures, listed=listed, title=train.title, progress=progress)
    findings += sound_findings(train, heard)
    findings += too_long(train.sample_rate, train.mono, read_whole)
    findings += equal(read_whole, place=place)
    findings += segment_findings(placed, usable, place=place, remedy=train.segments_remedy)
    seconds = _seconds(placed, usable)
    spaces = []
    if train.is_to_be_decoded():
        folder = None if isinstance(cache, bool) else cache
        space, undecoded = estimate_space(train, usable, seconds=seconds, cache=folder)
        spaces.append(space)
        findings += undecoded
    unused = f"; unused columns: {train.unused_columns}" if train.unused_columns else ""
    captions = sum(len(entry.captions) for _, entry in placed)
    described = f"{captions:,} captions, " if captions else ""
    return Inspection(
        findings=tuple(findings),
        space=tuple(spaces),
        to_build={"missing": "skip"} if train.absent and absent == "error" else {},
        summary=f"{train.title}: {len(placed):,} samples, {len(train.class_names)} classes, {described}"
        f"{seconds / 3600:.2f} h of {len(sounds):,} sounds and {len(pictures):,} images checked{unused}",
    )


def _left_out(splits: Sequence[ListedDataset], absent: Severity) -> Iterator[Finding]:
    """Report the names of missing files if known, and otherwise the number of affected samples."""
    for dataset in splits:
        if dataset.skipped_notice is not None and not dataset.absent:
            yield warning("Part of the data set is missing.", dataset.skipped_notice)
        if dataset.ignored_notice is not None:
            yield warning("Not everything is used as it is listed.", dataset.ignored_notice)
    remedy = "Download it, or remove it from the data set; --Dataset.args.missing skip ignores such files."
    for path in dict.fromkeys(path for dataset in splits for path in dataset.absent):
        yield Finding(severity=absent, what="The file is missing.", where=path, remedy=remedy)


def _lines(splits: Iterable[ListedDataset]) -> dict[str, str]:
    """Return the place where each file is first listed, by path, as far as it is known."""
    lines: dict[str, str] = {}
    for dataset in splits:
        for entry, line in zip(dataset.entries, dataset.lines, strict=False):  # no lines: unknown
            for path in (entry.audio, *entry.images):
                if path is not None:
                    lines.setdefault(path, f"{dataset.source}, line {line}")
    return lines


def _sounds(placed: Iterable[tuple[str, Entry]], listed: Mapping[str, str]) -> Iterator[Sound]:
    for split, entry in placed:
        if entry.audio is not None:
            listed_at = listed.get(entry.audio, "")
            yield Sound(entry.audio, place_of(split, entry), ", ".join(entry.labels), listed_at)


def _seconds(placed: Sequence[tuple[str, Entry]], heard: Mapping[Sound, Heard]) -> float:
    """Return the total length of all distinct clips whose files were decoded."""
    length = {sound.path: one.seconds for sound, one in heard.items()}
    total = 0.0
    for audio, segment in {(entry.audio, entry.segment) for _, entry in placed}:
        if audio in length:
            begin, end = segment or (0.0, None)
            total += max(0.0, min(length[audio], length[audio] if end is None else end) - begin)
    return total


def _evenly(items: Sequence[T]) -> list[T]:
    """Return all items, or an evenly spaced selection if there are too many."""
    if len(items) <= MOST_LOOKED_AT:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, MOST_LOOKED_AT).astype(int)]
