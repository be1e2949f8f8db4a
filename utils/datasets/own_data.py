"""Anybody's data: a table of files, with labels or texts, or a folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.findings import Inspection, Severity
from utils.datasets.listed import FramesWanted, ListedDataset
from utils.datasets.sources.entries import Entries, Entry
from utils.datasets.sources.own_columns import Columns, Row, read_table
from utils.datasets.sources.own_folder import read_folder
from utils.datasets.sources.own_times import Column


class Table(ListedDataset):
    """Samples of a CSV, TSV, JSON or parquet table, or of a folder with one folder for each class.

    A column is found by its name: `file` or `audio`, `image`, `text` or `caption`, `label` or `labels`,
    `fold`, `split`, `start`, `end`, `duration`, `group`; an argument names it otherwise (false: there is
    none). Any value may be absent. Held out is what `fold` or `split` say, or else a share.

    Cells that read `nan`, `N/A`, `NULL` or the like are empty; `Nan`, or `nan` within a longer text, is a
    word. Where all labels are whole numbers, `1.0` is the label `1`. Lines of a caption are joined by spaces.

    A folder has a folder for each class, with sounds and pictures in it, a sound and a picture of one name as
    one sample. Links are followed, no folder is entered twice, and what is not read is counted in a warning.
    Where all of its folders are named as splits are (`train`, `test`, `valid` ...), the classes are the
    folders in these; held out is what `split` names, or else all but `train`.

    Args:
        table: the table, or the folder.
        sample_rate: of the samples, Hz.
        train: True: what is trained on; False: what is held out.
        fold: number or numbers of the folds held out.
        split: values of the column "split" that are held out.
        share: part of the groups held out where neither is given, 0..1, drawn by a hash of their names; None:
            nothing is held out, and both splits are all.
        separator: between several labels; None: a value is one label, or a JSON list of them.
        root: folder that paths are relative to; None: that of the table.
        missing: "error", or "skip": do without files that are not there, and say how many.
        audio, image, text, labels, start, end, duration, group, fold_column, split_column: names of columns.
            `start` with `end` or `duration`, in seconds or, by their names, milliseconds, are the part of the
            sound file, by the rules of `sources/own_times.py`; rows of one `group`, by default of one
            file, are held out together or not at all.
        mono, frames, cache, progress: as those of `utils.datasets.listed.ListedDataset`.

    Raises:
        FileNotFoundError: the table or files are missing.
        ValueError: an argument or the table is wrong; the message has file, line and column.
    """

    to_take_whole: ClassVar[str] = (
        "Correct their times; if the files are these parts already, cut from longer recordings, set "
        '"start": false, "end": false and "duration": false, and they are taken whole.'
    )
    held_out_folders: tuple[str, ...] = ()
    """Folders of splits that are held out though no argument says so."""
    to_hold_out: ClassVar[str] = 'a fold, a value of the column "split", or a share (0.2: a fifth)'

    def __init__(
        self,
        table: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        fold: int | Sequence[int] | None = None,
        split: str | Sequence[str] | None = None,
        share: float | None = None,
        separator: str | None = None,
        root: str | Path | None = None,
        missing: Literal["error", "skip"] = "error",
        audio: Column = None,
        image: Column = None,
        text: Column = None,
        labels: Column = None,
        start: Column = None,
        end: Column = None,
        duration: Column = None,
        group: Column = None,
        fold_column: Column = None,
        split_column: Column = None,
        mono: bool | None = None,
        frames: FramesWanted = "central",
        cache: str | Path | bool | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(table, str | Path):
            raise ValueError(f"table is {table!r}; the path of a table or a folder is expected.")
        if missing not in ("error", "skip"):
            raise ValueError(f'missing is {missing!r}; "error" or "skip" is expected.')
        if separator == "":
            raise ValueError('separator is ""; a character such as ";", or null, is expected.')
        path = Path(table).expanduser()
        folder = Path(root).expanduser() if root is not None else path if path.is_dir() else path.parent
        wanted = Columns(audio, image, text, labels, start, end, duration, group, fold_column, split_column)
        notices = list[str]()
        if path.is_dir():
            found = read_folder(path)
            listed = found.rows
            notices += [f"Not read: {found.passed_over}."] if found.passed_over else []
            if found.held_out and fold is None and split is None:
                split = self.held_out_folders = found.held_out
                if share is not None:
                    notices.append(f"share is not used: held out is what {' and '.join(split)} has.")
        else:
            listed, self.unused_columns = read_table(path, wanted, separator)
        rows, absent = _with_files(listed, folder, table=path.name, skip=missing == "skip")
        if not rows:
            raise ValueError(f"{path} lists no samples.")
        chosen, said, undecided = _held_out(rows, path, fold=fold, split=split, share=share)
        notices += undecided
        entries = Entries(row.entry for row in rows)
        by_fold = fold is not None or chosen is None  # else folds are no matter of this run
        there = {row.entry.fold for row in rows if by_fold} - {None}
        self.folds = tuple(sorted(number for number in there if number is not None))
        self.held_out = tuple(_listed(fold)) if fold is not None else ()
        self.held_out_splits = tuple(map(str, _listed(split))) if split is not None else ()
        self.whole_name = f"{path.stem} ({len(rows)} samples)"
        self.results_name = f"{path.stem} ({len(rows)} samples{said})"
        names = dict.fromkeys(label for row in rows for label in row.entry.labels)
        super().__init__(
            folder,
            entries,
            chosen,
            train=train,
            class_names=sorted(names),
            sample_rate=sample_rate,
            mono=mono,
            described=any(row.entry.text is not None for row in rows),
            frames=frames,
            cache=cache,
            progress=progress,
        )
        self.absent = tuple(absent)
        if not path.is_dir():
            lines = np.array([row.line for row in rows])
            self.lines, self.source = lines if chosen is None else lines[chosen != train], path.name
        if absent and train:  # of both splits, and said once
            self.notice = f"{path}: {len(absent)} files are not there; {len(rows)} samples are left."
        if notices and train:
            self.passed_over = f"{path}: {' '.join(notices)}"

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Look for faults in table and files, as `--check` asks for; the arguments are the constructor's."""
        absent: Severity = "warning" if args.get("missing") == "skip" else "error"
        args["missing"] = "skip"
        if args.pop("fold", None) is not None:  # any of them: all folds are compared, not two shares
            args.pop("share", None)
        return cls._inspect(args, absent=absent)


