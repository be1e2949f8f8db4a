"""Audio files to arrays in 16-bit units: decoding, mixing and resampling, nothing learned."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

INT16_SCALE = 32768.0
"""16-bit units per unit of decoded audio: full scale, 1.0, is 32768."""

Waveform = npt.NDArray[np.float32]
"""Audio, float32 `[C, T]`."""


def read_audio(path: str | Path, sample_rate: int, mono: bool | None = None) -> Waveform:
    """Decode an audio file (wav, flac, ogg, mp3) and bring it to one sample rate.

    Args:
        path: the file.
        sample_rate: of the result, Hz.
        mono: True averages the channels into one, False doubles a single channel into two, None keeps
            the channels of the file.

    Returns:
        float32 `[C, T]` in 16-bit units (about -32768..32767; resampling may overshoot a little).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not decode, or holds no samples.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file.")
    try:
        samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)  # [T, C]
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path}: not decodable as audio ({error.error_string})") from error
    refuse_truncated_wav(path)
    if samples.shape[0] == 0:
        raise ValueError(f"{path}: holds no audio samples.")

    waveform = samples.T * np.float32(INT16_SCALE)
    if mono is True:
        waveform = waveform.mean(axis=0, keepdims=True)
    waveform = resample(waveform, file_rate, sample_rate)
    if mono is False and waveform.shape[0] == 1:
        waveform = waveform.repeat(2, axis=0)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def refuse_truncated_wav(path: Path) -> None:
    """Raise if a RIFF file is shorter than its header says: libsndfile reads what is left without a word."""
    with path.open("rb") as file:
        header = file.read(8)
    announced = int.from_bytes(header[4:8], "little") + 8
    size = path.stat().st_size
    if header[:4] == b"RIFF" and announced < 2**32 - 1 and size < announced - 1:  # -1: a missing pad byte
        raise ValueError(f"{path}: truncated; its header announces {announced} bytes, the file has {size}.")


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
