"""Labelled clips in official folds: the base class of ESC-50, UrbanSound8K and similar data sets.

A new data set is a subclass with a table of clips and a decoding rule:

    class BirdCalls(FoldDataset):
        title = "BirdCalls"                  # in messages
        table = "calls.csv"                  # identifies the root
        decoding = RESAMPLED                 # names the decoding rule; change it whenever the rule changes

        def read_table(self) -> list[Clip]:
            rows = read_table(self.root / self.table, ["file", "fold", "target", "bird"])
            return [Clip(...) for row in rows]

        def decode(self, path: Path) -> Waveform:
            return read_audio(path, self.sample_rate, mono=self.mono)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from ignite_trainer.api.batch import collate, collate_field
from ignite_trainer.api.findings import Inspection
from model.audio_input import Waveform
from utils.datasets.cached import RESAMPLED, CachedDataset, check_flags, fold_numbers, validation_folds
from utils.datasets.checks.folds import contradictions, inspect_clips
from utils.datasets.sample import Clip, Listing, Sample, SampleFiles
from utils.datasets.sources.cache import ClipCache
from utils.datasets.sources.exclusion import Exclude, Exclusion, check_that_something_is_held_out
from utils.fetching.published import Published, fetch_data_set


class FoldDataset(CachedDataset[Sample], ABC):
    """Labelled clips in folds, some of which are held out.

        fold=2, validation_fold="next"    fold 1    fold 2    fold 3    fold 4    fold 5
        train=True                          x                             x         x
        train=True, `validation`                                x
        train=False                                   x

    `prepare` decodes every clip in the table, in all folds, into a cache that is shared with later folds,
    runs and processes. The constructor does not decode clips, but checks arguments, table and files.
    The other arguments are `CachedDataset`'s.

    Args:
        root: folder of the published data set.
        train: split to use: True for all folds that are not held out, False for the held-out folds.
        fold: number or numbers of the held-out folds. With None, nothing is held out and both splits are the
            whole data set, for zero-shot classification; training requires a fold.
        validation_fold: number or numbers of folds that are not trained on, but choose the best epoch, so
            that its result on the held-out folds is unbiased. "next" is the fold after the held-out one, or
            the first after the last, so a sweep over `fold` rotates both. None to train on all other folds.
        transform_audio: function applied to the audio of every sample, float32 numpy `[C, T]`.
        target_transform: function applied to the labels of every sample, `list[str]`.
        cache: folder for decoded audio; None for `model.storage.places.default_cache_folder()`.
        progress: whether to show a progress bar while downloading and decoding, or lines without a terminal.
        download: whether to download and unpack the data set if the root is missing or empty.
        exclude: recordings to leave out of training, as files of identifiers or names of known evaluation
            sets (see `sources/exclusion.py`).

    Attributes:
        clips: clips of this split; `clips[i]` has the path, fold, target and label of sample `i`.
        class_names: labels of the whole data set, not only of the split, in the order of the table's targets.
        targets: index of each sample's label in `class_names`. It equals the table's target if the targets
            are contiguous, as in ESC-50 and UrbanSound8K, but not in ESC-10.
        folds: numbers of all folds in the data set.
        held_out: numbers of the held-out folds.
        validation_folds: numbers of the validation folds.
        results_name: name of the data set in results; it mentions if only part of the data set is present.

    Raises:
        FileNotFoundError: The root, the table or audio files are missing.
        ValueError: An argument or the table is invalid.
        OSError: The data set cannot be downloaded.
    """

    table: ClassVar[str]
    """Path of the table in the root; it identifies the layout."""
    published: ClassVar[Published | None] = None
    """Source of `download`; None if the data set cannot be downloaded."""
    classes: ClassVar[int | None] = None
    """Published number of classes, which `--check` enforces as a limit for targets; None for no limit."""
    file_names: ClassVar[str | None] = None
    """Regular expression with groups "fold" and "target", if file names repeat these values of the table."""

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
        cache: str | Path | None = None,
        progress: bool = True,
        download: bool = False,
        exclude: Exclude = None,
    ) -> None:
        super().__init__(sample_rate, train=train, mono=mono)
        check_flags(download=download)
        if download and self.published is None:
            raise ValueError(f"download is true, but {self.title} can only be put into its root by hand.")
        self.transform_audio = transform_audio
        self.target_transform = target_transform
        self.root = self._find_root(root, download=download, progress=progress)

        clips = self.read_table()
        names = self._check_table(clips)
        self.folds = tuple(sorted({clip.fold for clip in clips}))
        self.held_out = self._check_fold(fold)
        self.validation_folds = validation_folds(validation_fold, held_out=self.held_out, folds=self.folds)
        self.results_name = self._name_results(clips)
        self.class_names = list(names.values())
        self._all_clips = clips
        self._position = {target: i for i, target in enumerate(names)}
        chosen = set(self.folds) - {*self.held_out, *self.validation_folds}
        self._choose(self.held_out if self.held_out and not train else chosen)
        if not self._rows:
            raise ValueError(f"fold is {fold}; that holds out every clip and leaves none to train on.")
        check_that_something_is_held_out(exclude, held_out=bool(self.held_out))
        if exclude is not None:
            exclusion = Exclusion(exclude)
            if train:
                kept = self._leave_out(exclusion.apply(list(self.sources())))
                self._choose_rows([row for row, keep in zip(self._rows, kept, strict=True) if keep])
        self._cache: ClipCache = self._make_cache(
            [clip.path for clip in clips], cache=cache, progress=progress
        )

    @property
    def validation(self) -> FoldDataset | None:
        """The samples in the validation folds, or None."""
        if not self.validation_folds:
            return None
        part = copy(self)
        part.excluded_notice = None
        part._choose(self.validation_folds)
        return part

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Check the table and the files for `--check`; takes the constructor's arguments."""
        return inspect_clips(
            cls,
            {key: value for key, value in args.items() if key not in ("fold", "validation_fold", "exclude")},
        )

    @abstractmethod
    def read_table(self) -> list[Clip]:
        """List all clips in `self.root`; raise ValueError if the table is invalid."""

    @abstractmethod
    def decode(self, path: Path) -> Waveform:
        """Decode one clip to float32 `[C, T]` in 16-bit units; must be thread-safe."""

    def record(self, index: int) -> dict[str, str | int]:
        """Return the clip name and the fold of sample `index`, for predictions and features."""
        clip = self.clips[index]
        return {"clip": clip.path, "fold": clip.fold}

    def listing(self, index: int) -> Listing:
        """Return the table's facts about sample `index`."""
        return Listing(f"{self.table}: {self.clips[index].path}", self._labels(index))

    def sources(self) -> Iterator[str | None]:
        """Return the recording of each sample, None if unknown."""
        return (clip.source for clip in self.clips)

    def files(self, index: int) -> SampleFiles | None:
        """Return the file of sample `index`; None if `decode` does more than resample."""
        if self.decoding != RESAMPLED or self.transform_audio or self.target_transform:
            return None
        clip = self.clips[index]
        return SampleFiles(self.root / clip.path, labels=[clip.label])

    def __len__(self) -> int:
        return len(self.clips)

    def read_batch(self, indices: Sequence[int]) -> Sample:
        """Return several samples, collated; audio that is int16 in the cache stays int16."""
        if self.transform_audio is not None:
            return cast(Sample, collate([self[index] for index in indices]))
        audio = self._cache.read_batch([self._rows[index] for index in indices])
        return Sample(audio, None, collate_field([self._labels(index) for index in indices]))

    def _choose(self, folds: Collection[int]) -> None:
        """Use the clips in these folds."""
        self._choose_rows([row for row, clip in enumerate(self._all_clips) if clip.fold in folds])

    def _choose_rows(self, rows: list[int]) -> None:
        self._rows = rows
        self.clips = [self._all_clips[row] for row in self._rows]
        self.targets = [self._position[clip.target] for clip in self.clips]

    def _sample(self, index: int, *, cached: bool) -> Sample:
        clip = self.clips[index]
        audio: Any = self._cache[self._rows[index]] if cached else self.decode(self.root / clip.path)
        if self.transform_audio is not None:
            audio = self.transform_audio(audio)
        return Sample(audio, None, self._labels(index))

    def _labels(self, index: int) -> Any:
        labels = [self.clips[index].label]
        return labels if self.target_transform is None else self.target_transform(labels)

    def _find_root(self, root: object, *, download: bool, progress: bool) -> Path:
        """Return the folder of the data set; download the data set if requested."""
        if not isinstance(root, str | Path):
            raise ValueError(f"root is {root!r}; the folder of {self.title} is expected.")
        folder = Path(root).expanduser()
        if (folder / self.table).is_file():
            return folder
        for inside in sorted(folder.glob(f"*/{self.table}")):
            deeper = folder / inside.relative_to(folder).parts[0]
            raise FileNotFoundError(f"root is {root}, but {self.title} is a folder deeper: use {deeper}.")
        if self.published is not None and download:
            fetch_data_set(self.published, folder, progress=progress)
            return folder
        lacks = f"has no {self.table}" if folder.is_dir() else "is not a folder"
        expected = f"{self.title} is expected there: {self.table} and the audio files. If it is elsewhere, "
        expected += "name that folder with --Dataset.args.root FOLDER"
        if self.published is not None:
            command = f"`python -m utils.fetch {self.published.name}`"
            expected += f"; --Dataset.args.download true fetches it, as does {command}"
        raise FileNotFoundError(f"root is {root}, which {lacks}; {expected}.")

    def _check_fold(self, fold: object) -> tuple[int, ...]:
        """Return the numbers of the held-out folds, or ()."""
        if fold is None:
            return ()
        held_out = fold_numbers(fold)
        if not set(self.folds).issuperset(held_out):
            raise ValueError(f"fold is {fold}; {self.title} has folds {_listing(self.folds)}.")
        return tuple(sorted(set(held_out)))

    def _name_results(self, clips: Sequence[Clip]) -> str:
        if self.published is None or len(clips) == self.published.clips:
            return self.title
        classes = len({clip.target for clip in clips})
        return f"part of {self.title} ({len(clips)} clips, {classes} classes)"

    def _check_table(self, clips: Sequence[Clip]) -> dict[int, str]:
        """Return labels by target, ascending; raise ValueError for contradictions and repeated clips."""
        if not clips:
            raise ValueError(f"root is {self.root}, but its {self.table} lists no clips.")
        for fault in contradictions(clips):
            raise ValueError(f"{self.root / self.table}: {fault.where}: {fault.what} {fault.remedy}")
        return dict(sorted({clip.target: clip.label for clip in clips}.items()))


def _listing(ordered: Sequence[int]) -> str:
    """Format numbers as `1 to 5`, or as `1, 2 and 7` if there are gaps."""
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return " and ".join(filter(None, [", ".join(map(str, ordered[:-1])), str(ordered[-1])]))
