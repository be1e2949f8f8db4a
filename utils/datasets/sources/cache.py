"""Decoded clips of a data set, kept on disk in one memory-mapped file that all folds and processes share.

    <cache>/ESC50-0123456789abcdef/      one folder for each thing it can be made from
        audio.bin                        the clips one after the other, int16 or float32
        index.npy                        where each clip is, and in which form
        failed.json                      clips that could not be decoded, if there are any: the error of each
        made_from.json                   what the folder's name is the hash of
    <cache>/ESC50-0123456789abcdef.lock

A clip whose file could not be read, as when a network drive was down, is tried again by the next run and then
added to the end: clips that are there stay in their places, for runs that use them. One whose content is
damaged is tried again when its file has changed.

Folders of an old rate or of files that changed stay; any of them can be deleted while no run uses it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ignite_trainer.api.batch import PaddedBatch
from ignite_trainer.support.progress import Progress
from model.audio_input import Waveform
from model.sounds.decoding import Segment
from utils.fetching.atomic_folder import flush, make_once

FORMAT_VERSION = 3
"""Raise it when the layout of the files changes, or what `model.audio_input` gives for the same file."""

_AGAIN = "start the run again, and the clips are decoded again"
_ALIGNMENT = 4  # bytes; every clip starts at a multiple, so that it can be viewed as float32
_INDEX_TYPE = np.dtype(
    [
        ("offset", "<i8"),  # bytes
        ("samples", "<i8"),
        ("channels", "<i8"),
        ("stored_channels", "<i8"),  # 1 where all channels are equal
        ("type", "U2"),
    ]
)


class DecodedClips:
    """The clips of one cache folder, by their position in the table.

    One that could not be decoded raises an OSError when it is asked for. The file is mapped at the first
    access in each process; pickling passes on the path, not the audio.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.failures = _read_failures(folder)  # before the index, which is replaced before them
        """Clips that failed to decode, by position."""
        self._index: NDArray[np.void] = np.load(folder / "index.npy")
        self._bytes: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> Waveform:
        """A copy of one clip: float32 `[C, T]`, 16-bit units."""
        self._require([position])
        clip = self._index[position]
        return np.array(np.broadcast_to(self._view(clip), (clip["channels"], clip["samples"])), np.float32)

    def read_batch(self, positions: Sequence[int]) -> PaddedBatch:
        """A copy of several clips: int16 `[B, C, T]` if all are stored so, else float32.

        Raises:
            ProtocolError: their channels differ.
            OSError: one could not be decoded.
        """
        self._require(positions)
        clips = self._index[list(positions)]
        if (clips["channels"] != clips["channels"][0]).any():
            return PaddedBatch.stack([torch.from_numpy(self[position]) for position in positions])
        lengths = clips["samples"]
        kind = np.int16 if (clips["type"] == "i2").all() else np.float32
        make = np.empty if (lengths == lengths[0]).all() else np.zeros
        values = make((len(clips), clips["channels"][0], lengths.max()), kind)
        for row, clip in zip(values, clips, strict=True):
            row[:, : clip["samples"]] = self._view(clip)
        return PaddedBatch(torch.from_numpy(values), torch.from_numpy(lengths.copy()))

    def _require(self, positions: Sequence[int]) -> None:
        failed = next((self.failures[position] for position in positions if position in self.failures), None)
        if failed is not None:
            raise OSError(failed.error)

    def _view(self, clip: np.void) -> NDArray[np.int16] | Waveform:
        """One clip where it lies in the file: `[stored channels, T]`."""
        if self._bytes is None:
            self._bytes = self._map()
        # To touch what was cut off a mapped file would end the process, without a word.
        if self._bytes.size() < len(self._bytes):
            raise OSError(f"{self._folder / 'audio.bin'} was cut short since the run began; {_AGAIN}.")
        shape = (clip["stored_channels"], clip["samples"])
        view: NDArray[np.int16] | Waveform = np.ndarray(shape, clip["type"], self._bytes, clip["offset"])
        return view

    def _map(self) -> mmap.mmap:
        path = self._folder / "audio.bin"
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} was deleted since the run began; {_AGAIN}.") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}


