"""One shard written: samples of a data set as the files that a tar file has of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from ignite_trainer.api.self_description import record
from model.audio_input import AUDIO_SUFFIXES, CONVERT_AUDIO, INT16_SCALE
from model.clip.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES
from utils.datasets.sample import SampleFiles
from utils.datasets.sources.frames import Frames
from utils.shards import decoding
from utils.shards.examples import Example, choose_examples
from utils.shards.manifest import ShardEntry, write_whole
from utils.shards.reading import Content

Audio = Literal["keep", "flac", "ogg", "wav"]
_SUBTYPES = {"flac": "PCM_16", "ogg": "VORBIS", "wav": "FLOAT"}
_BLOCK = 1 << 16  # frames encoded at a time
_OWN_RATE = 44100


@dataclass(frozen=True, kw_only=True)
class Job:
    """A shard to be written.

    Attributes:
        file: its name.
        source: key of the data set that its samples are of.
        indices: of the samples, in their order.
        fold: that all of them are in.
        split: likewise.
    """

    file: str
    source: str | None
    indices: Sequence[int]
    fold: int | None
    split: str | None


class Written(NamedTuple):
    """A shard that was written.

    Attributes:
        entry: its line of the manifest; None: none of its samples could be read, and there is no file.
        suffixes: of the files that each of its samples has.
        left_out: samples that could not be read, with what was said of them.
        texts: whether any of its samples has a text.
    """

    entry: ShardEntry | None
    suffixes: list[str]
    left_out: dict[str, str]
    texts: bool


def sample_name(dataset: Any, index: int) -> str:
    """What a sample is called in the manifest: the first entry of its record."""
    return str(next(iter(record(dataset, index).values())))


def write_shard(folder: Path, job: Job, dataset: Any, *, audio: Audio, skip: bool) -> Written:
    """Write a shard, whole or not at all.

    Args:
        folder: to write it to.
        job: which samples it has.
        dataset: that they are of.
        audio: how sounds are kept; see `encode`.
        skip: leave out what cannot be read.

    Raises:
        ValueError, OSError: a sample cannot be read, or the shard cannot be written.
    """
    from webdataset import TarWriter  # noqa: PLC0415 - takes seconds

    offsets, names, left_out = list[int](), list[str](), dict[str, str]()
    common: set[str] | None = None
    sounds = pictures = 0
    examples = list[Example]()
    hashing = _Hashing()

    def write(file: BinaryIO) -> None:
        nonlocal common, sounds, pictures
        hashing.file = file
        # Of no time, so that equal samples make equal shards.
        with TarWriter(hashing, encoder=False, mtime=0) as tar:
            for index in job.indices:
                name = sample_name(dataset, index)
                try:
                    content = encode(dataset, index, audio=audio)
                except (OSError, ValueError) as error:
                    if not skip:
                        raise ValueError(f"{name} cannot be read: {error}") from error
                    left_out[name] = str(error)
                    continue
                offsets.append(tar.tarstream.offset)
                names.append(name)
                tar.write(content)
                has_sound = decoding.sound(content) is not None
                sounds += has_sound
                pictures += len(decoding.pictures(content))
                common = decoding.suffixes(content) if common is None else common & decoding.suffixes(content)
                said = decoding.about(content, [])
                examples.append(
                    Example(position=len(examples), labels=said.labels, text=said.text, sound=has_sound)
                )
            offsets.append(tar.tarstream.offset)

    path = folder / job.file
    write_whole(path, write)
    if not names:
        path.unlink()
        return Written(None, [], left_out, texts=False)
    entry = ShardEntry.of(
        file=job.file,
        size_bytes=path.stat().st_size,
        sha256=hashing.digest.hexdigest(),
        fold=job.fold,
        split=job.split,
        sounds=sounds,
        pictures=pictures,
        labels=sorted({label for one in examples for label in one.labels}),
        examples=choose_examples(examples),
        offsets=offsets,
        names=names,
    )
    texts = any(one.text is not None for one in examples)
    return Written(entry, sorted(common or ()), left_out, texts)


def encode(dataset: Any, index: int, *, audio: Audio) -> Content:
    """Make the files of one sample.

    Args:
        dataset: its data set. Of one with a method `files` these are copied, else the sample is encoded.
        index: its position there.
        audio: "keep" copies what there is a file of, and makes flac of the rest. "flac" is lossless for 16
            bit and rounds what has more, "ogg" is Vorbis, which is lossy, "wav" is float32 and keeps all.

    Raises:
        ValueError, OSError: it cannot be read, or has what cannot be kept.
    """
    about = dict(record(dataset, index))
    files: SampleFiles | None = dataset.files(index) if hasattr(dataset, "files") else None
    sample = None
    if files is None or (audio != "keep" and files.audio is not None):
        sample = dataset[index]
    content: Content = {"__key__": f"{index:09d}"}
    if files is not None:
        labels: Any = files.labels
        text = files.text
        for number, path in enumerate(files.images):
            data = path.read_bytes()
            content[f"{number}.{_picture_kind(str(path), data)}"] = data
        if files.audio is not None and sample is None:
            content[_sound_kind(files.audio)] = files.audio.read_bytes()
    else:
        assert sample is not None
        labels, text = sample.labels, getattr(sample, "text", None)
        content |= _pictures(sample.image)
    if sample is not None and sample.audio is not None:
        kind = "flac" if audio == "keep" else audio
        content[kind] = _sound(sample.audio, getattr(dataset, "sample_rate", _OWN_RATE), kind)
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {labels!r}; a list of names is expected")
    said = {
        "clip": sample_name(dataset, index),
        "labels": list(labels),
        **({} if text is None else {"text": text}),
    }
    content["json"] = json.dumps({**about, **said}, ensure_ascii=False).encode()
    return content


def _sound_kind(path: Path) -> str:
    """The suffix that a sound is kept by, such as "flac": its own, or if that is not known, its format."""
    kind = path.suffix[1:].lower()
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        with suppress(RuntimeError, TypeError):  # TypeError: x.raw
            kind = soundfile.info(path).format.lower().removesuffix("ex")  # a wavex is a wav
    if f".{kind}" not in AUDIO_SUFFIXES:
        raise ValueError(f"{path} is not a sound that a shard can keep; {CONVERT_AUDIO}.")
    return kind


def _picture_kind(name: str, content: bytes) -> str:
    """The suffix that a picture is kept by, such as "jpg": its own, or if that is not known, its format."""
    kind = name.rpartition(".")[2].lower()
    if f".{kind}" not in IMAGE_SUFFIXES:
        with suppress(OSError), Image.open(io.BytesIO(content)) as image:
            kind = str(image.format).lower()
    if f".{kind}" not in IMAGE_SUFFIXES:
        raise ValueError(f"{name} is not a picture that a shard can keep; {CONVERT_IMAGE}.")
    return kind


def _sound(audio: Any, sample_rate: int, kind: str) -> bytes:
    """Encode float32 `[C, T]` in 16-bit units."""
    samples = np.asarray(audio, np.float32).T / np.float32(INT16_SCALE)  # a power of two: exact
    if kind != "wav":
        samples = np.clip(samples, -1.0, 1 - 1 / INT16_SCALE)
    encoded = io.BytesIO()
    with soundfile.SoundFile(
        encoded, "w", sample_rate, samples.shape[1], subtype=_SUBTYPES[kind], format=kind.upper()
    ) as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(samples[start : start + _BLOCK])
    return encoded.getvalue()


def _pictures(image: Any) -> dict[str, bytes]:
    """The files of a sample's pictures: those of `Frames` as they are, one that is decoded as png."""
    if image is None:
        return {}
    if not isinstance(image, Frames):
        return {"0.png": _png(image)}
    found = {}
    for number, source in enumerate(image.sources):
        name = image.names[number] if image.names else str(source)
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        found[f"{number}.{_picture_kind(name, content)}"] = content
    return found


def _png(image: Any) -> bytes:
    """Encode uint8 `[3, H, W]`."""
    pixels: NDArray[Any] = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != 3:
        raise ValueError(f"its image is {pixels.dtype} {list(pixels.shape)}; uint8 [3, H, W] can be kept")
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(encoded, "PNG")
    return encoded.getvalue()


class _Hashing:
    """A file that hashes what is written to it."""

    file: BinaryIO

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)
