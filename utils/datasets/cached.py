"""Base class of data sets whose sounds are decoded once, and checks of the arguments they share."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from model.audio_input import Waveform
from model.sounds.decoding import HIGHEST_RATE, Segment
from utils.datasets.sources.cache import ClipCache
from utils.datasets.sources.exclusion import Excluded

RESAMPLED = "resampled"
"""The decoding rule of `model.audio_input.read_audio` alone."""

S = TypeVar("S")

logger = logging.getLogger(__name__)


class CachedDataset(Dataset[S]):
    """A data set whose decoded sounds are cached.

    Args:
        sample_rate: sample rate of the returned audio, in Hz.
        train: split to use: True for all samples that are not held out, False for the held-out samples.
        mono: channels of the returned audio: True averages them, False duplicates a single channel, None
            keeps the file's channels.
    """

    affects: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("root", "fold"), "run"),
        **dict.fromkeys(("cache", "progress", "download"), "handling"),
    }
    title: ClassVar[str]
    """The data set's name in messages."""
    decoding: ClassVar[str]
    """Name of the decoding rule. It is part of the cache's key, so change it whenever `decode` changes."""
    root: Path
    """Folder that the paths of files are relative to."""
    sources_remedy: ClassVar[str] = (
        "Hold all samples of a recording out together, or leave these out of training: list their "
        "recordings, one a line, in a file for --Dataset.args.exclude."
    )
    """Advice if training and evaluation share recordings."""
    excluded: Mapping[str, int] = MappingProxyType({})
    """Number of training samples left out by `exclude`, by the list that names their recordings."""
    excluded_notice: str | None = None
    """Message that `prepare` logs about these samples, or None."""
    decode: Callable[..., Waveform]
    """Decode a file to float32 `[C, T]` in 16-bit units; thread-safe."""
    _cache: ClipCache | None = None

    def __init__(self, sample_rate: int, *, train: bool, mono: bool | None) -> None:
        check_sample_rate(sample_rate)
        check_flags(train=train)
        check_flags(optional=True, mono=mono)
        self.sample_rate = sample_rate
        self.mono = mono

    def prepare(self, *, skip_unreadable: bool = False) -> None:
        """Decode all clips that are not in the cache, if there is one; the first access does it otherwise.

        Logs how many samples `exclude` leaves out.

        Args:
            skip_unreadable: whether to skip clips that cannot be decoded; accessing such a sample then raises
                an OSError.

        Raises:
            ValueError: Clips cannot be decoded; the message names them.
            OSError: The cache folder cannot be used.
        """
        if self.excluded_notice is not None:
            logger.warning("%s: %s", self.title, self.excluded_notice)
            self.excluded_notice = None
        if self._cache is not None:
            self._cache.open(skip_unreadable=skip_unreadable)

    def _leave_out(self, excluded: Excluded) -> NDArray[np.bool_]:
        """Note the number of excluded samples, and return the mask of the others."""
        self.excluded = excluded.counts
        self.excluded_notice = str(excluded)
        return ~excluded.mask

    def look_at(self, index: int) -> S:
        """Return a sample without `prepare`, by decoding only its clip."""
        return self._sample(index, cached=self._cache is not None and self._cache.is_open)

    def __getitem__(self, index: int) -> S:
        return self._sample(index, cached=self._cache is not None)

    def __iter__(self) -> Iterator[S]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _sample(self, index: int, *, cached: bool) -> S:
        """Return a sample with its sound from the cache or decoded."""

    @property
    def cache_settings(self) -> dict[str, Any]:
        """Every setting that affects the output of `decode`, as JSON types."""
        return {"decoding": self.decoding, "sample_rate": self.sample_rate, "mono": self.mono}

    def _make_cache(
        self,
        paths: Sequence[str],
        *,
        cache: str | Path | None,
        progress: bool = False,
        segments: Sequence[Segment | None] | None = None,
    ) -> ClipCache:
        return ClipCache(
            self.root,
            paths,
            self.decode,
            name=type(self).__name__,
            settings=self.cache_settings,
            cache=cache,
            progress=progress,
            segments=segments,
        )