class OpenDecoded(Protocol):
    """Opens the decoded clips of a data set; decodes them if that was not done yet."""

    def __call__(self, *, skip_unreadable: bool = False) -> DecodedClips:
        """Open the clips.

        Args:
            skip_unreadable: go on where clips do not decode; these raise an OSError when they are asked for.

        Raises:
            ValueError: clips do not decode; the message names them.
            OSError: the cache folder cannot be written.
        """


def plan_decoding(
    root: Path,
    paths: Sequence[str],
    decode: Callable[..., Waveform],
    *,
    name: str,
    settings: Mapping[str, Any],
    cache: str | Path | None = None,
    progress: bool = True,
    segments: Sequence[Segment | None] | None = None,
) -> OpenDecoded:
    """Check that the files are there, and return what opens them decoded, decoding if that was not done yet.

    Of several processes that open at the same time one decodes and the others wait.

    Args:
        root: folder of the data set.
        paths: its audio files, relative to the root.
        decode: turns a file into float32 `[C, T]` in 16-bit units; runs in several threads.
        name: of the data set, for people who look into the cache folder.
        settings: all that decides what `decode` makes of a file, as JSON types.
        cache: folder of all caches; None: `default_cache_folder()`.
        progress: show a bar while decoding, or lines where there is no terminal.
        segments: of each path the part that is a clip; `decode` is given it, too. None: all of each.

    Returns:
        A function, which can be pickled, that raises ValueError for files that do not decode, and OSError if
        the cache folder cannot be written.

    Raises:
        FileNotFoundError: audio files are missing.
    """
    description = _description(root, paths, settings, segments)
    load = partial(_load, root, paths, decode, segments=segments)
    return partial(load, name=name, description=description, cache=cache, progress=progress)


def _load(
    root: Path,
    paths: Sequence[str],
    decode: Callable[..., Waveform],
    *,
    segments: Sequence[Segment | None] | None,
    name: str,
    description: str,
    cache: str | Path | None,
    progress: bool,
    skip_unreadable: bool = False,
) -> DecodedClips:
    folder = _folder(name, description, cache)

    parts = [()] * len(paths) if segments is None else [(segment,) for segment in segments]
    decoders = [(path, partial(decode, root / path, *part)) for path, part in zip(paths, parts, strict=True)]

    def fill(unfinished: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # somebody deleted a part of it
        (unfinished / "made_from.json").write_text(description)
        clips = _decode_in_threads(decoders)
        bar = Progress(clips, desc=f"Decoding {name}", total=len(paths), unit="clips", shown=progress)
        failures = _write(unfinished, bar, keep=skip_unreadable)
        if failures and (not skip_unreadable or len(failures) == len(paths)):
            first = next(iter(failures.values()))
            raise _undecodable(root, list(map(str, failures.values())), of=len(paths)) from first

    try:
        make_once(folder, is_complete=_is_complete, fill=fill)
        _try_again(folder, decoders)
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise OSError(
            f"cache is {folder.parent}, where decoded audio cannot be written ({error}). Make room there, or "
            "name another folder by the argument cache or the environment variable AUDIOCLIP_CACHE."
        ) from error
    decoded = DecodedClips(folder)
    if decoded.failures and not skip_unreadable:  # another run went on without them
        said = [failure.error for failure in decoded.failures.values()]
        raise _undecodable(root, said, of=len(paths))
    return decoded


def _undecodable(root: Path, said: Sequence[str], *, of: int) -> ValueError:
    return ValueError(
        f"root is {root}, but {len(said)} of its {of} clips cannot be decoded:\n  "
        + _first(said, 10, separator="\n  ")
        + "\nFetch these files again, or take them out of the data set; in a run, Faults.unreadable "
        '"skip" goes on without them.'
    )


def is_decoded(
    root: Path,
    paths: Sequence[str],
    *,
    name: str,
    settings: Mapping[str, Any],
    cache: str | Path | None = None,
    segments: Sequence[Segment | None] | None = None,
) -> bool:
    """Whether the clips are in the cache already; the arguments are those of `plan_decoding`."""
    return _is_complete(_folder(name, _description(root, paths, settings, segments), cache))


def cache_folder(cache: str | Path | None) -> Path:
    """The folder of all caches, by the argument of that name."""
    return Path(cache).expanduser() if cache is not None else default_cache_folder()


def _folder(name: str, description: str, cache: str | Path | None) -> Path:
    key = hashlib.sha256(description.encode()).hexdigest()[:16]
    return cache_folder(cache) / f"{name}-{key}"


def default_cache_folder() -> Path:
    """`$AUDIOCLIP_CACHE` if set, else `audioclip` in the user's cache folder (`~/.cache`).

    A user without a home has it in the folder of temporary files.
    """
    if chosen := os.environ.get("AUDIOCLIP_CACHE"):
        return Path(chosen).expanduser()
    users = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(users) if users else Path.home() / ".cache") / "audioclip"
    except RuntimeError:
        return Path(tempfile.gettempdir(), f"audioclip-{os.getuid()}")


