"""A user's own data: a table of files with labels or texts, or a folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.findings import Inspection, Severity
from utils.datasets.cached import as_list
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.listed import FramesWanted, ListedDataset
from utils.datasets.sample import Entries
from utils.datasets.sources.cells import shortlist
from utils.datasets.sources.own_columns import Row, read_own_table
from utils.datasets.sources.own_folder import read_folder
from utils.datasets.sources.time_columns import Column


class Table(ListedDataset):
    """Samples from a CSV, TSV, JSON or parquet table, or from a folder with one subfolder per class.

    Columns are found by their names: `file` or `audio`, `image`, `text` or `caption`, `label` or `labels`,
    `fold`, `split`, `start`, `end`, `duration`, `group`. An argument can name another column, or be false if
    the table has no such column. Any cell may be empty. The folds, the splits or a random share of the
    samples decide what is held out.

    Cells that read `nan`, `N/A`, `NULL` or the like are empty; `Nan`, or `nan` within a longer text, is a
    word. If all labels are whole numbers, `1.0` is the label `1`. Lines of a caption are joined by spaces.

    A folder has one subfolder per class, with sounds and images; a sound and an image with the same name
    form one sample. Links are followed, no folder is entered twice, and a warning counts the ignored files.
    If all subfolders are named like splits (`train`, `test`, `valid` ...), their subfolders are the classes;
    `split` selects the held-out splits, by default all except `train`.

    The other arguments are `utils.datasets.listed.ListedDataset`'s.

    Args:
        table: path of the table or the folder.
        train: split to use: True for the training samples, False for the held-out samples.
        fold: number or numbers of the held-out folds.
        split: held-out values of the column "split".
        share: fraction of the groups that is held out if neither fold nor split is given, 0..1, chosen by a
            hash of the groups' names. None if nothing is held out and both splits are the whole data set.
        separator: separator between labels in a cell; None if a cell is a single label or a JSON list.
        root: folder that paths are relative to; None for the table's folder.
        missing: treatment of missing files: "error", or "skip" to skip them and report how many.
        audio, image, text, labels, start, end, duration, group, fold_column, split_column: names of columns.
            `start` with `end` or `duration` selects a segment of the sound file, in seconds or, if the column
            names say so, milliseconds (see `sources/time_columns.py`). Rows with the same `group`, by default
            the same file, are held out together or not at all.

    Raises:
        FileNotFoundError: The table or files are missing.
        ValueError: An argument or the table is invalid; the message names file, line and column.
    """

    segments_remedy: ClassVar[str] = (
        "Correct their times; if the files are these parts already, cut from longer recordings, set "
        '"start": false, "end": false and "duration": false, and they are taken whole.'
    )
    held_out_folders: tuple[str, ...] = ()
    """Split folders that are held out unless an argument says otherwise."""
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
        notices: list[str] = []
        columns = {"audio": audio, "image": image, "text": text, "labels": labels}
        columns |= {"start": start, "end": end, "duration": duration, "group": group}
        columns |= {"fold_column": fold_column, "split_column": split_column}
        content = read_folder(path) if path.is_dir() else read_own_table(path, columns, separator)
        self.unused_columns = content.unused_columns
        if content.ignored:
            notices.append(f"Not read: {content.ignored}.")
        if content.held_out and fold is None and split is None:
            split = self.held_out_folders = content.held_out
            if share is not None:
                notices.append(f"share is not used; held out: {', '.join(split)}.")
        beside = path if path.is_dir() else path.parent
        folder = beside if root is None else Path(root).expanduser()
        rows, absent = _with_files(content.rows, folder, table=path.name, skip=missing == "skip")
        if not rows:
            raise ValueError(f"{path} lists no samples.")
        mask, part, undecided = _held_out(rows, path, fold=fold, split=split, share=share)
        notices += undecided
        if fold is not None or mask is None:  # otherwise folds are irrelevant
            self.folds = tuple(sorted({row.entry.fold for row in rows if row.entry.fold is not None}))
        self.held_out = tuple(as_list(fold))
        self.held_out_splits = tuple(map(str, as_list(split)))
        self.whole_name = f"{path.stem} ({len(rows)} samples)"
        self.results_name = f"{path.stem} ({len(rows)} samples{part})"
        super().__init__(
            folder,
            Entries(row.entry for row in rows),
            mask,
            train=train,
            class_names=sorted({label for row in rows for label in row.entry.labels}),
            sample_rate=sample_rate,
            mono=mono,
            frames=frames,
            cache=cache,
            progress=progress,
        )
        self.absent = tuple(absent)
        if not path.is_dir():
            lines = np.array([row.line for row in rows])
            self.lines = lines if mask is None else lines[mask != train]
            self.source = path.name
        if absent and train:  # once for both splits
            self.skipped_notice = f"{path}: {len(absent)} files are missing; {len(rows)} samples are left."
        if notices and train:
            self.ignored_notice = f"{path}: {' '.join(notices)}"

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Check the table and the files for `--check`; takes the constructor's arguments."""
        absent: Severity = "warning" if args.get("missing") == "skip" else "error"
        args["missing"] = "skip"
        if args.pop("fold", None) is not None:  # compare all folds, not only the two splits
            args.pop("share", None)
        return inspect_listed(cls, args, absent=absent)


