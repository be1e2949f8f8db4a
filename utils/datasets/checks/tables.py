"""What is wrong with the table of a data set in folds: all of it, where building stops at the first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from ignite_trainer.api.findings import Finding
from utils.datasets.checks.files import Decoding
from utils.datasets.checks.names import name_findings
from utils.datasets.sample import Clip
from utils.datasets.sources.cache import DecodedClips, OpenDecoded
from utils.datasets.sources.table import Place, RowError, leaving_out
from utils.fetching.published import Published

T = TypeVar("T")


class Folds(Decoding, Protocol):
    """The parts of a `FoldDataset` that its check uses."""

    title: ClassVar[str]
    table: ClassVar[str]
    published: ClassVar[Published | None]
    classes: ClassVar[int | None]
    file_names: ClassVar[str | None]
    sample_rate: int
    mono: bool | None
    results_name: str

    @property
    def cache_settings(self) -> dict[str, Any]:
        """What decoded clips depend on besides the files."""


BadLines: TypeAlias = dict[Place, RowError]
"""Lines that cannot be read, and why."""

_BAD_LINES = 50  # then there is something else wrong with the table
_REASONS = 3  # of many


def read_leniently(kind: type[Any], args: Mapping[str, Any]) -> tuple[Folds, list[Clip], list[Finding]]:
    """Build a data set, passing over faults of its table, its files and its folds.

    Returns:
        The data set, good for its root, its settings and its decoding rule; all clips of the lines that can
        be read; the lines that cannot.

    Raises:
        ValueError, OSError: as the constructor does, for what cannot be passed over; of lines, if without
            those that cannot be read there is no data set.
    """
    listed: list[Clip] = []
    bad: BadLines = {}

    class Lenient(kind):
        def read_table(self) -> list[Clip]:
            read = super().read_table
            return without_bad_lines(lambda: list(read()), bad)

        def _check_table(self, clips: Sequence[Clip]) -> dict[int, str]:
            if not clips:
                super()._check_table(clips)
            listed.extend(clips)
            return {clip.target: clip.label for clip in clips}

        def _check_fold(self, *_: object) -> set[int]:
            return set()  # that is a matter of one run, not of the data

        def _plan_decoding(self, *_: object, **__: object) -> OpenDecoded:
            return _decode_nothing

    try:
        dataset = Lenient(**args)
    except (OSError, ValueError) as error:
        if bad:
            raise nothing_without(bad, error) from error
        raise
    return dataset, listed, list(bad_lines(bad))


def without_bad_lines(read: Callable[[], T], bad: BadLines) -> T:
    """Read a table without the lines that cannot be read, which are added to `bad`.

    Raises:
        RowError: there are too many, or a reader cannot pass over one.
    """
    while True:
        try:
            with leaving_out(bad):
                return read()
        except RowError as error:
            if error.place in bad or len(bad) == _BAD_LINES:
                raise
            bad[error.place] = error


def bad_lines(bad: BadLines) -> Iterator[Finding]:
    """Lines that cannot be read."""
    for error in bad.values():
        yield Finding(
            severity="error",
            what="A line of the table cannot be read.",
            where=str(error),
            remedy="Correct it.",
        )


def nothing_without(bad: BadLines, error: Exception) -> ValueError:
    """Make the error for a table whose readable lines are no data set: one line for each reason."""
    reasons: dict[str, str] = {}
    for one in bad.values():
        reasons.setdefault(one.reason, str(one))
    count = f"{len(bad)} line{'s' * (len(bad) != 1)}" + (" and more" if isinstance(error, RowError) else "")
    return ValueError(f"{' '.join([*reasons.values()][:_REASONS])} {count} of the table cannot be read.")


def table_findings(dataset: Folds, clips: Sequence[Clip]) -> Iterator[Finding]:
    """What is wrong with clips as the table lists them, by itself and by the names of their files."""
    yield from _listed_twice(clips)
    yield from _classes_at_odds(clips)
    yield from _names_at_odds(dataset, clips)
    yield from _absent_classes(clips)
    for clip in clips:
        if dataset.classes is not None and clip.target >= dataset.classes:
            yield Finding(
                severity="warning",
                what=f"The target is out of range: {dataset.title} has 0 to {dataset.classes - 1}.",
                where=f"{clip.path} ({clip.target}, {clip.label})",
                remedy="Correct it, unless the data set is another one of this layout.",
            )
    yield from name_findings({clip.label for clip in clips})


def _listed_twice(clips: Sequence[Clip]) -> Iterator[Finding]:
    for path, count in Counter(clip.path for clip in clips).items():
        if count > 1:
            yield Finding(
                severity="error",
                what="The table lists a clip several times.",
                where=f"{path} ({count} lines)",
                remedy="Keep one line.",
            )


def _classes_at_odds(clips: Sequence[Clip]) -> Iterator[Finding]:
    """Clips whose pair of target and label is not the one that most clips of either have."""
    pairs = Counter((clip.target, clip.label) for clip in clips)
    by_target: dict[int, str] = {}
    by_label: dict[str, int] = {}
    for (target, label), _ in pairs.most_common():
        by_target.setdefault(target, label)
        by_label.setdefault(label, target)
    for clip in clips:
        if (by_target[clip.target], by_label[clip.label]) != (clip.label, clip.target):
            yield Finding(
                severity="error",
                what="Target and label contradict other clips.",
                where=f"{clip.path} (target {clip.target}, {clip.label}; elsewhere target {clip.target} is "
                f"{by_target[clip.target]}, {clip.label} is target {by_label[clip.label]})",
                remedy="Correct the line.",
            )


def _names_at_odds(dataset: Folds, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Clips whose file is named for another fold or class; names of another form say nothing."""
    if dataset.file_names is None:
        return
    for clip in clips:
        named = re.fullmatch(dataset.file_names, PurePosixPath(clip.path).name)
        for key, text in (named.groupdict() if named else {}).items():
            if int(text) != getattr(clip, key):
                yield Finding(
                    severity="error",
                    what=f"The name of the file says another {key} than the table.",
                    where=f"{clip.path} ({key} {getattr(clip, key)} in the table)",
                    remedy="Correct the line; clips of one recording share a fold.",
                )


def _absent_classes(clips: Sequence[Clip]) -> Iterator[Finding]:
    labels = {clip.label for clip in clips}
    for fold in sorted({clip.fold for clip in clips}):
        absent = sorted(labels - {clip.label for clip in clips if clip.fold == fold})
        if absent:
            yield Finding(
                severity="warning",
                what="A fold has no clip of a class.",
                where=f"fold {fold}: {', '.join(absent)}",
                remedy="Check that the data set is complete, and its folds the official ones.",
            )


def _decode_nothing(*, skip_unreadable: bool = False) -> DecodedClips:  # noqa: ARG001
    raise AssertionError("a check decodes nothing into the cache")
