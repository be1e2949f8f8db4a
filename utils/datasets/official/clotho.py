"""Clotho 2.1 (Drossos et al., "Clotho: an Audio Captioning Dataset", ICASSP 2020)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from utils.datasets.cached import check_flags
from utils.datasets.official.splits import OfficialDataset, Split, sounds_in, splits_of
from utils.datasets.sample import TEST, TRAIN, VALIDATION, Entry
from utils.datasets.sources.exclusion import Exclude, exclusion_remedy
from utils.datasets.sources.recordings import freesound
from utils.datasets.sources.tables import read_table

PUBLISHED = {"development": 3_839, "validation": 1_045, "evaluation": 1_045}
"""Number of clips, by split."""

_KINDS = {"development": TRAIN, "validation": VALIDATION, "evaluation": TEST}
_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
_FOLDERS = ("{}", "clotho_audio_{}/{}", "clotho_audio_{}")
_GET_IT = (
    "Download clotho_captions_*.csv, clotho_metadata_*.csv and clotho_audio_*.7z of "
    "zenodo.org/records/4783391 and unpack the archives there, for example with "
    "`7z x clotho_audio_evaluation.7z`; or name another folder with --Dataset.args.root FOLDER."
)


class Clotho(OfficialDataset):
    """Clotho: sounds of 15 to 30 s from Freesound, each with five captions; the evaluation split is held out.

    The root has `clotho_captions_<split>.csv`, and the sounds of a split in `<split>/`, as its archive
    unpacks. With `clotho_metadata_<split>.csv`, the recordings on Freesound are known, too. Clips without a
    file are skipped; `prepare` reports how many. The other arguments are
    `utils.datasets.listed.ListedDataset`'s.

    Args:
        root: folder of the tables and the sounds.
        train: split to use: True for the development clips, False for the evaluation clips.
        validation: whether the validation clips choose the best epoch; if not, they are not used.

    Raises:
        FileNotFoundError: A table is missing, or all sounds of a table are.
        ValueError: An argument or a table is invalid.
    """

    title: ClassVar[str] = "Clotho"
    sources_remedy: ClassVar[str] = exclusion_remedy("Clotho")

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        validation: bool = False,
        mono: bool | None = True,
        cache: str | Path | bool | None = None,
        progress: bool = True,
        exclude: Exclude = None,
    ) -> None:
        check_flags(train=train, validation=validation)
        folder = Path(root).expanduser()
        names = ["development", *["validation"] * validation] if train else ["evaluation"]
        parts = [_read(folder, name) for name in names]
        super().__init__(
            folder,
            parts,
            splits_of(parts, _KINDS),
            train=train,
            validation=validation,
            sample_rate=sample_rate,
            mono=mono,
            cache=cache,
            progress=progress,
            exclude=exclude,
        )


def _read(root: Path, name: str) -> Split:
    """Read the table of a split, and find its sounds."""
    table = root / f"clotho_captions_{name}.csv"
    if not table.is_file():
        raise FileNotFoundError(f"root is {root}, which has no {table.name}. {_GET_IT}")
    candidates = [root / pattern.format(name, name) for pattern in _FOLDERS]
    folder = next((path for path in candidates if path.is_dir()), candidates[0])
    sounds = sounds_in(folder)
    # Spaces around a name do not count, as tables lack them.
    files = {Path(file).stem.strip(): file for file in sounds} | {file.strip(): file for file in sounds}
    recordings = _recordings(root / f"clotho_metadata_{name}.csv")
    entries, seen = list[Entry](), set[str]()
    for row in read_table(table, ["file_name", *_CAPTIONS]):
        file = row.file_name("file_name")
        if file in seen:
            row.fail("file_name", "a clip that no earlier line has")
        seen.add(file)
        captions = tuple(text for column in _CAPTIONS for text in row.captions(column))
        if not captions:
            row.fail(_CAPTIONS[0], "a caption")
        path = files.get(file) or files.get(Path(file).stem)
        if path is not None:
            audio = (folder / path).relative_to(root).as_posix()
            entries.append(Entry(audio, captions=captions, source=recordings.get(file)))
    split = Split(name, table.name, PUBLISHED[name], len(seen), entries)
    split.refuse_no_sound(candidates[0], _GET_IT)
    return split


def _recordings(table: Path) -> Mapping[str, str]:
    """Read the recording on Freesound of each file, as far as the table of metadata is there and has it."""
    if not table.is_file():
        return {}
    content = table.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # as published
    rows = csv.DictReader(io.StringIO(text, newline=""))
    known = {str(row.get("file_name")).strip(): freesound(row.get("sound_id")) for row in rows}
    return {file: recording for file, recording in known.items() if recording}
