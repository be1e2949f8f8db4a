"""What is wrong with a data set in folds: its table, then every file, listened to from end to end."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import soundfile
from tqdm import tqdm

from ignite_trainer.inspection import Finding, Inspection, Space
from utils.datasets.cache import cache_folder, is_decoded, smallest
from utils.datasets.checking_table import read_leniently, table_findings
from utils.datasets.hearing import Fault, Heard, listen
from utils.datasets.sample import Clip

if TYPE_CHECKING:
    from utils.datasets.folds import FoldDataset

SHORT = 0.1
"""Of the median length: what is below it is too short."""

_TRIED = 8  # clips decoded to see how much room all of them need
_SHOWN = 4  # of the clips that are equal
_SUFFIXES = {f".{suffix.lower()}" for suffix in soundfile.available_formats()} - {".raw"} | {".aif"}
_FAULTS: Mapping[Fault, str] = {
    "missing": "The file is not there.",
    "empty": "The file is empty.",
    "unreadable": "The file cannot be decoded.",
    "truncated": "The file is truncated.",
    "not finite": "The file holds NaN or infinite samples.",
}
_FETCH_AGAIN = "Fetch it again, or take its line out of the table."


def inspect_clips(kind: type[FoldDataset], args: Mapping[str, Any]) -> Inspection:
    """Look for faults in the whole data set, whatever the fold held out.

    Args:
        kind: the class of the data set.
        args: those of its constructor.

    Raises:
        ValueError, OSError: the table cannot be read at all, or an argument is wrong.
    """
    dataset, clips, findings = read_leniently(kind, args)
    heard = _listen_to_all(dataset, clips, progress=bool(args.get("progress", True)))
    usable = {clip: one for clip, one in heard.items() if one.fault is None}
    findings += table_findings(dataset, clips)
    findings += _broken(heard)
    findings += _suspicious(dataset, usable)
    findings += _channels(dataset, usable)
    findings += _equal(usable)
    findings += _not_named(dataset, clips)
    space, undecoded = _space(dataset, clips, usable, cache=args.get("cache"), name=kind.__name__)
    hours = sum(one.samples / one.rate for one in usable.values()) / 3600
    return Inspection(
        findings=(*findings, *undecoded),
        space=space,
        summary=f"{kind.title}: {len(clips):,} clips, {len({clip.label for clip in clips})} classes, "
        f"{len({clip.fold for clip in clips})} folds, {hours:.2f} h",
    )


def _listen_to_all(dataset: FoldDataset, clips: Sequence[Clip], *, progress: bool) -> dict[Clip, Heard]:
    """Listen in threads, as libsndfile, numpy and hashes release the GIL."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        heard = pool.map(lambda clip: listen(dataset.root / clip.path), clips)
        bar = tqdm(heard, f"Checking {dataset.title}", len(clips), disable=None if progress else True)
        return dict(zip(clips, bar, strict=True))


def _broken(heard: Mapping[Clip, Heard]) -> Iterator[Finding]:
    for clip, one in heard.items():
        if one.fault is not None:
            where = f"{clip.path} ({one.detail})" if one.detail else clip.path
            yield Finding(severity="error", what=_FAULTS[one.fault], where=where, remedy=_FETCH_AGAIN)


def _suspicious(dataset: FoldDataset, heard: Mapping[Clip, Heard]) -> Iterator[Finding]:
    """Clips that can be used, and yet."""
    if not heard:
        return
    usual = median(one.samples / one.rate for one in heard.values())
    for clip, one in heard.items():
        if one.silent:
            yield Finding(
                severity="warning",
                what="All samples are equal: silence.",
                where=clip.path,
                remedy="Listen to it; take its line out of the table if it is not meant.",
            )
        if one.rate != dataset.sample_rate:
            yield Finding(
                severity="warning",
                what=f"The rate is {one.rate} Hz, and sample_rate is {dataset.sample_rate}: it is resampled.",
                where=clip.path,
                remedy="Nothing, if it was recorded so; at a lower rate its upper band is empty.",
            )
        if one.samples / one.rate < SHORT * usual:
            yield Finding(
                severity="warning",
                what=f"Much shorter than the others, half of which last {usual:.2f} s or more.",
                where=f"{clip.path} ({one.samples / one.rate:.3f} s)",
                remedy="Listen to it; padded to the others' length, it is mostly silence.",
            )


