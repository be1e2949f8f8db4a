"""What is wrong with a data set in folds: its table, then every file, listened to from end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ignite_trainer.api.findings import Finding, Inspection, Space
from model.audio_input import AUDIO_SUFFIXES
from utils.datasets.checks.files import (
    Sound,
    broken,
    channels,
    decoded_bytes,
    equal,
    listen_to_all,
    suspicious,
    too_long,
)
from utils.datasets.checks.tables import Folds, read_leniently, table_findings
from utils.datasets.sample import Clip
from utils.datasets.sources.cache import cache_folder, is_decoded
from utils.datasets.sources.walking import files_below, shown


def inspect_clips(kind: type[Any], args: Mapping[str, Any]) -> Inspection:
    """Look for faults in the whole data set, whatever the fold held out.

    Args:
        kind: the class of the data set.
        args: those of its constructor.

    Raises:
        ValueError, OSError: the table cannot be read at all, or an argument is wrong.
    """
    dataset, clips, findings = read_leniently(kind, args)
    sounds = [Sound(clip.path, f"fold {clip.fold}", clip.label) for clip in clips]
    heard = listen_to_all(
        dataset.root, sounds, title=dataset.title, progress=bool(args.get("progress", True))
    )
    usable = {sound: one for sound, one in heard.items() if one.fault is None}
    findings += table_findings(dataset, clips)
    findings += _not_whole(dataset)
    findings += broken(heard)
    findings += suspicious(dataset.sample_rate, usable)
    findings += too_long(dataset.sample_rate, dataset.mono, usable)
    findings += channels(dataset.mono, usable)
    findings += equal(usable)
    findings += _not_named(dataset, clips)
    seconds = sum(one.samples / one.rate for one in usable.values())
    space: tuple[Space, ...] = ()
    paths, cache = [clip.path for clip in clips], args.get("cache")
    if len(usable) < len(clips) or not is_decoded(
        dataset.root, paths, name=kind.__name__, settings=dataset.cache_settings, cache=cache
    ):
        rate, undecoded = decoded_bytes(dataset, usable)
        findings += undecoded
        size = round(rate * seconds)
        space = (Space(folder=cache_folder(cache), size_bytes=size, purpose="decoded clips"),)
    return Inspection(
        findings=tuple(findings),
        space=space,
        summary=f"{kind.title}: {len(clips):,} clips, {len({clip.label for clip in clips})} classes, "
        f"{len({clip.fold for clip in clips})} folds, {seconds / 3600:.2f} h",
    )


def _not_whole(dataset: Folds) -> Iterator[Finding]:
    """A part of a published data set, by which results are called."""
    if dataset.published is not None and dataset.results_name.startswith("part of "):
        yield Finding(
            severity="warning",
            what="Part of the data is not there.",
            where=f"{dataset.results_name}; {dataset.published.clips:,} clips are published",
            remedy="Fetch the rest for results that compare with those of others.",
        )


def _not_named(dataset: Folds, clips: Iterable[Clip]) -> Iterator[Finding]:
    """Audio files that the table knows nothing of; it may name some that `read_table` leaves out."""
    paths = {clip.path for clip in clips}
    names = {Path(path).name for path in paths}
    table = (dataset.root / dataset.table).read_text(encoding="utf-8-sig")
    for folder, name in files_below(dataset.root):
        path = f"{folder}{name}"
        left_out = name not in names and name in table
        if Path(name).suffix.lower() in AUDIO_SUFFIXES and path not in paths and not left_out:
            yield Finding(
                severity="warning",
                what="The table does not name this file, so it is not used.",
                where=shown(path),
                remedy="Add a line to the table, or take the file away.",
            )
