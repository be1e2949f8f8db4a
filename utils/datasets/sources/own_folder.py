"""Reads a folder with one subfolder per class: samples, splits and ignored files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from model.audio_input import AUDIO_SUFFIXES, CONVERT_AUDIO, UNDECODED_AUDIO_SUFFIXES
from model.clip.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES, UNDECODED_IMAGE_SUFFIXES
from model.storage.walking import files_below, folders_of, shown
from utils.datasets.sample import Entry
from utils.datasets.sources.cells import one_line, shortlist
from utils.datasets.sources.own_columns import Content, Row

_TRAINED_ON = frozenset({"train", "training", "trn"})
_MEASURED_BY = frozenset(
    """
    test testing tst val valid validation validate dev development eval evaluation holdout
    """.split()  # noqa: SIM905
)
_READ = AUDIO_SUFFIXES | IMAGE_SUFFIXES
_MEDIA = _READ | UNDECODED_AUDIO_SUFFIXES | UNDECODED_IMAGE_SUFFIXES


def read_folder(folder: Path) -> Content:
    """List `<folder>/<label>/**`: a sound and an image of the same name are one sample.

    Several sounds or images of one name, such as `1.jpg` and `1.gif`, are paired in their order: the first
    sound with the first image, the second with the second. They form one group, so they are held out
    together.

    `_` in the name of a class stands for a space. If all folders have names of splits, `train`, `test`,
    `valid` ..., and contain folders themselves, those are the classes, and all splits but `train` are held
    out.

    Raises:
        ValueError: There are no sounds or images, a name is not UTF-8, or the folder has another form.
        OSError: A folder cannot be read.
    """
    repeated = list[str]()
    files = files_below(folder, on_repeated=repeated.append)
    paths = [PurePosixPath(parent + name) for parent, name in files]
    _refuse_other_encodings(folder, [path for path in paths if path.suffix.lower() in _READ])
    splits = _splits(folder, paths)
    depth = 2 if splits else 1  # of folders above a sample
    kinds, stray, with_samples = Counter[str](), list[str](), set[str]()
    by_stem = defaultdict[str, tuple[list[str], list[str]]](lambda: ([], []))  # sounds and images
    for path in paths:
        kind = path.suffix.lower()
        if len(path.parts) <= depth:
            stray += [str(path)] * (kind in _MEDIA)
        elif kind not in _READ:
            kinds[kind] += 1
        else:
            by_stem[path.with_suffix("").as_posix()][kind in IMAGE_SUFFIXES].append(path.as_posix())
            with_samples.add("/".join(path.parts[:depth]))
    classes = [f"{split}/{name}" for split in splits for name in folders_of(folder / split)]
    empty = [name for name in classes or folders_of(folder) if name not in with_samples]
    inside = {"/".join(stem.split("/")[: depth + 1]): stem.count("/") > depth for stem in by_stem}
    all_deeper = all(inside.values()) and not splits
    ignored = _ignored(kinds, stray, empty, repeated, sorted(inside) if all_deeper else [])
    if not by_stem:
        not_read = f" Not read: {ignored}." if ignored else ""
        raise ValueError(f"{folder} has no sounds or images in class folders.{not_read}")
    rows = []
    for stem, (sounds, pictures) in by_stem.items():
        parts = stem.split("/")
        label = one_line(parts[depth - 1].replace("_", " ")) or parts[depth - 1]
        for sound, picture in zip_longest(sounds, pictures):
            entry = Entry(sound, () if picture is None else (picture,), labels=(label,))
            rows.append(Row(entry, parts[0] if splits else None, stem))
    held_out = tuple(name for name in splits if _plain(name) not in _TRAINED_ON)
    if len(held_out) == len(splits):  # nothing would be left to train on
        held_out = ()
    return Content(rows, ignored=ignored, held_out=held_out)


def _splits(folder: Path, paths: Sequence[PurePosixPath]) -> list[str]:
    """Return the names of the split folders, in order; [] if the folders are classes.

    A class may be called "train", but it is unlikely that all classes are named like splits.
    """
    flat, deep = Counter[str](), Counter[str]()
    for path in paths:
        if path.suffix.lower() in _MEDIA and len(path.parts) > 1:
            (flat if len(path.parts) == 2 else deep)[path.parts[0]] += 1
    present = sorted(flat.keys() | deep.keys())
    named = [name for name in present if _plain(name) in _TRAINED_ON | _MEASURED_BY]
    with_classes = [name for name in named if deep[name] > flat[name]]
    if len(named) < len(present):
        if len(with_classes) > 1 and any(_plain(name) in _TRAINED_ON for name in with_classes):
            others = ", ".join(name for name in present if name not in named)
            raise ValueError(
                f"{folder} has the splits {' and '.join(with_classes)}, with a folder for each class, and "
                f"besides {others}; move everything else out of the folder."
            )
        return []
    if with_classes == named or len(named) == 1:
        return with_classes
    without = " and ".join(name for name in named if name not in with_classes)
    raise ValueError(
        f"{folder} has the splits {' and '.join(named)}, but not a folder for each class in {without}; sort "
        "the files there into such folders, or move them elsewhere."
    )


def _plain(name: str) -> str:
    """Return the name of a split in lower case, without "set" or the like at its end."""
    return re.sub(r"[ _-]?(set|data|split)$", "", name.lower())


def _ignored(
    kinds: Mapping[str, int],
    stray: Sequence[str],
    empty: Sequence[str],
    repeated: Sequence[str],
    inside: Sequence[str],
) -> str:
    """Describe the ignored files and folders.

    These are the numbers of files by suffix, files outside the class folders, classes without files, further
    links to a folder, and folders inside the class folders, if they contain all files.
    """
    by_advice = defaultdict[str, list[str]](list)
    for kind, count in sorted(kinds.items()):
        advice = CONVERT_AUDIO if kind in UNDECODED_AUDIO_SUFFIXES else ""
        advice = CONVERT_IMAGE if kind in UNDECODED_IMAGE_SUFFIXES else advice
        by_advice[advice].append(f"{count:,} {shown(kind) or 'without a suffix'}")
    groups = [", ".join(counts) + f" ({advice})" * bool(advice) for advice, counts in by_advice.items()]
    if stray:
        groups.append(f"{len(stray):,} outside the class folders, such as {shown(stray[0])}")
    if empty:
        groups.append(f"classes without a supported sound or image: {_shown(empty)}")
    if repeated:
        groups.append(f"links to folders that are read already: {_shown([path[:-1] for path in repeated])}")
    if inside:
        groups.append(
            f"names of folders inside the class folders: {_shown(inside)} (if those are the classes, name "
            "the folder above them, or call the splits train and test)"
        )
    return "; ".join(groups)


def _shown(names: Sequence[str]) -> str:
    return shortlist(list(map(shown, names)))


def _refuse_other_encodings(folder: Path, paths: Sequence[PurePosixPath]) -> None:
    wrong = [str(path) for path in paths if any("\ud800" <= mark <= "\udfff" for mark in str(path))]
    if wrong:
        raise ValueError(
            f"{folder} has names that are not UTF-8: {_shown(wrong)}; rename them, for example with "
            "`convmv -f latin1 -t utf8 -r --notest`."
        )
