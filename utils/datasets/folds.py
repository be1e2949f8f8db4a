"""Data sets of short labelled clips in official folds: what they share, checks included.

A new data set is a subclass with a table of clips and a decoding rule:

    class BirdCalls(FoldDataset):
        title = "BirdCalls"                  # in messages
        table = "calls.csv"                  # by which its root is recognised
        decoding = RESAMPLED                 # the rule in words; change it with the rule

        def read_table(self) -> list[Clip]:
            columns = ["file", "fold", "target", "bird"]
            return [Clip(...) for row in read_rows(self.root / self.table, columns)]

        def decode(self, path: Path) -> Waveform:
            return read_audio(path, self.sample_rate, mono=self.mono)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from torch.utils.data import Dataset

from ignite_trainer.api.batch import collate, collate_field
from ignite_trainer.api.findings import Inspection
from model.audio_input import Waveform
from model.sounds.decoding import HIGHEST_RATE
from utils.datasets.checks.folds import inspect_clips
from utils.datasets.sample import Clip, Listing, Sample, SampleFiles
from utils.datasets.sources.cache import DecodedClips, OpenDecoded, plan_decoding
from utils.fetching.published import Published, fetch_data_set

RESAMPLED = "resampled"
"""The rule that does no more than `model.audio_input.read_audio`."""


class FoldDataset(Dataset[Sample], ABC):
    """Labelled clips of which some folds are held out.

        fold=2       fold 1    fold 2    fold 3    fold 4    fold 5
        train=True     x                   x         x         x
        train=False              x

    `prepare` decodes every clip of the table, whatever the fold, into a cache that later folds, runs and
    processes share. The constructor decodes nothing: it checks arguments, table and files.

    Args:
        root: folder of the data set as it is published.
        sample_rate: of the samples, Hz.
        train: True: all folds but the held-out ones; False: the held-out ones.
        fold: number or numbers of the held-out folds. None: nothing is held out and both splits are the whole
            data set, as zero-shot classification wants it; nothing to measure training by.
        mono: True averages the channels, False doubles a single channel into two, None keeps the file's.
        transform_audio: applied to the audio, float32 numpy `[C, T]`, of every sample.
        target_transform: applied to the labels, `list[str]`, of every sample.
        cache: folder for decoded audio; None: that of `utils.datasets.sources.cache.default_cache_folder`.
        progress: show a bar while fetching and decoding, or lines where there is no terminal.
        download: if the root is not there, or empty, fetch the data set and unpack it there.

    Attributes:
        clips: the clips of this split; `clips[i]` has path, fold, target and label of sample `i`.
        class_names: labels of the whole data set, not only the split's, in the order of the table's targets.
        targets: position of each sample's label in `class_names`. It equals the table's target where those
            are contiguous, as in ESC-50 and UrbanSound8K, but not in ESC-10.
        folds: numbers of all folds of the data set.
        held_out: numbers of the folds held out.
        results_name: what results may be called: the data set's name if all of it is there, else which part.

    Raises:
        FileNotFoundError: root, table or audio files are missing.
        ValueError: an argument or the table is wrong.
        OSError: the data set cannot be fetched.
    """

    affects: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("root", "fold"), "run"),
        **dict.fromkeys(("cache", "progress", "download"), "handling"),
    }
    title: ClassVar[str]
    """The data set's name in messages."""
    table: ClassVar[str]
    """Path of the table in the root; the layout is recognised by it."""
    decoding: ClassVar[str]
    """The decoding rule in words. It is part of the cache's key, so change it whenever `decode` changes."""
    published: ClassVar[Published | None] = None
    """Where `download` gets it; None: nowhere."""
    classes: ClassVar[int | None] = None
    """Number of classes as published, for `--check`: targets are below it. None: any."""
    file_names: ClassVar[str | None] = None
    """Regular expression whose groups "fold" and "target" say what names of files repeat of the table."""

    def __init__(
        self,
        root: str | Path,
        sample_rate: int = 44100,
        *,
        train: bool = True,
        fold: int | Sequence[int] | None = None,
        mono: bool | None = None,
        transform_audio: Callable[[Waveform], Any] | None = None,
        target_transform: Callable[[list[str]], Any] | None = None,
        cache: str | Path | None = None,
        progress: bool = True,
        download: bool = False,
    ) -> None:
        if type(sample_rate) is not int or not 0 < sample_rate <= HIGHEST_RATE:
            raise ValueError(
                f"sample_rate is {sample_rate!r}; a positive integer, in Hz, of at most {HIGHEST_RATE} is "
                "expected."
            )
        check_flag("train", train)
        check_flag("download", download)
        if download and self.published is None:
            raise ValueError(f"download is true; {self.title} can only be put into its root by hand.")
        if mono is not None:
            check_flag("mono", mono)
        self.sample_rate = sample_rate
        self.mono = mono
        self.transform_audio = transform_audio
        self.target_transform = target_transform
        self.root = self._check_root(root, published=self.published if download else None, progress=progress)

        clips = self.read_table()
        names = self._check_table(clips)
        held_out = self._check_fold(fold, clips)
        self.folds = tuple(sorted({clip.fold for clip in clips}))
        self.held_out = tuple(sorted(held_out))
        self.results_name = self._name_results(len(clips), len(names))
        chosen = [i for i, clip in enumerate(clips) if not held_out or (clip.fold in held_out) != train]
        if not chosen:
            raise ValueError(f"fold is {fold}; that holds out every clip and leaves none to train on.")

        self._decoded: DecodedClips | None = None
        self._load_decoded: OpenDecoded = self._plan_decoding(clips, cache=cache, progress=progress)
        self._rows = chosen
        self.clips = [clips[i] for i in chosen]
        self.class_names = list(names.values())
        position = {target: i for i, target in enumerate(names)}
        self.targets = [position[clip.target] for clip in self.clips]

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Look for faults in table and files, as `--check` asks for; the arguments are the constructor's."""
        return inspect_clips(cls, {key: value for key, value in args.items() if key != "fold"})

    @abstractmethod
    def read_table(self) -> list[Clip]:
        """List all clips of `self.root`, with what is wrong in the table as a ValueError."""

    @abstractmethod
    def decode(self, path: Path) -> Waveform:
        """Decode one clip: float32 `[C, T]`, 16-bit units. Runs in several threads at once."""

    def prepare(self, *, skip_unreadable: bool = False) -> None:
        """Decode every clip unless that was done; the first sample asked for does it, too.

        Args:
            skip_unreadable: go on where clips do not decode; such a sample raises an OSError when it is asked
                for.

        Raises:
            ValueError: clips do not decode; the message names them.
            OSError: the cache folder cannot be used.
        """
        if self._decoded is None:
            self._decoded = self._load_decoded(skip_unreadable=skip_unreadable)

    def record(self, index: int) -> dict[str, str | int]:
        """Say which clip sample `index` is, and in which fold, as predictions and features name it."""
        clip = self.clips[index]
        return {"clip": clip.path, "fold": clip.fold}

    def listing(self, index: int) -> Listing:
        """Say what the table says of sample `index`."""
        return Listing(f"{self.table}: {self.clips[index].path}", self._labels(index))

    def look_at(self, index: int) -> Sample:
        """Give a sample without `prepare`: its clip alone is decoded."""
        if self._decoded is not None:
            return self[index]
        return self._sample(index, self.decode(self.root / self.clips[index].path))

    def files(self, index: int) -> SampleFiles | None:
        """Say which file sample `index` is decoded from; None where the decoding rule is one of its own."""
        if self.decoding != RESAMPLED or self.transform_audio or self.target_transform:
            return None
        clip = self.clips[index]
        return SampleFiles(self.root / clip.path, labels=[clip.label])

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, self._clips_decoded()[self._rows[index]])

    def _sample(self, index: int, audio: Any) -> Sample:
        if self.transform_audio is not None:
            audio = self.transform_audio(audio)
        return Sample(audio, None, self._labels(index))

    def read_batch(self, indices: Sequence[int]) -> Sample:
        """Give several samples at once, collated; audio that is int16 in the cache stays int16."""
        if self.transform_audio is not None:
            return cast(Sample, collate([self[index] for index in indices]))
        audio = self._clips_decoded().read_batch([self._rows[index] for index in indices])
        return Sample(audio, None, collate_field([self._labels(index) for index in indices]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @property
    def cache_settings(self) -> dict[str, Any]:
        """All that decides what `decode` makes of a file, as JSON types."""
        return {"decoding": self.decoding, "sample_rate": self.sample_rate, "mono": self.mono}

    def _plan_decoding(
        self, clips: Sequence[Clip], *, cache: str | Path | None, progress: bool
    ) -> OpenDecoded:
        return plan_decoding(
            self.root,
            [clip.path for clip in clips],
            self.decode,
            name=type(self).__name__,
            settings=self.cache_settings,
            cache=cache,
            progress=progress,
        )

    def _clips_decoded(self) -> DecodedClips:
        self.prepare()
        assert self._decoded is not None
        return self._decoded

    def _labels(self, index: int) -> Any:
        labels = [self.clips[index].label]
        return labels if self.target_transform is None else self.target_transform(labels)

    def _check_root(self, root: object, *, published: Published | None, progress: bool) -> Path:
        if not isinstance(root, str | Path):
            raise ValueError(f"root is {root!r}; the folder of {self.title} is expected.")
        folder = Path(root).expanduser()
        if (folder / self.table).is_file():
            return folder
        inside = sorted(folder.glob(f"*/{self.table}"))
        if inside:
            deeper = folder / inside[0].relative_to(folder).parts[0]
            raise FileNotFoundError(f"root is {root}, but {self.title} is a folder deeper: use {deeper}.")
        if published is not None:
            fetch_data_set(published, folder, progress=progress)
            return folder
        fetched = ""
        if self.published is not None:
            fetched = (
                "; --Dataset.args.download true fetches it, as does `python -m utils.fetch "
                f"{self.published.name}`"
            )
        expected = (
            f"{self.title} is expected there: {self.table} and the audio files. If it is elsewhere, name "
            f"that folder with --Dataset.args.root FOLDER{fetched}."
        )
        if not folder.is_dir():
            raise FileNotFoundError(f"root is {root}, which is not a folder; {expected}")
        raise FileNotFoundError(f"root is {root}, which has no {self.table}; {expected}")

    def _check_fold(self, fold: int | Sequence[int] | None, clips: Sequence[Clip]) -> set[int]:
        """The held-out folds; empty if there are none."""
        if fold is None:
            return set()
        held_out: list[Any] = list(fold) if isinstance(fold, list | tuple | range) else [fold]
        if not held_out or any(type(number) is not int for number in held_out):
            raise ValueError(
                f"fold is {fold!r}; a fold's number, a list of them, or null is expected. There is no other "
                "split: clips cut from one recording share a fold, and a random one would have them on both "
                "sides."
            )
        there = {clip.fold for clip in clips}
        if not there.issuperset(held_out):
            raise ValueError(f"fold is {fold}; {self.title} has folds {_listing(there)}.")
        return set(held_out)

    def _name_results(self, clips: int, classes: int) -> str:
        if self.published is None or clips == self.published.clips:
            return self.title
        return f"part of {self.title} ({clips} clips, {classes} classes)"

    def _check_table(self, clips: Sequence[Clip]) -> dict[int, str]:
        """Labels by target, in ascending order: one label for one target, and every clip once."""
        table = self.root / self.table
        if not clips:
            raise ValueError(f"root is {self.root}, but its {self.table} lists no clips.")
        names: dict[int, str] = {}
        targets: dict[str, int] = {}
        paths: set[str] = set()
        for clip in clips:
            label = names.setdefault(clip.target, clip.label)
            target = targets.setdefault(clip.label, clip.target)
            if (label, target) != (clip.label, clip.target):
                raise ValueError(
                    f'{table}: {clip.path} is "{clip.label}" with target {clip.target}, but another clip is '
                    f'"{label}" with target {target}.'
                )
            if clip.path in paths:
                raise ValueError(f"{table} lists {clip.path} twice.")
            paths.add(clip.path)
        return dict(sorted(names.items()))


def check_flag(name: str, value: object) -> None:
    """Raise unless an argument is a bool: the text "false" would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; true or false is expected.")


def _listing(numbers: Iterable[int]) -> str:
    """`1 to 5`, or `1, 2 and 7` where there are gaps."""
    ordered = sorted(numbers)
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]} to {ordered[-1]}"
    return " and ".join(filter(None, [", ".join(map(str, ordered[:-1])), str(ordered[-1])]))