def _held_out(
    rows: Sequence[Row], table: Path, *, fold: object, split: object, share: float | None
) -> tuple[NDArray[np.bool_] | None, str, list[str]]:
    """Choose the held-out rows.

    Returns:
        The mask of the held-out rows, or None; its description for the name in results; and notices.
    """
    folds: list[Any] = [row.entry.fold for row in rows]
    if fold is not None and split is not None:
        raise ValueError(f"fold is {fold} and split is {split}; give only one of them.")
    if fold is not None:
        return _with_values("fold", as_list(fold), folds, table), "", _without("fold", folds, rows)
    if split is not None:
        wanted, splits = list(map(str, as_list(split))), [row.split for row in rows]
        mask = _with_values("split", wanted, splits, table)
        return mask, f", held out: {', '.join(wanted)}", _without("split", splits, rows)
    if share is None:  # for example in a `--check` of all folds
        return None, "", _without("fold", folds, rows) if any(number is not None for number in folds) else []
    if type(share) not in (int, float) or not 0 < share < 1:
        raise ValueError(f"share is {share!r}; a number between 0 and 1 is expected.")
    mask = _share_of([row.group for row in rows], share)
    return _both_parts(mask, table), f", held out: {share:g} of the groups by hash", []


def _with_values(name: str, wanted: list[Any], values: Sequence[object], table: Path) -> NDArray[np.bool_]:
    """Return the mask of the rows in the wanted folds or splits; raise ValueError if one does not exist."""
    present = sorted({value for value in values if value is not None}, key=str)
    if not wanted or not set(present).issuperset(wanted) or any(isinstance(value, bool) for value in wanted):
        has = f"has {', '.join(map(str, present))}"
        if not present:
            column = "" if table.is_dir() else f'name their column by "{name}_column", or '
            share = f"hold out a share: --Dataset.args.{name} null --Dataset.args.share 0.2"
            has = f"has no {name}s; {column}{share}"
        raise ValueError(f"{name} is {wanted[0] if len(wanted) == 1 else wanted}; {table} {has}.")
    return _both_parts(np.array([value in wanted for value in values]), table)


def _both_parts(mask: NDArray[np.bool_], table: Path) -> NDArray[np.bool_]:
    if mask.all() or not mask.any():
        raise ValueError(
            f"{table}: {'all' if mask.all() else 'none'} of its {len(mask)} rows are held out; hold out "
            "another fold, split or share."
        )
    return mask


def _without(name: str, values: Sequence[object], rows: Sequence[Row]) -> list[str]:
    """Report the rows without a fold or split, which are always used for training."""
    empty = [row.line for row, value in zip(rows, values, strict=True) if value is None]
    if not empty:
        return []
    count = f"{len(empty)} of {len(rows)} rows"
    return [f"{count} have no {name}; they are used for training (first: line {empty[0]})."]


def _share_of(groups: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return the mask of a share of the groups, with at least one group in it and one outside."""
    ranked = sorted(set(groups), key=_position)
    count = sum(_position(group) < share for group in ranked)
    chosen = set(ranked[: min(max(count, 1), len(ranked) - 1)])
    return np.array([group in chosen for group in groups])


def _position(group: str) -> float:
    """Hash a text to a number in 0..1 that does not depend on other rows."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def _with_files(rows: Iterable[Row], root: Path, *, table: str, skip: bool) -> tuple[list[Row], list[str]]:
    """Remove missing files from the rows, and then rows without any content.

    Returns:
        The remaining rows, and the missing files, each with its first line in the table.
    """
    exists: dict[str, bool] = {}
    absent: list[str] = []

    def is_there(path: str, line: int) -> bool:
        if path not in exists:
            exists[path] = (root / path).is_file()
            if not exists[path]:
                absent.append(f"{path} ({table}, line {line})" if line else path)
        return exists[path]

    kept = []
    for row in rows:
        entry = row.entry
        audio = entry.audio if entry.audio and is_there(entry.audio, row.line) else None
        images = tuple(path for path in entry.images if is_there(path, row.line))
        if audio or images or (entry.text and not entry.audio and not entry.images):
            kept.append(row._replace(entry=entry._replace(audio=audio, images=images)))
    if absent and not (skip and kept):
        raise FileNotFoundError(
            f"root is {root}, but {len(absent)} of {len(exists)} files are missing: "
            f"{shortlist(absent)}. If paths are relative to another folder, name it with "
            "--Dataset.args.root FOLDER; --Dataset.args.missing skip ignores these files."
        )
    return kept, absent
