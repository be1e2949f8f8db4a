"""Recognises users' inputs, single or several, and describes their types and kinds of files for messages."""

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import PIL.Image
from torch import Tensor

AUDIO_KINDS = "expected a path, a binary file, an array or a tensor"
IMAGE_KINDS = "expected a path, a binary file, a PIL image, an array or a tensor"

MAX_CHANNELS = 8
"""Maximum channels of audio in an array; more rows (7.1 has 8) must be clips, samples or an image."""

_HEAD_BYTES = 1024
_SHOWN = 60  # maximum characters of a text in a message

_POINTERS = {
    rb"version https?://[\w.-]+/spec/": ("Git LFS", "git lfs pull"),
    rb"(/|(\.\./)*\.git/)annex/objects/": ("git-annex", "git annex get"),
}
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_EXPORTED = (".onnx", ".pt2")


def several(inputs: Any, kinds: str) -> Iterable[Any]:
    """Return several inputs unchanged, and a single input as a list.

    A four-dimensional array or tensor contains several images.

    Raises:
        ValueError: `inputs` is neither; the message lists the allowed `kinds`.
    """
    if isinstance(inputs, np.ndarray | Tensor) and inputs.ndim == 4:
        return list(inputs)
    if isinstance(inputs, str | Path | np.ndarray | Tensor | PIL.Image.Image) or hasattr(inputs, "read"):
        return [inputs]
    if isinstance(inputs, bytes | bytearray | Mapping) or not isinstance(inputs, Iterable):
        raise ValueError(f"inputs is {describe(inputs)}; {kinds}, or several of these.")
    return inputs


def refuse_other_shapes(audio: Tensor) -> None:
    """Raise a ValueError unless audio is `[B, C, T]` with at least one sample."""
    if audio.dim() != 3 or audio.shape[-1] == 0:
        raise ValueError(
            f"Audio has shape {list(audio.shape)}; expected [B, C, T]: clips, channels and at least one "
            "sample."
        )


def refuse_unit_range(audio: Tensor) -> None:
    """Raise if the peak is in (0, 1]; audio in [-1, 1], a common mistake, would be 90 dB too quiet."""
    peak = float(audio.detach().abs().amax()) if audio.numel() else 0.0
    if 0.0 < peak <= 1.0:
        raise ValueError(
            f"Audio has a peak of {peak:.3g}: it looks like [-1, 1], but 16-bit units (-32768..32767) are "
            "expected. Multiply by 32768."
        )


def require_file(path: Path, *, name: str, kind: str, suffix: str) -> None:
    """Check that a path is a file.

    Args:
        path: path to check.
        name: its name in messages.
        kind: kind of the file in messages, such as "audio".
        suffix: usual suffix of such files, to show how to pass the files of a folder.

    Raises:
        IsADirectoryError: `path` is a folder; the message says how to pass its files.
        FileNotFoundError: `path` does not exist, or is neither.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{name} is a folder; pass its files, such as sorted(Path({name!r}).glob('*{suffix}'))."
        )
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such {kind} file.")


def describe(value: object) -> str:
    """Describe a value's type for messages: "None", "a float", "an int"."""
    name = "bytes object" if isinstance(value, bytes) else type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def seekable(file: Any, name: str) -> BinaryIO:
    """Return a seekable binary file: the given file, or its content in memory.

    Raises:
        ValueError: The file was opened as text.
    """
    if isinstance(file, io.TextIOBase):
        raise ValueError(f'{name} is a file that was opened as text; open it with "rb".')
    can_seek = not hasattr(file, "seekable") or file.seekable()
    return cast(BinaryIO, file if can_seek else io.BytesIO(file.read()))


def name_other_kind(path: Path) -> str | None:
    """Describe a file that does not contain weights, and say what to do, to complete "FILE is ...".

    Returns:
        None if the file may contain weights: a zip archive from `torch.save` or TorchScript, a pickle,
        safetensors, or unknown bytes.

    Raises:
        OSError: The file cannot be read.
    """
    head = beginning_of(path)
    if known := name_placeholder(head):
        return known
    for magic, name in _ARCHIVES.items():
        if head.startswith(magic):
            return f"a {name} archive. Unpack it, and name the weights file in it."
    if path.suffix.lower() in _EXPORTED:
        return "an exported network, which can only be run. Name the weights that it was made from."
    return _name_archive(path) if head.startswith(b"PK\x03\x04") else _name_text(head)


def name_placeholder(head: bytes) -> str | None:
    """Describe what a failed download left in place of the file, to complete "FILE is ..."; None otherwise.

    Args:
        head: first few hundred bytes of the file, or the whole file.
    """
    if not head:
        return "an empty file: its download or copy failed. Fetch it again."
    if not head.strip(b"\0"):
        return "a file of zeros: its download broke off. Fetch it again."
    for pattern, (name, command) in _POINTERS.items():
        if re.match(pattern, head):
            return f"a {name} pointer, not the file that it stands for. Run `{command}` in its repository."
    text = (_as_text(head) or "").lower()
    if re.match(r"<!doctype html|<html|<head|<body", text) or (text.startswith("<") and "<html" in text):
        return "an HTML page: its download failed. Download the file itself."
    return None


def beginning_of(source: Path | BinaryIO) -> bytes:
    """Read a file's first bytes for `name_placeholder`, from a path or an open file.

    Raises:
        OSError: The file cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_HEAD_BYTES)
    source.seek(0)
    return source.read(_HEAD_BYTES)


def is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors, judged by its suffix or its start: a length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return True
    return path.suffix.lower() == ".safetensors" and not head.startswith((b"PK\x03\x04", b"\x80\x02"))


def _name_archive(path: Path) -> str | None:
    """Describe a zip archive; return None for torch's own, and for damage that its reader will describe."""
    try:
        if not zipfile.is_zipfile(path):
            return "cut short: the beginning of an archive without its end. Fetch or copy it again."
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return None
    if any(name.endswith("/data.pkl") or "/code/" in name for name in names):
        return None
    listed = ", ".join(map(_shown, names[:3])) + (", ..." if len(names) > 3 else "")
    return (
        f"a zip archive without torch weights; it contains {listed or 'nothing'}. If a weights file is "
        "in it, unpack it and name that file."
    )


def _name_text(head: bytes) -> str | None:
    """Describe a text file; return None for other bytes."""
    text = _as_text(head)
    if not text:
        return None
    if text.startswith(("{", "[")):
        return f'JSON ("{_shown(text)}"), not a weights file. Name the file that has them.'
    return f'text ("{_shown(text)}"), not a weights file. Name one, or fetch it again.'


def _as_text(head: bytes) -> str | None:
    text = head.decode("utf-8-sig", errors="ignore").strip()  # pages may be in another encoding
    return text if all(letter.isprintable() or letter.isspace() for letter in text) else None


def _shown(text: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