def _channels(dataset: FoldDataset, heard: Mapping[Clip, Heard]) -> Iterator[Finding]:
    """Clips that cannot stand in one batch with most others."""
    if dataset.mono:
        return
    doubled = dataset.mono is False
    channels = {clip: max(one.channels, 2 if doubled else 1) for clip, one in heard.items()}
    for clip, count in channels.items():
        if count != (usual := Counter(channels.values()).most_common(1)[0][0]):
            yield Finding(
                severity="error",
                what=f"Most clips have {usual} channels, others not, and mono is {dataset.mono}: they cannot "
                "be in one batch.",
                where=f"{clip.path} ({count})",
                remedy="Set Dataset.args.mono to true"
                + ("." if doubled else ", or to false for two channels of each."),
            )


def _equal(heard: Mapping[Clip, Heard]) -> Iterator[Finding]:
    """Clips with the same samples; silence tells nothing of where they come from."""
    same = defaultdict(list)
    for clip, one in heard.items():
        if not one.silent:
            same[one.digest].append(clip)
    for clips in same.values():
        if len(clips) == 1:
            continue
        more = f" and {len(clips) - _SHOWN} more" if len(clips) > _SHOWN else ""
        where = ", ".join(f"{clip.path} (fold {clip.fold}, {clip.label})" for clip in clips[:_SHOWN]) + more
        if len({clip.fold for clip in clips}) > 1:
            yield Finding(
                severity="error",
                what="The same sound is in several folds: it would be trained on and measured by.",
                where=where,
                remedy="Keep one of them in the table.",
            )
        elif len({clip.label for clip in clips}) > 1:
            yield Finding(
                severity="error",
                what="The same sound has several labels.",
                where=where,
                remedy="Keep the one that is right.",
            )
        else:
            yield Finding(
                severity="warning",
                what="The same sound is several times in one fold: it counts as often.",
                where=where,
                remedy="Keep one of them in the table, unless that is meant.",
            )


def _not_named(dataset: FoldDataset, clips: Iterable[Clip]) -> Iterator[Finding]:
    """Audio files that the table knows nothing of; it may name some that `read_table` leaves out."""
    paths = {clip.path for clip in clips}
    names = {Path(path).name for path in paths}
    table = (dataset.root / dataset.table).read_text(encoding="utf-8-sig")
    for file in sorted(dataset.root.rglob("*")):
        path = file.relative_to(dataset.root).as_posix()
        left_out = file.name not in names and file.name in table
        if file.suffix.lower() in _SUFFIXES and path not in paths and not left_out and file.is_file():
            yield Finding(
                severity="warning",
                what="The table does not name this file, so it is not used.",
                where=path,
                remedy="Add a line to the table, or take the file away.",
            )


def _space(
    dataset: FoldDataset,
    clips: Sequence[Clip],
    heard: Mapping[Clip, Heard],
    *,
    cache: str | Path | None,
    name: str,
) -> tuple[tuple[Space, ...], list[Finding]]:
    """The room that decoded clips will take, from a few of them; those of these few that do not decode."""
    paths = [clip.path for clip in clips]
    whole = len(heard) == len(clips)
    if whole and is_decoded(dataset.root, paths, name=name, settings=dataset.cache_settings, cache=cache):
        return (), []
    size, seconds, findings = 0, 0.0, []
    for clip in list(heard)[:: len(heard) // _TRIED + 1]:
        try:
            size += smallest(dataset.decode(dataset.root / clip.path)).nbytes
            seconds += heard[clip].samples / heard[clip].rate
        except Exception as error:  # a decoding rule may raise anything
            what = _FAULTS["unreadable"]
            where = f"{clip.path} ({type(error).__name__}: {error})"
            findings.append(Finding(severity="error", what=what, where=where, remedy=_FETCH_AGAIN))
    total = sum(one.samples / one.rate for one in heard.values())
    needed = round(size / seconds * total) if seconds else 0
    return (Space(folder=cache_folder(cache), size_bytes=needed, purpose="decoded clips"),), findings
