"""Cache of decoded clips: one memory-mapped file per data set, shared by all folds, runs and processes.

    <cache>/ESC50-0123456789abcdef/      one folder for each set of files and settings
        audio.bin                        concatenated clips, int16 or float32
        index.npy                        position, shape and dtype of each clip
        failed.json                      error messages of clips that do not decode
        made_from.json                   files, settings and versions; the folder's name is its hash
    <cache>/ESC50-0123456789abcdef.lock

The next run retries clips that could not be decoded, for example because a network drive was down, and
appends them, so that other runs find the stored clips in place.

If files or settings change, the old folder stays; you can delete it while no run uses it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import soundfile
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.support.progress import Progress
from model.audio_input import Waveform
from model.sounds.decoding import Segment
from model.storage.atomic import flush, make_once, whole_file
from model.storage.places import default_cache_folder
from utils.datasets.sources.cells import shortlist

FORMAT_VERSION = 3
"""Version to increase when the layout of the files or the output of `model.audio_input` changes."""

S = TypeVar("S")
T = TypeVar("T")

_AGAIN = "start the run again, and the clips are decoded again"
_ALIGNMENT = 4  # bytes, so that each clip can be viewed as float32
_INDEX_TYPE = np.dtype(
    [
        ("offset", "<i8"),  # bytes
        ("samples", "<i8"),
        ("channels", "<i8"),
        ("stored_channels", "<i8"),  # 1 if all channels are equal
        ("type", "U2"),
    ]
)


class ClipCache:
    """The decoded clips of a data set, by position.

    The first `open` decodes the clips. If several processes open the cache at the same time, one decodes
    while the others wait. Each process maps the file at its first access; pickling copies the path, not the
    audio.

    Args:
        root: folder of the data set.
        paths: audio files, relative to the root.
        decode: thread-safe function that decodes a file, or a segment of it if there are `segments`, to
            float32 `[C, T]` in 16-bit units.
        name: name of the data set, for people who look into the cache folder.
        settings: every setting that affects the output of `decode`, as JSON types.
        cache: folder of all caches; None for `default_cache_folder()`.
        progress: whether to show a progress bar while decoding, or lines without a terminal.
        segments: segment of each path that forms the clip; None for whole files.

    Raises:
        FileNotFoundError: Audio files are missing.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        decode: Callable[..., Waveform],
        *,
        name: str,
        settings: Mapping[str, Any],
        cache: str | Path | None = None,
        progress: bool = True,
        segments: Sequence[Segment | None] | None = None,
    ) -> None:
        made_from = {
            **({} if segments is None else {"segments": segments}),
            "format": FORMAT_VERSION,
            "settings": dict(settings),
            "libraries": {
                "libsndfile": soundfile.__libsndfile_version__,
                "soxr": version("soxr"),
            },
            "files": _sizes_and_times(root, paths),
        }
        self._made_from = json.dumps(made_from, sort_keys=True)
        key = hashlib.sha256(self._made_from.encode()).hexdigest()[:16]
        self._folder = cache_folder(cache) / f"{name}-{key}"
        self._root = root
        self._name = name
        self._progress = progress
        self._paths = paths
        self._segments = segments
        self._decode_file = decode
        self._index: NDArray[np.void] | None = None
        self._failures: dict[int, str] = {}
        self._bytes: mmap.mmap | None = None

    @property
    def is_open(self) -> bool:
        """True if clips can be read without decoding."""
        return self._index is not None

    def is_complete(self) -> bool:
        """Return whether the folder exists and none of its files has been deleted or truncated."""
        return _is_complete(self._folder)

    def open(self, *, skip_unreadable: bool = False) -> None:
        """Open the clips, decoding them first if necessary.

        Clips that cannot be decoded are skipped if `skip_unreadable`; reading them then raises an OSError.

        Raises:
            ValueError: Clips cannot be decoded; the message names them.
            OSError: The cache folder cannot be written.
        """
        if self._index is not None:
            return
        try:
            make_once(self._folder, is_complete=_is_complete, fill=partial(self._fill, keep=skip_unreadable))
            self._retry()
        except (OSError, NotImplementedError) as error:  # the latter if the file system has no locks
            raise OSError(
                f"cache is {self._folder.parent}, where decoded audio cannot be written ({error}). Free some "
                "space there, or name another folder with the argument cache or the environment variable "
                "AUDIOCLIP_CACHE."
            ) from error
        failures = _read_failures(self._folder)  # before the index, which is replaced first
        if failures and not skip_unreadable:  # another run continued without these clips
            raise self._undecodable(failures)
        self._failures = failures
        self._index = np.load(self._folder / "index.npy")

    def __getitem__(self, position: int) -> Waveform:
        """Copy one clip: float32 `[C, T]`, 16-bit units."""
        [clip] = self._clips([position])
        return np.array(np.broadcast_to(self._view(clip), (clip["channels"], clip["samples"])), np.float32)

    def read_batch(self, positions: Sequence[int]) -> PaddedBatch:
        """Copy several clips: int16 `[B, C, T]` if all are stored as int16, and otherwise float32.

        Raises:
            ProtocolError: The clips' numbers of channels differ.
            OSError: A clip could not be decoded.
        """
        clips = self._clips(positions)
        if (clips["channels"] != clips["channels"][0]).any():
            return PaddedBatch.stack([torch.from_numpy(self[position]) for position in positions])
        lengths = clips["samples"]
        kind = np.int16 if (clips["type"] == "i2").all() else np.float32
        make = np.empty if (lengths == lengths[0]).all() else np.zeros
        values = make((len(clips), clips["channels"][0], lengths.max()), kind)
        for row, clip in zip(values, clips, strict=True):
            row[:, : clip["samples"]] = self._view(clip)
        return PaddedBatch(torch.from_numpy(values), torch.from_numpy(lengths.copy()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}

    def _clips(self, positions: Sequence[int]) -> NDArray[np.void]:
        self.open()
        assert self._index is not None
        for position in positions:
            if position in self._failures:
                raise OSError(self._failures[position])
        return self._index[list(positions)]

    def _view(self, clip: np.void) -> NDArray[np.int16] | Waveform:
        """View one clip in the mapped file: `[stored channels, T]`."""
        path = self._folder / "audio.bin"
        if self._bytes is None:
            try:
                with path.open("rb") as file:
                    self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                raise FileNotFoundError(f"{path} was deleted since the run began; {_AGAIN}.") from None
        # Reading beyond the end of a mapped file kills the process without a message.
        if self._bytes.size() < len(self._bytes):
            raise OSError(f"{path} was cut short since the run began; {_AGAIN}.")
        shape = (clip["stored_channels"], clip["samples"])
        view: NDArray[np.int16] | Waveform = np.ndarray(shape, clip["type"], self._bytes, clip["offset"])
        return view

    def _fill(self, folder: Path, *, keep: bool) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # files in it were deleted or truncated
        (folder / "made_from.json").write_text(self._made_from)
        index = np.zeros(len(self._paths), _INDEX_TYPE)
        index["type"] = "i2"
        with (folder / "audio.bin").open("wb") as file:
            failures = self._append(range(len(index)), index, file, keep=keep)
        if failures and (not keep or len(failures) == len(index)):
            raise self._undecodable(failures)
        _write(folder, index, failures)

    def _retry(self) -> None:
        """Retry the clips that could not be decoded before, and append the clips that succeed."""
        if not _read_failures(self._folder):
            return
        with FileLock(f"{self._folder}.lock"):
            before, index = _read_failures(self._folder), np.load(self._folder / "index.npy")
            with (self._folder / "audio.bin").open("ab") as file:
                failures = self._append(list(before), index, file, keep=True)
            if len(failures) < len(before):
                _write(self._folder, index, failures)

    def _append(
        self, positions: Sequence[int], index: NDArray[np.void], file: BinaryIO, *, keep: bool
    ) -> dict[int, str]:
        """Decode clips, append them to the file and to the index, and return the errors.

        After the first failure, nothing is written unless the other clips are to be kept.
        """
        failures: dict[int, str] = {}
        bar = Progress(
            in_threads(self._decode, positions),
            desc=f"Decoding {self._name}",
            total=len(positions),
            unit="clips",
            shown=self._progress,
        )
        for position, clip in zip(positions, bar, strict=True):
            if isinstance(clip, Exception):
                failures[position] = str(clip) or type(clip).__name__
            elif keep or not failures:
                values, channels = clip
                file.write(bytes(-file.tell() % _ALIGNMENT))
                entry = (file.tell(), values.shape[1], channels, len(values), values.dtype.str[1:])
                index[position] = entry
                file.write(np.ascontiguousarray(values).data)
        flush(file)
        return failures

    def _decode(self, position: int) -> tuple[NDArray[Any], int] | Exception:
        """Decode a clip to its smallest array and its number of channels, or return the exception."""
        path, part = self._paths[position], () if self._segments is None else (self._segments[position],)
        try:
            audio = self._decode_file(self._root / path, *part)
            values = smallest(audio)
            if values.dtype == np.float32 and not np.isfinite(values).all():
                raise ValueError(f"{path}: holds non-finite values.")
        except MemoryError:
            raise
        except Exception as error:  # a decoder may raise anything
            return error
        return values, len(audio)

    def _undecodable(self, failures: Mapping[int, str]) -> ValueError:
        errors, count = list(failures.values()), len(self._paths)
        return ValueError(
            f"root is {self._root}, but {len(errors)} of its {count} clips cannot be decoded:\n  "
            + shortlist(errors, 10, separator="\n  ")
            + "\nDownload these files again, or remove them from the data set; in a run, Faults.unreadable "
            '"skip" continues without them.'
        )


def cache_folder(cache: str | Path | None) -> Path:
    """Return the folder of all caches for an argument `cache`."""
    return Path(cache).expanduser() if cache is not None else default_cache_folder()


def smallest(audio: Waveform) -> NDArray[np.int16] | Waveform:
    """Return the smallest array from which a clip can be restored exactly.

    Equal channels are stored once. Integer values, as in a 16-bit file, are stored as int16.
    """
    if len(audio) > 1 and (audio == audio[:1]).all():
        audio = audio[:1]
    with np.errstate(invalid="ignore"):  # values beyond int16 change, so the comparison fails
        whole = audio.astype(np.int16)
    return whole if (whole == audio).all() else audio


def _sizes_and_times(root: Path, paths: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return each file's path, size in bytes and modification time in ns, so that changes alter the key."""
    present, absent = [], []
    for path in paths:
        try:
            status = (root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            absent.append(path)
        else:
            present.append((path, status.st_size, status.st_mtime_ns))
    if absent:
        raise FileNotFoundError(
            f"root is {root}, but {len(absent)} of its {len(paths)} audio files are missing: "
            f"{shortlist(absent)}. Is the data set complete?"
        )
    return present


def _is_complete(folder: Path) -> bool:
    try:
        index = np.load(folder / "index.npy")
        value_bytes = np.where(index["type"] == "i2", 2, 4)
        ends = index["offset"] + index["stored_channels"] * index["samples"] * value_bytes
        return bool((folder / "audio.bin").stat().st_size >= ends.max())
    except (OSError, EOFError, ValueError):
        return False


def _read_failures(folder: Path) -> dict[int, str]:
    path = folder / "failed.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    # Older caches store a list that begins with the message.
    return {int(key): error if isinstance(error, str) else error[0] for key, error in content.items()}


def _write(folder: Path, index: NDArray[np.void], failures: Mapping[int, str]) -> None:
    """Replace the index, then the failures; in this order, no process ever reads a wrong clip."""
    with whole_file(folder / "index.npy") as file:
        np.save(file, index)
    with whole_file(folder / "failed.json") as file:
        file.write(json.dumps(failures).encode())


def in_threads(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Map in order in threads, a few items ahead of the consumer; decoding releases the GIL."""
    threads = min(os.cpu_count() or 1, 16)
    ahead: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