def check_flags(*, optional: bool = False, **flags: object) -> None:
    """Raise ValueError for arguments that are not a bool, such as "false"; optional ones may be None."""
    for name, value in flags.items():
        if not isinstance(value, bool) and not (optional and value is None):
            raise ValueError(f"{name} is {value!r}; true or false is expected.")


def check_sample_rate(sample_rate: object) -> None:
    """Raise ValueError unless a sample rate is an integer in the supported range."""
    if type(sample_rate) is not int or not 0 < sample_rate <= HIGHEST_RATE:
        raise ValueError(
            f"sample_rate is {sample_rate!r}; an integer from 1 to {HIGHEST_RATE}, in Hz, is expected."
        )


def as_list(values: object) -> list[Any]:
    """Return a list of the values: several values, a single value, or none for None."""
    if values is None:
        return []
    return list(values) if isinstance(values, list | tuple | range) else [values]


def fold_numbers(fold: object) -> list[int]:
    """Return the numbers of the held-out folds; raise ValueError for anything else."""
    numbers = as_list(fold)
    if not numbers or any(type(number) is not int for number in numbers):
        raise ValueError(
            f"fold is {fold!r}; a fold's number, a list of them, or null is expected. A random split would "
            "put clips from one recording, which share a fold, into both training and test data."
        )
    return numbers


def validation_folds(
    fold: int | Sequence[int] | Literal["next"] | None, *, held_out: Sequence[int], folds: Sequence[int]
) -> tuple[int, ...]:
    """Return the numbers of the validation folds, ascending.

    Args:
        fold: number or numbers of the folds; "next" for the fold after the last held-out fold, or the first
            fold if there is none after it; None for no validation.
        held_out: numbers of the held-out folds.
        folds: numbers of all folds, ascending.

    Raises:
        ValueError: Nothing is held out, a fold does not exist or is held out, or no fold is left to train on.
    """
    if fold is None:
        return ()
    if not held_out:
        raise ValueError(
            f"validation_fold is {fold!r}, but no fold is held out: validation chooses an epoch, and the "
            "held-out fold tests it. Give fold as well, or set validation_fold to null."
        )
    rest = [number for number in folds if number not in held_out]
    numbers = as_list(fold)
    if fold == "next" and rest:
        numbers = [next((number for number in rest if number > max(held_out)), rest[0])]
    if not numbers or not set(rest).issuperset(numbers) or any(isinstance(one, bool) for one in numbers):
        expected = f'"next", or some of {", ".join(map(str, rest))}, the folds that are not held out'
        raise ValueError(f"validation_fold is {fold!r}; expected: {expected}.")
    if len(set(numbers)) == len(rest):
        raise ValueError(
            f"validation_fold is {fold!r} and fold {list(held_out)}; no fold is left to train on."
        )
    return tuple(sorted(set(numbers)))


def checked_share(name: str, share: Any) -> float:
    """Return a share as a float; raise ValueError unless it is a number between 0 and 1."""
    if type(share) not in (int, float) or not 0 < share < 1:
        raise ValueError(f"{name} is {share!r}; a number between 0 and 1 is expected.")
    return float(share)


def share_of(groups: Sequence[str], share: float, salt: str = "") -> NDArray[np.bool_]:
    """Return the mask of a share of the groups, with at least one group in it and one outside.

    Different salts choose independently of each other.
    """
    positions = {group: _position(salt + group) for group in groups}
    ranked = sorted(positions, key=positions.__getitem__)
    count = sum(position < share for position in positions.values())
    chosen = set(ranked[: min(max(count, 1), len(ranked) - 1)])
    return np.array([group in chosen for group in groups])


def _position(group: str) -> float:
    """Hash a text to a number in 0..1 that does not depend on other rows."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48