def _listed(values: object) -> list[Any]:
    return list(values) if isinstance(values, list | tuple | range) else [values]


def _held_out(
    rows: Sequence[Row], table: Path, *, fold: object, split: object, share: float | None
) -> tuple[NDArray[np.bool_] | None, str, list[str]]:
    """Decide which rows are held out.

    Returns:
        A mask of the rows held out, None if nothing is; its words in the name of results; notices.
    """
    notices: list[str] = []
    if fold is not None and split is not None:
        raise ValueError(f"fold is {fold} and split is {split}; one of them can say what is held out.")
    if fold is not None or split is not None:
        name, wanted = ("fold", _listed(fold)) if split is None else ("split", list(map(str, _listed(split))))
        values = [row.entry.fold if split is None else row.split for row in rows]
        there = sorted({value for value in values if value is not None}, key=str)
        if not wanted or not set(there).issuperset(wanted) or any(isinstance(one, bool) for one in wanted):
            has = f"has {', '.join(map(str, there))}"
            if not there:
                column = "" if table.is_dir() else f'name their column by "{name}_column", or '
                remedy = f"{column}hold out a share: --Dataset.args.{name} null --Dataset.args.share 0.2"
                has = f"has no {name}s; {remedy}"
            raise ValueError(f"{name} is {wanted[0] if len(wanted) == 1 else wanted}; {table} {has}.")
        chosen = np.array([value in wanted for value in values])
        said = "" if split is None else f", held out: {', '.join(map(str, wanted))}"
        notices += _without(name, values, rows)
    elif share is None:  # looked at by `--check`, for all folds
        folds = [row.entry.fold for row in rows]
        return None, "", [] if set(folds) == {None} else _without("fold", folds, rows)
    else:
        if type(share) not in (int, float) or not 0 < share < 1:
            raise ValueError(f"share is {share!r}; a number between 0 and 1 is expected.")
        chosen = _share_of([row.group for row in rows], share)
        said = f", held out: {share:g} of the groups by hash"
    if chosen.all() or not chosen.any():
        raise ValueError(
            f"{table}: {'all' if chosen.all() else 'none'} of its {len(rows)} rows are held out; hold out "
            "another fold, split or share."
        )
    return chosen, said, notices


def _without(name: str, values: Sequence[object], rows: Sequence[Row]) -> list[str]:
    """Say how many rows have no fold, or no split, so that they are always trained on."""
    empty = [row.line for row, value in zip(rows, values, strict=True) if value is None]
    if not empty:
        return []
    return [f"{len(empty)} of {len(rows)} rows have no {name}: trained on (first: line {empty[0]})."]


def _share_of(groups: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Which belong to a share of all groups; of few groups at least one does, and one does not."""
    ranked = sorted(set(groups), key=_position)
    count = sum(_position(group) < share for group in ranked)
    chosen = set(ranked[: min(max(count, 1), len(ranked) - 1)])
    return np.array([group in chosen for group in groups])


def _position(group: str) -> float:
    """A number in 0..1 that belongs to a text: more rows, or others, do not move it."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def _with_files(rows: Iterable[Row], root: Path, *, table: str, skip: bool) -> tuple[list[Row], list[str]]:
    """Look for the files of each row; without those that are not there, and rows of which nothing is left.

    Returns:
        The rows, and the files that are not there, each with its first line in the table.
    """
    there: dict[str, bool] = {}
    absent: list[str] = []

    def found(path: str, line: int) -> bool:
        if path not in there:
            there[path] = (root / path).is_file()
            if not there[path]:
                absent.append(f"{path} ({table}, line {line})" if line else path)
        return there[path]

    kept = []
    for row in rows:
        entry: Entry = row.entry
        audio = entry.audio if entry.audio and found(entry.audio, row.line) else None
        images = tuple(path for path in entry.images if found(path, row.line))
        if audio or images or (entry.text and not entry.audio and not entry.images):
            kept.append(row._replace(entry=entry._replace(audio=audio, images=images)))
    if absent and not (skip and kept):
        more = f" and {len(absent) - 5} more" * (len(absent) > 5)
        raise FileNotFoundError(
            f"root is {root}, but {len(absent)} of {len(there)} files are missing: "
            f"{', '.join(absent[:5])}{more}. If paths are relative to another folder, name it with "
            "--Dataset.args.root FOLDER; --Dataset.args.missing skip does without these files."
        )
    return kept, absent
