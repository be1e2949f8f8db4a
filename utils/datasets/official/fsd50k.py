"""FSD50K (Fonseca et al., "FSD50K: an Open Dataset of Human-Labeled Sound Events", TASLP 2022)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from utils.datasets.cached import check_flags
from utils.datasets.official.splits import OfficialDataset, Split, sounds_in
from utils.datasets.sample import TEST, TRAIN, VALIDATION, Entry
from utils.datasets.sources.cells import shortlist
from utils.datasets.sources.exclusion import Exclude, check_that_something_is_held_out, exclusion_remedy
from utils.datasets.sources.recordings import freesound
from utils.datasets.sources.tables import open_lines, read_table, refuse_no_table

PUBLISHED = {"dev": 40_966, "eval": 10_231}
"""Number of clips, by table."""

_TABLES = "FSD50K.ground_truth"
_PARTS = {"dev": True, "eval": False}  # whether it is trained on, by table
_SPLITS = {"train": TRAIN, "val": VALIDATION}


class FSD50K(OfficialDataset):
    """FSD50K: Freesound clips of 0.3 to 30 s with several of 200 labels; the eval clips are held out.

    The root has the published layout: `FSD50K.ground_truth/` with `dev.csv`, `eval.csv` and `vocabulary.csv`,
    `FSD50K.dev_audio/` and `FSD50K.eval_audio/`. Clips without a file are skipped; `prepare` reports how
    many. Labels are those of the vocabulary in lower case, with spaces: "Electric_guitar" is "electric
    guitar". The other arguments are `utils.datasets.listed.ListedDataset`'s.

    Args:
        root: folder of the published data set.
        train: split to use: True for the dev clips, False for the eval clips.
        validation: whether the clips that `dev.csv` marks as "val" choose the best epoch, instead of being
            trained on.
        whole: whether both splits are the whole data set, of which a linear probe chooses its parts.

    Raises:
        FileNotFoundError: A table is missing, or all sounds of a table are.
        ValueError: An argument or a table is invalid.
    """

    title: ClassVar[str] = "FSD50K"
    sources_remedy: ClassVar[str] = exclusion_remedy("FSD50K")
    to_hold_out: ClassVar[str] = 'the eval clips with "whole": false'

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        validation: bool = False,
        whole: bool = False,
        mono: bool | None = True,
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        check_flags(train=train, validation=validation, whole=whole)
        if validation and whole:
            raise ValueError("validation and whole are true; to train, set whole to false.")
        check_that_something_is_held_out(exclude, held_out=not whole)
        folder = Path(root).expanduser()
        names = _read_vocabulary(_find(folder, "vocabulary"))
        tables = [_read(folder, name, names) for name, used in _PARTS.items() if whole or used == train]
        numbers = Counter(Path(str(entry.audio)).stem for part, _ in tables for entry in part.entries)
        if twice := [number for number, count in numbers.items() if count > 1]:
            raise ValueError(f"dev.csv and eval.csv both list the clips {shortlist(twice)}.")
        parts, splits = (
            [part for part, _ in tables],
            np.array([kind for _, kinds in tables for kind in kinds]),
        )
        if validation and train and VALIDATION not in splits:
            raise ValueError(f'validation is true, but no clip of the split "val" has a sound ({parts[0]}).')
        super().__init__(
            folder,
            parts,
            splits,
            train=train,
            validation=validation,
            whole=whole,
            class_names=list(names.values()),
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )


def _find(root: Path, name: str) -> Path:
    path = root / _TABLES / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"root is {root}, which has no {_TABLES}/{name}.csv. Unpack FSD50K (zenodo.org/records/4060432) "
            "there, or name its folder with --Dataset.args.root FOLDER."
        )
    return path


def _read_vocabulary(table: Path) -> dict[str, str]:
    """Read the class names as a person writes them, by label; the lines are `number,label,identifier`."""
    refuse_no_table(table)
    names: dict[str, str] = {}
    with open_lines(table) as lines:
        for values in (reader := csv.reader(lines)):
            if not values:
                continue
            where = f"{table}, line {reader.line_num}"
            if len(values) != 3 or values[0] != str(len(names)) or not values[1].strip("_ "):
                found = ",".join(values)[:80]
                raise ValueError(f'{where} is "{found}"; `{len(names)},label,identifier` is expected.')
            name = values[1].replace("_", " ").strip().lower()
            if name in names.values():
                raise ValueError(f'{where}: "{values[1]}" is listed a second time.')
            names[values[1]] = name
    if not names:
        raise ValueError(f"{table} lists no classes.")
    return names


def _read(root: Path, name: str, names: Mapping[str, str]) -> tuple[Split, list[str]]:
    """Read a table, and find the sounds of its clips; return them with the official split of each clip."""
    folder = root / f"FSD50K.{name}_audio"
    files = {Path(file).stem: file for file in sounds_in(folder)}
    listed = list(_clips(_find(root, name), names))
    there = [(number, kind, entry) for number, kind, entry in listed if number in files]
    entries = [entry._replace(audio=f"{folder.name}/{files[number]}") for number, _, entry in there]
    split = Split(name, f"{name}.csv", PUBLISHED[name], len(listed), entries)
    advice = "Names such as 64760.wav are expected."
    if name == "dev":
        advice += (
            " Evaluation without training needs no dev clips; see protocols/audioclip-fsd50k-zeroshot.json."
        )
    split.refuse_no_sound(folder, advice)
    return split, [kind for _, kind, _ in there]


def _clips(table: Path, names: Mapping[str, str]) -> Iterator[tuple[str, str, Entry]]:
    """Read the clips in a table, without their sounds: number on Freesound, official split, and the rest."""
    seen = set[str]()
    for row in read_table(table, ["fname", "labels", *(["split"] if table.stem == "dev" else [])]):
        number = row.file_name("fname")
        if number in seen:
            row.fail("fname", "a clip that no earlier line has")
        seen.add(number)
        labels = row.required("labels").split(",")
        for label in labels:
            if label not in names:
                row.fail("labels", f'labels from vocabulary.csv, which has no "{label}",')
        split = TEST
        if table.stem == "dev":
            if row.required("split") not in _SPLITS:
                row.fail("split", '"train" or "val"')
            split = _SPLITS[row.required("split")]
        found = tuple(dict.fromkeys(names[label] for label in labels))
        yield number, split, Entry(labels=found, source=freesound(number))
