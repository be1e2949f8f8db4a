"""Samples in shards: local or remote tar files that are read sequentially."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ignite_trainer.api.findings import Inspection
from ignite_trainer.api.streamed import Indices
from utils.datasets.cached import check_flags, check_sample_rate, fold_numbers, validation_folds
from utils.datasets.checks import error
from utils.datasets.listed import FramesWanted, check_frames
from utils.datasets.sample import DescribedSample, Listing, Sample, text_of
from utils.shards import decoding
from utils.shards.manifest import ShardEntry, digest
from utils.shards.reading import Content, LocalShard, RemoteShard, file_name, find, local_path


class Shards(Dataset[Sample | DescribedSample]):
    """Samples in tar files in webdataset's format, with a manifest of their contents.

    Samples are `(audio, image, labels)`, or `(audio, image, labels, text)` if any sample in the set has a
    caption.

    A sample's index is its position in the set, counted through the shards in the order of their addresses.
    Training reads the shards in random order and shuffles each shard's samples in blocks of `block`. Samples
    of local shards are read at their offsets. Remote shards are read sequentially, and the undecoded samples
    of a block are held in memory until their turn.

    There are three ways to define the splits:

        "args": {"urls": "set/manifest.jsonl"}                            the splits stored in the set
        "args": {"urls": "set/manifest.jsonl", "fold": 2}                 fold 2 is held out
        "args": {"training": {"key": "urls", "yes": "train-{000..127}.tar", "no": "test-{00..03}.tar"}}

    Args:
        urls: address, pattern, or a list of these. An address is a path, an http: or https: address, a
            `pipe:` command, or a manifest, which stands for all its shards.
        sample_rate: sample rate of the returned audio, in Hz.
        train: split to use: True for the training samples, False for the held-out samples, None for all
            samples of `urls`.
        fold: number or numbers of the held-out folds; None for the set's splits, or for the whole set if it
            has no splits.
        validation_fold: number or numbers of folds that are not trained on, but choose the best epoch; "next"
            for the fold after the held-out one, or the first after the last. Without a fold, the shards of
            the split "validation" choose it, if the set has any.
        mono: channels of the returned audio: True averages them, False duplicates a single channel, None
            keeps the file's channels.
        manifest: address or addresses of the manifest; None for a manifest in the shards' folder.
        frames: images of a sample that has several: "central" for the middle image, "all" for `Frames`,
            from which a transform of the field "image" chooses and decodes an image.
        block: number of a shard's samples that are shuffled together, and held in memory if the shard is
            remote.
        lanes: number of shards that a process reads concurrently; must be divisible by the number of workers.

    Attributes:
        class_names: labels of the whole set.
        folds: numbers of all folds, if a fold can be held out.
        held_out: numbers of the held-out folds.
        validation_folds: numbers of the validation folds.
        results_name: name of the data set in results.
        digest: hash of this split's shards.
        shards: address and manifest entry of each shard.

    Raises:
        ValueError: An argument or the manifest is invalid.
        OSError: The manifest cannot be read.
    """

    affects: ClassVar[dict[str, str]] = {"fold": "run"}
    _named: tuple[int, list[str]]

    def __init__(
        self,
        urls: str | Sequence[str],
        sample_rate: int = 44100,
        *,
        train: bool | None = None,
        fold: int | Sequence[int] | None = None,
        validation_fold: int | Sequence[int] | Literal["next"] | None = None,
        mono: bool | None = None,
        manifest: str | Sequence[str] | None = None,
        frames: FramesWanted = "central",
        block: int = 1000,
        lanes: int = 8,
    ) -> None:
        check_sample_rate(sample_rate)
        check_flags(optional=True, train=train, mono=mono)
        for name, number in (("block", block), ("lanes", lanes)):
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} is {number!r}; 1 or more is expected.")
        check_frames(frames)
        self.sample_rate, self.mono, self._frames = sample_rate, mono, frames
        self.lanes, self._block = lanes, block
        shard_set = find(urls, manifest)
        self.held_out, self.folds = _folds(train, fold, [entry for _, entry in shard_set.shards])
        self.validation_folds = validation_folds(validation_fold, held_out=self.held_out, folds=self.folds)
        parts = _parts(shard_set.shards, train, self.held_out, self.validation_folds)
        self._validation = parts["validation"] if train else []
        self._choose(parts["test" if train is False else "train"])
        self.class_names = list(shard_set.about.class_names)
        self._suffixes = shard_set.about.suffixes
        self.described = shard_set.about.texts
        self.results_name = shard_set.about.name
        if not shard_set.whole:
            clips = sum(len(entry) for _, entry in shard_set.shards)
            self.results_name = f"part of {shard_set.about.name} ({clips} clips)"

    @property
    def validation(self) -> Shards | None:
        """The samples in the validation folds or in the split "validation", or None."""
        if not self._validation:
            return None
        part = copy(self)
        part._choose(self._validation)
        return part

    @classmethod
    def inspect_data(cls, **args: Any) -> Inspection:
        """Find local shards that are missing or have the wrong size, for `--check`."""
        shard_set = find(args["urls"], args.get("manifest"))
        findings, elsewhere = [], 0
        for url, entry in shard_set.shards:
            path = local_path(url)
            elsewhere += path is None
            if path is not None and not path.is_file():
                findings.append(error("A shard is missing.", url, "Download or make it again."))
            elif path is not None and path.stat().st_size != entry.size_bytes:
                what = "A shard does not have the size that its manifest states."
                findings.append(error(what, url, "Download or make it again."))
        samples = sum(len(entry) for _, entry in shard_set.shards)
        counted = f"{samples:,} samples in {len(shard_set.shards):,} shards, {elsewhere:,} elsewhere"
        return Inspection(findings=tuple(findings), summary=f"{shard_set.about.name}: {counted}")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Sample | DescribedSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} of {len(self)}")
        with contextlib.closing(self.stream([index % len(self)])) as reads:
            return next(reads)()

    def labels(self) -> set[str] | None:
        """Return the labels in this split; None if an older manifest does not list them."""
        named = [entry.labels for _, entry in self.shards]
        if None in named:
            return None
        return {label for labels in named for label in labels or ()}

    def listings(self) -> Iterator[Listing]:
        """Yield representative samples of each shard (see `utils.shards.manifest`).

        Older manifests do not list any.
        """
        for _, entry in self.shards:
            names = entry.names if entry.examples else []
            for example in entry.examples or ():
                place = f"{entry.file}: {names[example.position]}"
                longest = () if example.text is None else (example.text,)
                yield Listing(place, example.labels, longest, audio=example.sound)

    def record(self, index: int) -> dict[str, str | int]:
        """Return the clip name and the fold of sample `index` in the original data set."""
        number, position = self._place(index)
        fold = self.shards[number][1].fold
        return {"clip": self._name(number, position), **({} if fold is None else {"fold": fold})}

    def epoch_order(self, key: int | None) -> Indices:
        """Return the shards in random order, with the samples shuffled within each block."""
        if key is None:
            return range(len(self))
        draw = functools.partial(torch.randperm, generator=torch.Generator().manual_seed(key))
        blocks = []
        for number in draw(len(self.shards)).tolist():
            begin, end = self._starts[number : number + 2].tolist()
            blocks += [
                start + draw(min(self._block, end - start)) for start in range(begin, end, self._block)
            ]
        order: NDArray[np.int64] = torch.cat(blocks).numpy()
        return order

    def stream(self, indices: Indices) -> Generator[Callable[[], Sample | DescribedSample]]:
        """Yield functions that read these samples, one shard after another."""
        asked = np.asarray(indices, np.int64)
        numbers = np.searchsorted(self._starts, asked, side="right") - 1
        positions = asked - self._starts[numbers]
        blocks = positions // self._block
        current, shard = -1, None
        try:
            for (number, _), group in groupby(
                range(len(asked)), lambda at: (int(numbers[at]), int(blocks[at]))
            ):
                if shard is None or number != current:
                    if shard is not None:
                        shard.close()
                    current, shard = number, self._open(number)
                wanted = [int(positions[at]) for at in group]
                for position, read in zip(wanted, shard.read(wanted), strict=True):
                    yield functools.partial(self._sample, number, position, read)
        finally:
            if shard is not None:
                shard.close()

    def indices_of(self, number: int) -> range:
        """Return the indices of a shard's samples."""
        return range(*self._starts[number : number + 2].tolist())

    def _open(self, number: int) -> LocalShard | RemoteShard:
        url, entry = self.shards[number]
        path = local_path(url)
        return RemoteShard(url, entry) if path is None else LocalShard(path, entry)

    def _sample(self, number: int, position: int, read: Callable[[], Content]) -> Sample | DescribedSample:
        """Decode one sample; errors name the sample's place."""
        url, entry = self.shards[number]
        place = f"sample {position} of {len(entry)} in {file_name(url)}: "
        try:
            content = read()
            decoding.require(content, self._suffixes)
            decoding.refuse_undecoded(content)
            about = decoding.about(content, self.class_names)
            name = about.name or content["__key__"]
            if name != self._name(number, position):
                raise ValueError(f"it is {name}; the manifest is of another shard")
            audio = decoding.audio(content, self.sample_rate, self.mono)
            every = self._frames == "all"
            frames = decoding.frames(content, place=place if every else "")
            image = frames if frames is None or every else frames[frames.central]
            if self.described:
                return DescribedSample(audio, image, about.labels, text_of(about.captions))
            return Sample(audio, image, about.labels)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}{error}") from error

    def _place(self, index: int) -> tuple[int, int]:
        """Return the number of a sample's shard, and the sample's position in the shard."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, int(index - self._starts[number])

    def _name(self, number: int, position: int) -> str:
        if self._named[0] != number:
            self._named = (number, self.shards[number][1].names)
        return self._named[1][position]

    def _choose(self, shards: list[tuple[str, ShardEntry]]) -> None:
        """Use the samples in these shards."""
        self.shards = shards
        self.digest = digest(entry for _, entry in shards)
        self._starts: NDArray[np.int64] = np.cumsum([0, *(len(entry) for _, entry in shards)])
        self._named = (-1, [])


def _folds(
    train: bool | None, fold: int | Sequence[int] | None, shards: Sequence[ShardEntry]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the held-out folds, and all folds that can be held out."""
    present = sorted({shard.fold for shard in shards if shard.fold is not None})
    if train is None:
        if fold is not None:
            raise ValueError(f"fold is {fold}, but train, which chooses the split, is not given.")
        return (), ()
    if fold is None:
        return (), tuple(present)
    held_out = fold_numbers(fold)
    if not set(present).issuperset(held_out) or any(shard.fold is None for shard in shards):
        has = ", ".join(map(str, present)) or "none"
        raise ValueError(f"fold is {fold}; the folds of these shards: {has}.")
    if set(present) == set(held_out):
        raise ValueError(f"fold is {fold}; that holds out every shard and leaves none to train on.")
    return tuple(sorted(set(held_out))), tuple(present)


def _parts(
    shards: Sequence[tuple[str, ShardEntry]],
    train: bool | None,
    held_out: Sequence[int],
    validation: Sequence[int],
) -> dict[str, list[tuple[str, ShardEntry]]]:
    """Return the shards of each split; all shards in both splits if nothing tells the splits apart."""

    def split_of(entry: ShardEntry) -> str | None:
        if not held_out:
            return entry.split
        return "test" if entry.fold in held_out else "validation" if entry.fold in validation else "train"

    parts: dict[str, list[tuple[str, ShardEntry]]] = {"train": [], "validation": [], "test": []}
    splits = {split_of(entry) for _, entry in shards}
    if train is None or splits == {None}:
        return {**parts, "train": list(shards), "test": list(shards)}
    if splits - {"validation"} != {"train", "test"}:
        raise ValueError(
            f"urls has only shards of {' and '.join(sorted(map(str, splits)))}; list those of both splits, "
            'or set "training": {"key": "urls", ...}.'
        )
    for shard in shards:
        parts[str(split_of(shard[1]))].append(shard)
    return parts
