"""Audio files to arrays in 16-bit units: decoding, mixing and resampling, nothing learned."""

import os
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

INT16_SCALE = 32768.0
"""16-bit units per unit of decoded audio: full scale, 1.0, is 32768."""

MOST_VALUES = 2**29
"""Of one file, decoded, in all channels: 2 GiB, 101 minutes of stereo at 44.1 kHz."""
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
"""Of a file, Hz. Brought to 44.1 kHz, a small file at 1 Hz would fill any memory."""

AUDIO_SUFFIXES = frozenset(
    """
    .wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .snd .caf .nist .sph
    .voc .avr .htk .ircam .paf .pvf .sds .svx .wve
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes, in lower case, of sounds that libsndfile decodes: data sets, shards and the demo read these."""
UNDECODED_AUDIO_SUFFIXES = frozenset(
    """
    .m4a .m4b .aac .alac .wma .amr .ape .wv .tta .ac3 .eac3 .mka .weba .webm .mp4 .m4v .mkv .mov .avi
    .mpg .mpeg .3gp .flv .wmv .ogv
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes of sounds and videos that it does not decode."""
CONVERT_AUDIO = "convert it, as by `ffmpeg -i x.m4a x.flac`"

_BLOCK = 1 << 20  # frames

Waveform = npt.NDArray[np.float32]
"""Audio, float32 `[C, T]`."""


Segment: TypeAlias = tuple[float, float | None]
"""Of a recording: seconds where it begins and where it ends; None: with the recording."""


def read_audio(
    source: str | Path | BinaryIO,
    sample_rate: int,
    mono: bool | None = None,
    *,
    name: str | None = None,
    segment: Segment | None = None,
) -> Waveform:
    """Decode an audio file (see `AUDIO_SUFFIXES`) and bring it to one sample rate.

    Args:
        source: path of the file, or its content as a binary file that can be searched.
        sample_rate: of the result, Hz.
        mono: True averages the channels into one, False doubles a single channel into two, None keeps
            the channels of the file.
        name: of the file in messages, where it has no path.
        segment: the part of the file that is read, no more than there is of it; None: all.

    Returns:
        float32 `[C, T]` in 16-bit units (about -32768..32767; resampling may overshoot a little).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not decode, holds no samples, more than `MOST_VALUES` or values that are
            not finite.
    """
    if isinstance(source, str | Path):
        source, name = Path(source), name or str(source)
        if not source.is_file():
            raise FileNotFoundError(f"{name}: no such audio file.")
    name = name or "audio"
    samples, file_rate = _decode(source, name, segment or (0.0, None))
    refuse_truncated_wav(source, name)
    if samples.shape[0] == 0:
        raise ValueError(f"{name}: holds no audio samples{_of(segment)}.")

    with np.errstate(over="ignore", invalid="ignore"):  # a float file may hold anything
        waveform = samples.T * np.float32(INT16_SCALE)
    if not np.isfinite(waveform).all():
        raise ValueError(f"{name}: holds values that are not finite.")
    if mono is True:
        waveform = waveform.mean(axis=0, keepdims=True)
    if waveform.size * sample_rate > MOST_VALUES * file_rate:
        raise _too_long(name, waveform.size * sample_rate // file_rate)
    waveform = resample(waveform, file_rate, sample_rate)
    if mono is False and waveform.shape[0] == 1:
        waveform = waveform.repeat(2, axis=0)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _of(segment: Segment | None) -> str:
    if segment is None:
        return ""
    return f" from {segment[0]:g} s on" if segment[1] is None else f" from {segment[0]:g} to {segment[1]:g} s"


def _decode(source: Path | BinaryIO, name: str, segment: Segment) -> tuple[npt.NDArray[np.float32], int]:
    """Decode a part of a file: float32 `[T, C]`, and its rate, Hz.

    Memory is taken for what is there, not for what is announced.
    """
    try:
        with soundfile.SoundFile(source) as file:
            if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
                allowed = f"{LOWEST_RATE} to {HIGHEST_RATE} are read"
                raise ValueError(f"{name}: its sample rate is {file.samplerate} Hz; {allowed}.")
            begin, end = segment
            first = round(min(begin * file.samplerate, file.frames))
            last = file.frames if end is None else round(min(end * file.samplerate, file.frames))
            left = max(last - first, 0)
            if left * file.channels > MOST_VALUES:
                raise _too_long(name, left * file.channels)
            if first:
                file.seek(first)
            blocks: list[npt.NDArray[np.float32]] = []
            while not blocks or (left and len(blocks[-1]) == _BLOCK):
                blocks.append(file.read(min(left, _BLOCK), dtype="float32", always_2d=True))
                left -= len(blocks[-1])
            return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), file.samplerate
    except (RuntimeError, TypeError) as error:  # TypeError: a name that promises no header, such as x.raw
        reason = getattr(error, "error_string", None) or error
        advice = f"; {CONVERT_AUDIO}." if Path(name).suffix.lower() in UNDECODED_AUDIO_SUFFIXES else ""
        raise ValueError(f"{name}: not decodable as audio ({reason}){advice}") from error


def _too_long(name: str, values: int) -> ValueError:
    return ValueError(
        f"{name}: too long, {values:,} values of all channels; at most {MOST_VALUES:,} are read."
    )


def refuse_truncated_wav(source: Path | BinaryIO, name: str | None = None) -> None:
    """Raise if a RIFF file is shorter than its header says: libsndfile reads what is left without a word.

    `name` is that in messages; None: the path.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return refuse_truncated_wav(file, name or str(source))
    source.seek(0)
    header = source.read(8)
    announced = int.from_bytes(header[4:8], "little") + 8
    size = source.seek(0, os.SEEK_END)
    if header[:4] == b"RIFF" and announced < 2**32 - 1 and size < announced - 1:  # -1: a missing pad byte
        raise ValueError(f"{name}: truncated; its header announces {announced} bytes, the file has {size}.")
    return None


def resample(waveform: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample along the last axis with SoX's high-quality filter (soxr_hq).

    Args:
        waveform: float32 `[..., T]`.
        source_rate: its sample rate, Hz, positive.
        target_rate: the wanted sample rate, Hz, positive.

    Returns:
        float32 `[..., ceil(T * target_rate / source_rate)]`; the argument itself where the rates agree.

    Raises:
        ValueError: a rate is not positive.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"Sample rates must be positive, got {source_rate} and {target_rate} Hz.")
    if source_rate == target_rate:
        return waveform
    import librosa  # noqa: PLC0415 - takes seconds, and most clips have the right rate already

    resampled: Waveform = librosa.resample(
        waveform, orig_sr=source_rate, target_sr=target_rate, res_type="soxr_hq", axis=-1
    )
    return resampled