def _description(
    root: Path,
    paths: Sequence[str],
    settings: Mapping[str, Any],
    segments: Sequence[Segment | None] | None,
) -> str:
    """All that decoded audio depends on, as JSON."""
    made_from = {
        **({} if segments is None else {"segments": segments}),
        "format": FORMAT_VERSION,
        "settings": dict(settings),
        "libraries": {
            "libsndfile": soundfile.__libsndfile_version__,
            "librosa": version("librosa"),
            "soxr": version("soxr"),
        },
        "files": _sizes_and_times(root, paths),
    }
    return json.dumps(made_from, sort_keys=True)


def _sizes_and_times(root: Path, paths: Sequence[str]) -> list[tuple[str, int, int]]:
    """Path, bytes and time of change (ns) of every file: a changed file changes the key."""
    found, absent = [], []
    for path in paths:
        try:
            status = (root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            absent.append(path)
        else:
            found.append((path, status.st_size, status.st_mtime_ns))
    if absent:
        raise FileNotFoundError(
            f"root is {root}, but {len(absent)} of its {len(paths)} audio files are missing: "
            f"{_first(absent, 5, separator=', ')}. Is the data set complete?"
        )
    return found


def _is_complete(folder: Path) -> bool:
    """Whether a folder is there and nothing of it was deleted or cut short since."""
    try:
        index = np.load(folder / "index.npy")
        value_bytes = np.where(index["type"] == "i2", 2, 4)
        ends = index["offset"] + index["stored_channels"] * index["samples"] * value_bytes
        return bool((folder / "audio.bin").stat().st_size >= ends.max())
    except (OSError, EOFError, ValueError):
        return False


class _Failure(NamedTuple):
    """A clip that could not be decoded: the message, and whether another attempt may succeed."""

    error: str
    may_pass: bool

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """Take a ValueError for a fault of the content, and any other for one that may pass.

        Raises:
            MemoryError: memory ran out, which is no fault of the clip.
        """
        if isinstance(error, MemoryError):
            raise error
        return cls(str(error) or type(error).__name__, may_pass=not isinstance(error, ValueError))


def _read_failures(folder: Path) -> dict[int, _Failure]:
    path = folder / "failed.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    # Older caches have the message alone, whatever the reason.
    pairs = ((int(key), (one, True) if isinstance(one, str) else one) for key, one in content.items())
    return {position: _Failure(*pair) for position, pair in pairs}


def _write_failures(path: Path, failures: Mapping[int, _Failure]) -> None:
    path.write_text(json.dumps(failures))


class _Stored(NamedTuple):
    """A clip as it is written."""

    values: NDArray[np.int16] | Waveform
    """`[stored channels, T]`."""
    channels: int

    def append_to(self, file: BinaryIO) -> tuple[int, int, int, int, str]:
        """Write the clip to the end of a file; return its entry in the index."""
        file.write(bytes(-file.tell() % _ALIGNMENT))
        entry = (
            file.tell(),
            self.values.shape[1],
            self.channels,
            len(self.values),
            self.values.dtype.str[1:],
        )
        file.write(np.ascontiguousarray(self.values).data)
        return entry


def _decode_in_threads(
    decoders: Iterable[tuple[str, Callable[[], Waveform]]],
) -> Iterator[_Stored | Exception]:
    """Decode clips in order, few ahead of what is taken; libsndfile, soxr and numpy release the GIL.

    A clip that does not decode gives the exception, so that all of them can be reported together.
    """

    def attempt(path: str, decode: Callable[[], Waveform]) -> _Stored | Exception:
        try:
            audio = decode()
            values = smallest(audio)
            if values.dtype == np.float32 and not np.isfinite(values).all():
                raise ValueError(f"{path}: holds values that are not finite.")
        except Exception as error:  # a decoder may raise anything
            return error
        return _Stored(values, len(audio))

    threads = min(os.cpu_count() or 1, 16)
    ahead: deque[Future[_Stored | Exception]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path, decode in decoders:
            ahead.append(pool.submit(attempt, path, decode))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _write(folder: Path, clips: Iterable[_Stored | Exception], *, keep: bool) -> dict[int, Exception]:
    """Write clips and their index; return the exceptions among them by position.

    With an exception there is no index, unless the other clips are to be kept.
    """
    entries: list[tuple[int, int, int, int, str]] = []
    failures: dict[int, Exception] = {}
    with (folder / "audio.bin").open("wb") as file:
        for position, clip in enumerate(clips):
            if isinstance(clip, Exception):
                failures[position] = clip
                entries.append((file.tell(), 0, 0, 0, "i2"))
            elif keep or not failures:
                entries.append(clip.append_to(file))
        flush(file)
    if failures and keep:
        _write_failures(
            folder / "failed.json", {position: _Failure.of(error) for position, error in failures.items()}
        )
    if keep or not failures:
        _write_index(folder / "index.npy", np.array(entries, _INDEX_TYPE))
    return failures


def _write_index(path: Path, index: NDArray[np.void]) -> None:
    with path.open("wb") as file:
        np.save(file, index)
        flush(file)


def _try_again(folder: Path, decoders: Sequence[tuple[str, Callable[[], Waveform]]]) -> None:
    """Decode the clips of a complete folder whose failure may pass; add those that decode now."""
    if not any(failure.may_pass for failure in _read_failures(folder).values()):
        return
    with FileLock(f"{folder}.lock"):
        failures, index = _read_failures(folder), np.load(folder / "index.npy")
        positions = [position for position, failure in failures.items() if failure.may_pass]
        clips = _decode_in_threads(decoders[position] for position in positions)
        with (folder / "audio.bin").open("ab") as file:
            for position, clip in zip(positions, clips, strict=True):
                if isinstance(clip, Exception):
                    failures[position] = _Failure.of(clip)
                else:
                    index[position] = clip.append_to(file)
                    del failures[position]
            flush(file)
        # In this order: whoever opens the folder in between finds a clip missing, never a wrong one.
        _write_index(folder / "index.npy.partial", index)
        (folder / "index.npy.partial").replace(folder / "index.npy")
        _write_failures(folder / "failed.json.partial", failures)
        (folder / "failed.json.partial").replace(folder / "failed.json")


def smallest(audio: Waveform) -> NDArray[np.int16] | Waveform:
    """The smallest array that the clip can be had back from, every value of it.

    Equal channels are stored once, and whole numbers, which is what a 16-bit file has, as int16.
    """
    if len(audio) > 1 and (audio == audio[:1]).all():
        audio = audio[:1]
    with np.errstate(invalid="ignore"):  # what int16 cannot hold becomes something else, so not equal
        whole = audio.astype(np.int16)
    return whole if (whole == audio).all() else audio


def _first(items: Sequence[object], count: int, *, separator: str) -> str:
    more = [f"and {len(items) - count} more"] * (len(items) > count)
    return separator.join([*map(str, items[:count]), *more])
