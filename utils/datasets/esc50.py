"""ESC-50 (K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM MM 2015)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from model.audio_input import Waveform, read_audio
from utils.datasets.cached import RESAMPLED, check_flags
from utils.datasets.folds import FoldDataset
from utils.datasets.sample import Clip
from utils.datasets.sources.cells import Record
from utils.datasets.sources.exclusion import Exclude
from utils.datasets.sources.recordings import esc50_recording
from utils.datasets.sources.tables import read_table
from utils.fetching.published import ESC_50, Published

ESC_18_TARGETS = frozenset({0, 1, 5, 10, 11, 12, 14, 19, 20, 21, 28, 38, 39, 40, 41, 42, 43, 46})
"""Targets of ESC-18: the 18 classes that are complete in the Vorbis files of 2015 which are evaluated here.

Each class has 8 clips in each of the five official folds: 720 clips, ESC-10 among them.
"""


class ESC50(FoldDataset):
    """ESC-50: 50 classes, 2,000 clips of 5 s in 5 folds, or any data set with the same layout.

    Results on part of the data set never carry its name: they are named ESC-10, ESC-18 (all 720 clips of the
    18 classes `ESC_18_TARGETS`) or "part of ESC-50" with the numbers of clips and classes.

    The arguments are `FoldDataset`'s and:

    Args:
        esc10: whether to use only the clips that the table's column `esc10` marks: the 10 classes of ESC-10.
    """

    title = ESC_50.name
    table = ESC_50.table
    decoding = RESAMPLED
    published: ClassVar[Published | None] = ESC_50
    classes: ClassVar[int | None] = 50
    file_names = r"(?P<fold>\d+)-\d+-[A-Z]-(?P<target>\d+)\.\w+"

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        fold: int | Sequence[int] | None = None,
        validation_fold: int | Sequence[int] | Literal["next"] | None = None,
        mono: bool | None = None,
        transform_audio: Callable[[Waveform], Any] | None = None,
        target_transform: Callable[[list[str]], Any] | None = None,
        esc10: bool = False,
        cache: str | Path | None = None,
        progress: bool = True,
        download: bool = False,
        exclude: Exclude = None,
    ) -> None:
        check_flags(esc10=esc10)
        self.esc10 = esc10
        super().__init__(
            root,
            sample_rate,
            train=train,
            fold=fold,
            validation_fold=validation_fold,
            mono=mono,
            transform_audio=transform_audio,
            target_transform=target_transform,
            cache=cache,
            progress=progress,
            download=download,
            exclude=exclude,
        )

    def read_table(self) -> list[Clip]:
        """List the clips in `meta/esc50.csv`, or only the ESC-10 clips."""
        columns = ["filename", "fold", "target", "category"] + (["esc10"] if self.esc10 else [])
        rows = list(read_table(self.root / self.table, columns))
        kept = [row for row in rows if row.flag("esc10")] if self.esc10 else rows
        if rows and not kept:
            raise ValueError(f"esc10 is true; {self.root / self.table} marks none of its clips as ESC-10.")
        return [
            Clip(
                path=f"audio/{row.file_name('filename')}",
                fold=row.required_number("fold"),
                target=row.required_number("target"),
                label=row.required("category").replace("_", " "),
                source=self.recording(row),
            )
            for row in kept
        ]

    def recording(self, row: Record) -> str | None:
        """Return the recording that the clip in a row of the table was cut from."""
        return esc50_recording(row)

    def _name_results(self, clips: Sequence[Clip]) -> str:
        per_fold = Counter((clip.target, clip.fold) for clip in clips)
        if self.esc10 and (len(clips), len({target for target, _ in per_fold})) == (400, 10):
            return "ESC-10"
        if per_fold == {(target, fold): 8 for target in ESC_18_TARGETS for fold in range(1, 6)}:
            return "ESC-18"
        return super()._name_results(clips)

    def decode(self, path: Path) -> Waveform:
        """Decode one clip at the given sample rate."""
        return read_audio(path, self.sample_rate, mono=self.mono)
