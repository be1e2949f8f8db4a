"""Reads audio files into arrays in 16-bit units: mixes and resamples what sounds/decoding.py decodes."""

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .inputs import require_file
from .sounds.decoding import AudioReader, Block, Segment, UnusableAudio

INT16_SCALE = 32768.0
"""Factor from decoded audio, where full scale is 1.0, to 16-bit units."""

MAX_VALUES = 2**29
"""Maximum number of values per file, over all channels: 2 GiB, or 101 minutes of stereo at 44.1 kHz."""

AUDIO_SUFFIXES = frozenset(
    """
    .wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .snd .caf .nist .sph
    .voc .avr .htk .ircam .paf .pvf .sds .svx .wve
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Lower-case suffixes of sound files that libsndfile decodes; data sets, shards and the demo read these."""
UNDECODED_AUDIO_SUFFIXES = frozenset(
    """
    .m4a .m4b .aac .alac .wma .amr .ape .wv .tta .ac3 .eac3 .mka .weba .webm .mp4 .m4v .mkv .mov .avi
    .mpg .mpeg .3gp .flv .wmv .ogv
    """.split()  # noqa: SIM905 - one a line would fill a page
)
"""Suffixes of sound and video files that libsndfile does not decode."""
CONVERT_AUDIO = "convert it, for example with `ffmpeg -i x.m4a x.flac`"

Waveform = npt.NDArray[np.float32]
"""Audio, float32 `[C, T]`."""


def read_audio(
    source: str | Path | BinaryIO,
    sample_rate: int,
    mono: bool | None = None,
    *,
    name: str | None = None,
    segment: Segment | None = None,
) -> Waveform:
    """Decode an audio file (see `AUDIO_SUFFIXES`) and resample it.

    Args:
        source: path of the file, or the file's content as a seekable binary file.
        sample_rate: sample rate of the result, Hz.
        mono: True to average the channels, False to duplicate a single channel, None to keep the file's
            channels.
        name: name of the file in messages; by default its path, or "audio" for content without one.
        segment: segment to read, clipped to the end of the file; None for everything that decodes, whatever
            the header says.

    Returns:
        float32 `[C, T]` in 16-bit units (-32768..32767; resampling may overshoot a little).

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: The path is a folder.
        ValueError: The file cannot be decoded, is cut off, has no samples or more than `MAX_VALUES` values,
            or contains values that are non-finite or far outside -1..1.
    """
    if isinstance(source, str | Path):
        source, name = Path(source), name or str(source)
        require_file(source, name=name, kind="audio", suffix=".wav")
    name = name or "audio"
    try:
        with AudioReader(source, name) as sound:
            samples = _samples(sound, name, segment)
            file_rate = sound.rate
    except UnusableAudio as error:
        if error.fault == "unreadable" and Path(name).suffix.lower() in UNDECODED_AUDIO_SUFFIXES:
            raise ValueError(f"{str(error).rstrip('.')}; {CONVERT_AUDIO}.") from None
        raise
    waveform = samples.T * np.float32(INT16_SCALE)
    if mono is True:
        waveform = waveform.mean(axis=0, keepdims=True)
    if waveform.size * sample_rate > MAX_VALUES * file_rate:
        raise _too_long(name, waveform.size * sample_rate // file_rate)
    waveform = resample(waveform, file_rate, sample_rate)
    if mono is False and waveform.shape[0] == 1:
        waveform = waveform.repeat(2, axis=0)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _samples(sound: AudioReader, name: str, segment: Segment | None) -> Block:
    """Decode a segment into one array, `[T, C]`."""
    blocks: list[Block] = []
    values = sound.announced(segment) * sound.channels
    if values <= MAX_VALUES:
        values = 0
        for block in sound.blocks(segment):
            values += block.size
            if values > MAX_VALUES:
                break
            blocks.append(block)
    if values > MAX_VALUES:
        raise _too_long(name, values)
    if not blocks:
        where = ""
        if segment is not None:
            begin, end = segment
            where = f" from {begin:g} s on" if end is None else f" from {begin:g} to {end:g} s"
        raise ValueError(f"{name}: holds no audio samples{where}.")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _too_long(name: str, values: int) -> ValueError:
    return ValueError(f"{name}: too long, {values:,} values over all channels; the limit is {MAX_VALUES:,}.")


def resample(waveform: Waveform, source_rate: float, target_rate: float) -> Waveform:
    """Resample along the last axis with SoX's high-quality filter (soxr_hq).

    Args:
        waveform: float32 `[..., T]`.
        source_rate: sample rate of the waveform, Hz.
        target_rate: sample rate of the result, Hz.

    Returns:
        float32 `[..., ceil(T * target_rate / source_rate)]`; the waveform itself if the rates are equal.

    Raises:
        ValueError: A rate is not positive.
    """
    if source_rate <= 0 or target_rate <= 0:
        raise ValueError(f"Sample rates must be positive, got {source_rate} and {target_rate} Hz.")
    if source_rate == target_rate:
        return waveform
    import soxr  # noqa: PLC0415 - most clips already have the right rate

    samples = waveform.shape[-1]
    channels = waveform.reshape(-1, samples).T  # [T, C]
    resampled = soxr.resample(channels, source_rate, target_rate, quality="HQ").T
    expected = math.ceil(samples * target_rate / source_rate)
    missing = max(0, expected - resampled.shape[-1])  # soxr rounds the length
    whole: Waveform = np.pad(resampled, ((0, 0), (0, missing)))[:, :expected]
    return whole.reshape(*waveform.shape[:-1], expected)
