"""A user's own data: a table of files with labels or texts, or a folder for each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ignite_trainer.api.findings import Inspection, Severity
from utils.datasets.cached import as_list, checked_share, share_of, validation_folds
from utils.datasets.checks.listed import inspect_listed
from utils.datasets.listed import FramesWanted, ListedDataset
from utils.datasets.sample import Entries
from utils.datasets.sources.cells import shortlist
from utils.datasets.sources.exclusion import Exclude, check_that_something_is_held_out
from utils.datasets.sources.own_columns import Row, read_own_table
from utils.datasets.sources.own_folder import read_folder
from utils.datasets.sources.time_columns import Column


class Table(ListedDataset):
    """Samples from a CSV, TSV, JSON or parquet table, or from a folder with one subfolder per class.

    Columns are found by their names: `file` or `audio`, `image`, `text` or `caption`, `label` or `labels`,
    `fold`, `split`, `start`, `end`, `duration`, `group`, `source`. An argument can name another column, or be
    false if the table has no such column. Any cell may be empty. The folds, the splits or a random share of
    the samples decide what is held out.

    Cells that read `nan`, `N/A`, `NULL` or the like are empty; `Nan`, or `nan` within a longer text, is a
    word. If all labels are whole numbers, `1.0` is the label `1`. Lines of a caption are joined by spaces.

    A sample can have several captions: a JSON list in a cell, columns `caption_1`, `caption_2` ..., or rows
    with captions of the same files and segment, which are merged into one sample (a warning says how many).
    Rows that differ in labels, fold, split or group are not merged, and another warning counts them.

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
        validation_fold: number or numbers of folds that are not trained on, but choose the best epoch, so
            that its result on the held-out folds is unbiased; "next" for the fold after the held-out one, or
            the first after the last.
        validation_split: values of the column "split" that do the same.
        validation_share: fraction of the other groups that does the same, 0..1, chosen by the same hash.
        separator: separator between labels in a cell; None if a cell is a single label or a JSON list.
        root: folder that paths are relative to; None for the table's folder.
        missing: treatment of missing files: "error", or "skip" to skip them and report how many.
        audio, image, text, labels, start, end, duration, group, source, fold_column, split_column: names of
            columns. `start` with `end` or `duration` selects a segment of the sound file, in seconds or, if
            the column names say so, milliseconds (see `sources/time_columns.py`). Rows with the same `group`,
            by default the same file, are held out together or not at all. `source` has the recording that a
            row comes from, such as "freesound:100032" or "youtube:-0SdAVK79lg"; training and evaluation
            should not share one.

    Raises:
        FileNotFoundError: The table or files are missing.
        ValueError: An argument or the table is invalid; the message names file, line and column.
    """

    segments_remedy: ClassVar[str] = (
        "Correct their times; if the files are these parts already, cut from longer recordings, set "
        '"start": false, "end": false and "duration": false, and they are taken whole.'
    )
    sources_remedy: ClassVar[str] = (
        f'{ListedDataset.sources_remedy} If the column does not name recordings, set "source": false.'
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
        validation_fold: int | Sequence[int] | Literal["next"] | None = None,
        validation_split: str | Sequence[str] | None = None,
        validation_share: float | None = None,
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
        source: Column = None,
        fold_column: Column = None,
        split_column: Column = None,
        mono: bool | None = None,
        frames: FramesWanted = "central",
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        if not isinstance(table, str | Path):
            raise ValueError(f"table is {table!r}; the path of a table or a folder is expected.")
        if missing not in ("error", "skip"):
            raise ValueError(f'missing is {missing!r}; "error" or "skip" is expected.')
        if separator == "":
            raise ValueError('separator is ""; a character such as ";", or null, is expected.')
        path = Path(table).expanduser()
        notices: list[str] = []
        columns = {"audio": audio, "image": image, "text": text, "labels": labels, "source": source}
        columns |= {"start": start, "end": end, "duration": duration, "group": group}
        columns |= {"fold_column": fold_column, "split_column": split_column}
        content = read_folder(path) if path.is_dir() else read_own_table(path, columns, separator)
        self.unused_columns = content.unused_columns
        notices += content.merged
        if content.ignored:
            notices.append(f"Not read: {content.ignored}.")
        if content.held_out and fold is None and split is None:
            others = [*map(str, as_list(validation_split))]
            self.held_out_folders = tuple(name for name in content.held_out if name not in others)
            split = self.held_out_folders or None
            if split and share is not None:
                notices.append(f"share is not used; held out: {', '.join(split)}.")
        beside = path if path.is_dir() else path.parent
        folder = beside if root is None else Path(root).expanduser()
        rows, absent = _with_files(content.rows, folder, table=path.name, skip=missing == "skip")
        if not rows:
            raise ValueError(f"{path} lists no samples.")
        mask, part, undecided = _held_out(rows, path, fold=fold, split=split, share=share)
        notices += undecided
        check_that_something_is_held_out(exclude, held_out=mask is not None)
        if fold is not None or mask is None:  # otherwise folds are irrelevant
            self.folds = tuple(sorted({row.entry.fold for row in rows if row.entry.fold is not None}))
        self.held_out = tuple(as_list(fold))
        wanted = {"fold": validation_fold, "split": validation_split, "share": validation_share}
        validation = self._validation(rows, path, mask, wanted)
        self.held_out_splits = tuple(map(str, as_list(split)))
        self.source = "" if path.is_dir() else path.name
        self.whole_name = f"{path.stem} ({len(rows)} samples)"
        self.results_name = f"{path.stem} ({len(rows)} samples{part})"
        super().__init__(
            folder,
            Entries(row.entry for row in rows),
            mask,
            train=train,
            validation=validation,
            lines=None if path.is_dir() else np.array([row.line for row in rows]),
            class_names=sorted({label for row in rows for label in row.entry.labels}),
            sample_rate=sample_rate,
            mono=mono,
            frames=frames,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )
        self.absent = tuple(absent)
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
            for name in ("share", "validation_fold", "validation_split", "validation_share", "exclude"):
                args.pop(name, None)
        return inspect_listed(cls, args, absent=absent)

    def _validation(
        self, rows: Sequence[Row], table: Path, held_out: NDArray[np.bool_] | None, wanted: dict[str, Any]
    ) -> NDArray[np.bool_] | None:
        """Choose the rows of the validation split, none of them held out; None without any."""
        given = [f"validation_{name}" for name, value in wanted.items() if value is not None]
        if not given:
            return None
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; give only one of them.")
        if held_out is None:
            raise ValueError(
                f"{given[0]} is given, but nothing is held out; name {self.to_hold_out} as well."
            )
        if wanted["fold"] is not None:
            if not self.held_out:
                raise ValueError("validation_fold is given without fold; give validation_split or _share.")
            self.validation_folds = validation_folds(wanted["fold"], held_out=self.held_out, folds=self.folds)
            mask = np.array([row.entry.fold in self.validation_folds for row in rows])
        elif wanted["split"] is not None:
            values = [row.split for row in rows]
            mask = _with_values(
                "split", list(map(str, as_list(wanted["split"]))), values, table, "validation_"
            )
        else:
            rest = [row.group for row, out in zip(rows, held_out, strict=True) if not out]
            mask = np.zeros(len(rows), np.bool_)
            share = checked_share("validation_share", wanted["share"])
            mask[~held_out] = share_of(rest, share, salt="validation: ")
        if (mask & held_out).any():
            raise ValueError(f"{given[0]} and the held-out rows overlap; choose other values.")
        if (mask | held_out).all():
            raise ValueError(f"{table}: held-out and validation rows are all rows; none is left to train on.")
        return mask


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
    mask = share_of([row.group for row in rows], checked_share("share", share))
    return _both_parts(mask, table), f", held out: {share:g} of the groups by hash", []


def _with_values(
    name: str, wanted: list[Any], values: Sequence[object], table: Path, prefix: str = ""
) -> NDArray[np.bool_]:
    """Return the mask of the rows in the wanted folds or splits; raise ValueError if one does not exist."""
    present = sorted({value for value in values if value is not None}, key=str)
    if not wanted or not set(present).issuperset(wanted) or any(isinstance(value, bool) for value in wanted):
        has = f"has {', '.join(map(str, present))}"
        if not present:
            column = "" if table.is_dir() else f'name their column by "{name}_column", or '
            share = f"choose a share: --Dataset.args.{prefix}{name} null --Dataset.args.{prefix}share 0.2"
            has = f"has no {name}s; {column}{share}"
        raise ValueError(f"{prefix}{name} is {wanted[0] if len(wanted) == 1 else wanted}; {table} {has}.")
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
        if audio or images or (entry.captions and not entry.audio and not entry.images):
            kept.append(row._replace(entry=entry._replace(audio=audio, images=images)))
    if absent and not (skip and kept):
        raise FileNotFoundError(
            f"root is {root}, but {len(absent)} of {len(exists)} files are missing: "
            f"{shortlist(absent)}. If paths are relative to another folder, name it with "
            "--Dataset.args.root FOLDER; --Dataset.args.missing skip ignores these files."
        )
    return kept, absent
