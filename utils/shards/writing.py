"""Writing of a shard: encodes a data set's samples as files in a tar file."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from ignite_trainer.api.self_description import record
from model.audio_input import AUDIO_SUFFIXES, CONVERT_AUDIO, INT16_SCALE
from model.clip.image_input import CONVERT_IMAGE, IMAGE_SUFFIXES
from model.storage.atomic import whole_file
from utils.datasets.sample import SampleFiles, text_of
from utils.datasets.sources.frames import Frames
from utils.shards.decoding import suffixes, summarise
from utils.shards.manifest import Hashing, Summary
from utils.shards.reading import Content

Audio = Literal["keep", "flac", "ogg", "wav"]
_SUBTYPES = {"flac": "PCM_16", "ogg": "VORBIS", "wav": "FLOAT"}
_BLOCK = 1 << 16  # frames to encode at a time: the Vorbis encoder keeps all of them on the stack
_OWN_RATE = 44100


@dataclass(frozen=True, kw_only=True)
class Job:
    """A shard to write: the indices of samples, in order, in the data set with the key `source`."""

    file: str
    source: str | None
    indices: Sequence[int]
    fold: int | None
    split: str | None


class Written(BaseModel):
    """The result of writing a shard; without readable samples, no file is kept and there is no summary."""

    summary: Summary | None
    left_out: dict[str, str]


def write_shard(folder: Path, job: Job, dataset: Any, *, audio: Audio, skip: bool) -> Written:
    """Write a shard atomically; `audio` as for `encode`.

    Raises:
        ValueError, OSError: A sample cannot be read and `skip` is false, or the shard cannot be written.
    """
    offsets, contents, left_out = list[int](), list[Content](), dict[str, str]()
    path = folder / job.file
    with whole_file(path) as file:
        hashing = Hashing(file)
        with tarfile.open(fileobj=cast(BinaryIO, hashing), mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for index in job.indices:
                name = sample_name(dataset, index)
                try:
                    content = encode(dataset, index, audio=audio)
                except (OSError, ValueError) as error:
                    if not skip:
                        raise ValueError(f"{name} cannot be read: {error}") from error
                    left_out[name] = str(error)
                    continue
                offsets.append(tar.offset)
                _add(tar, content)
                contents.append({**dict.fromkeys(content, b""), "__key__": name, "json": content["json"]})
            offsets.append(tar.offset)
    if not contents:
        path.unlink()
        return Written(summary=None, left_out=left_out)
    summary = summarise(
        contents,
        file=job.file,
        size_bytes=hashing.count,
        sha256=hashing.digest.hexdigest(),
        fold=job.fold,
        split=job.split,
        offsets=offsets,
    )
    return Written(summary=summary, left_out=left_out)


def sample_name(dataset: Any, index: int) -> str:
    """Return the name of a sample in the manifest: the first entry of its record."""
    return str(next(iter(record(dataset, index).values())))


def _add(tar: tarfile.TarFile, content: Content) -> None:
    """Add the files of a sample, with the headers that webdataset writes but no time: shards repeat."""
    for suffix in sorted(suffixes(content)):
        member = tarfile.TarInfo(f"{content['__key__']}.{suffix}")
        member.size, member.mode = len(content[suffix]), 0o444
        member.uname = member.gname = "bigdata"
        tar.addfile(member, io.BytesIO(content[suffix]))


def encode(dataset: Any, index: int, *, audio: Audio) -> Content:
    """Make the files of one sample.

    Args:
        dataset: data set of the sample. If it has a method `files`, the files are copied; otherwise the
            sample is encoded.
        index: index of the sample in the data set.
        audio: encoding of the sound. "keep" copies files and encodes anything else as FLAC; "flac" is
            lossless for 16-bit audio and rounds finer samples; "ogg" is Vorbis, which is lossy; "wav" is
            lossless float32.

    Raises:
        ValueError, OSError: The sample cannot be read, or contains something that cannot be stored.
    """
    about = dict(record(dataset, index))
    files: SampleFiles | None = dataset.files(index) if hasattr(dataset, "files") else None
    sample = None
    if files is None or (audio != "keep" and files.audio is not None):
        sample = dataset[index]
    content: Content = {"__key__": f"{index:09d}"}
    labels: Any
    text: Any
    if files is not None:
        labels, text = files.labels, text_of(files.captions)
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
        content[kind] = encode_sound(sample.audio, getattr(dataset, "sample_rate", _OWN_RATE), kind)
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {labels!r}; a list of names is expected")
    said: dict[str, Any] = {**about, "clip": sample_name(dataset, index), "labels": list(labels)}
    if text is not None:
        said["text"] = text
    content["json"] = json.dumps(said, ensure_ascii=False).encode()
    return content


def _sound_kind(path: Path) -> str:
    """Return the suffix under which a sound is kept, such as "flac": its own, or that of its format."""
    kind = path.suffix[1:].lower()
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        with suppress(RuntimeError, TypeError):  # TypeError: x.raw
            kind = soundfile.info(path).format.lower().removesuffix("ex")  # a wavex is a wav
    if f".{kind}" not in AUDIO_SUFFIXES:
        raise ValueError(f"{path} is not a sound that a shard can keep; {CONVERT_AUDIO}.")
    return kind


def _picture_kind(name: str, content: bytes) -> str:
    """Return the suffix under which an image is kept, such as "jpg": its own, or that of its format."""
    kind = name.rpartition(".")[2].lower()
    if f".{kind}" not in IMAGE_SUFFIXES:
        with suppress(OSError), Image.open(io.BytesIO(content)) as image:
            kind = str(image.format).lower()
    if f".{kind}" not in IMAGE_SUFFIXES:
        raise ValueError(f"{name} is not an image that a shard can keep; {CONVERT_IMAGE}.")
    return kind


def encode_sound(audio: Any, sample_rate: int, kind: str) -> bytes:
    """Encode float32 `[C, T]` in 16-bit units as "flac", "ogg" or "wav"; only "wav" keeps overshoots."""
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
    """Return the files of a sample's pictures: `Frames` unchanged, a decoded image as PNG."""
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
