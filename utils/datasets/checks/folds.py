"""Checks of a data set with folds: first its table, then every file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol

from ignite_trainer.api.findings import Finding, Inspection
from model.audio_input import AUDIO_SUFFIXES
from model.storage.walking import files_below, shown
from utils.datasets.checks import error, unreadable_lines, warning
from utils.datasets.checks.files import (
    Sound,
    equal,
    estimate_space,
    listen_to_all,
    sound_findings,
    too_long,
    usable_sounds,
)
from utils.datasets.checks.names import name_findings
from utils.datasets.sample import Clip
from utils.datasets.sources import cells
from utils.datasets.sources.tables import build_without_bad_lines
from utils.fetching.published import Published


class Folds(Protocol):
    """The interface of a `FoldDataset` that the check uses."""

    root: Path
    title: ClassVar[str]
    table: ClassVar[str]
    published: ClassVar[Published | None]
    classes: ClassVar[int | None]
    file_names: ClassVar[str | None]
    results_name: str


def inspect_clips(kind: type[Any], args: Mapping[str, Any]) -> Inspection:
    """Check the whole data set of this class and with these arguments, regardless of the held-out fold.

    Raises:
        ValueError, OSError: Nothing of the table can be read, or an argument is wrong.
    """
    clips: list[Clip] = []

    class Lenient(kind):
        """Subclass without the checks of table, fold and files that end a run at the first fault."""

        def _check_table(self, listed: Sequence[Clip]) -> dict[int, str]:
            if not listed:
                super()._check_table(listed)
            clips[:] = listed
            return {clip.target: clip.label for clip in listed}

        def _check_fold(self, *_: object) -> tuple[int, ...]:
            return ()

        def _make_cache(self, *_: object, **__: object) -> None:
            pass

    Lenient.__name__ = kind.__name__  # part of the cache's name
    dataset, bad_lines = build_without_bad_lines(lambda: Lenient(**args))
    sounds = [Sound(clip.path, f"fold {clip.fold}", clip.label) for clip in clips]
    heard = listen_to_all(
        dataset.root, sounds, title=dataset.title, progress=bool(args.get("progress", True))
    )
    usable = usable_sounds(heard)
    findings = unreadable_lines(bad_lines)
    findings += _table_findings(dataset, clips)
    findings += sound_findings(dataset, heard)
    findings += too_long(dataset.sample_rate, dataset.mono, usable)
    findings += equal(usable)
    findings += _not_named(dataset, clips)
    seconds = sum(one.seconds for one in usable.values())
    spaces, cache = [], args.get("cache")
    paths = [clip.path for clip in clips]
    if len(usable) < len(clips) or not kind._make_cache(dataset, paths, cache=cache).is_complete():
        space, undecoded = estimate_space(dataset, usable, seconds=seconds, cache=cache)
        spaces.append(space)
        findings += undecoded
    return Inspection(
        findings=tuple(findings),
        space=tuple(spaces),
        summary=f"{kind.title}: {len(clips):,} clips, {len({clip.label for clip in clips})} classes, "
        f"{len({clip.fold for clip in clips})} folds, {seconds / 3600:.2f} h",
    )


def _table_findings(dataset: Folds, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Find faults in the list of clips, and contradictions with their file names."""
    yield from contradictions(clips)
    yield from _misnamed_files(dataset, clips)
    yield from _absent_classes(clips)
    for clip in clips:
        if dataset.classes is not None and clip.target >= dataset.classes:
            yield warning(
                f"The target is out of range: {dataset.title} has 0 to {dataset.classes - 1}.",
                f"{clip.path} ({clip.target}, {clip.label})",
                "Correct it, unless this is another data set of the same layout.",
            )
    yield from name_findings({clip.label for clip in clips})
    if dataset.published is not None and dataset.results_name.startswith("part of "):
        yield warning(
            "Part of the data set is missing.",
            f"{dataset.results_name}; {dataset.published.clips:,} clips are published",
            "Download the rest for results that can be compared with published ones.",
        )


def contradictions(clips: Sequence[Clip]) -> Iterator[Finding]:
    """Find clips that are listed twice, and clips whose target and label are not the usual pair."""
    for path, count in Counter(clip.path for clip in clips).items():
        if count > 1:
            yield error("The table lists a clip several times.", f"{path} ({count} lines)", "Keep one line.")
    pairs = Counter((clip.target, clip.label) for clip in clips)
    by_target: dict[int, str] = {}
    by_label: dict[str, int] = {}
    for (target, label), _ in pairs.most_common():
        by_target.setdefault(target, label)
        by_label.setdefault(label, target)
    for path, _, target, label, _ in clips:
        elsewhere = []
        if by_target[target] != label:
            elsewhere.append(f"target {target} is {cells.shown(by_target[target])}")
        if by_label[label] != target:
            elsewhere.append(f"{cells.shown(label)} is target {by_label[label]}")
        if elsewhere:
            where = f"{path} (target {target}, {cells.shown(label)}; elsewhere {' and '.join(elsewhere)})"
            yield error("Target and label contradict other clips.", where, "Correct the line.")


def _misnamed_files(dataset: Folds, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Find clips whose file name states a different fold or class; names with another form are ignored."""
    if dataset.file_names is None:
        return
    for clip in clips:
        named = re.fullmatch(dataset.file_names, PurePosixPath(clip.path).name)
        for key, text in (named.groupdict() if named else {}).items():
            if int(text) != getattr(clip, key):
                yield error(
                    f"The file name states another {key} than the table.",
                    f"{clip.path} ({key} {getattr(clip, key)} in the table)",
                    "Correct the line; clips of one recording share a fold.",
                )


def _absent_classes(clips: Sequence[Clip]) -> Iterator[Finding]:
    labels = {clip.label for clip in clips}
    for fold in sorted({clip.fold for clip in clips}):
        if absent := sorted(labels - {clip.label for clip in clips if clip.fold == fold}):
            yield warning(
                "A fold has no clip of a class.",
                f"fold {fold}: {', '.join(map(cells.shown, absent))}",
                "Check that the data set is complete and has the official folds.",
            )


def _not_named(dataset: Folds, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Find audio files that the table does not mention; `read_table` may skip files that it does mention."""
    paths = {clip.path for clip in clips}
    names = {Path(path).name for path in paths}
    table = (dataset.root / dataset.table).read_text(encoding="utf-8-sig")
    for folder, name in files_below(dataset.root):
        path = f"{folder}{name}"
        left_out = name not in names and name in table
        if Path(name).suffix.lower() in AUDIO_SUFFIXES and path not in paths and not left_out:
            yield warning(
                "The table does not list this file, so it is not used.",
                shown(path),
                "Add a line to the table, or remove the file.",
            )
