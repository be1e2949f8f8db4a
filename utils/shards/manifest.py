"""What lies in each shard of a set: a file `manifest.jsonl` beside the shards.

    {"format": "shards, 1", "name": "ESC-50", "class_names": ["dog", ...], "suffixes": ["json", "ogg"], ...}
    {"file": "fold-1-000000.tar", "size_bytes": 9912320, "sha256": "...", "fold": 1, "split": null,
     "sounds": 100, "pictures": 0, "labels": ["dog", ...], "examples": [{"position": 7, ...}, ...],
     "offsets": [0, 100352, ...], "names": ["audio/1-100032-A-0.ogg", ...]}
    ...

The number of each sample, over all shards in their order, is known from it without reading any; offsets are
where each sample begins in the tar file, in bytes, and where the last one ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from utils.shards.examples import Example

FILE_NAME = "manifest.jsonl"
FORMAT = "shards, 1"
TAR_BLOCK = 512  # bytes; everything in a tar file begins at a multiple

_LONGEST_LINE = 100_000_000  # bytes: of a shard, a million samples


class SetEntry(BaseModel):
    """What is said of the whole set, in the first line.

    Attributes:
        name: what results on it may be called.
        class_names: all labels there are.
        suffixes: of the files that every sample has.
        texts: whether any sample has a text.
        made_from: the data set and the options it was made with, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str
    name: str
    class_names: list[str] = []
    suffixes: list[str] = []
    texts: bool = False
    made_from: dict[str, Any] = {}

    @field_validator("format")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value != FORMAT:
            raise ValueError(f'"{FORMAT}" is expected')
        return value


class _ShardLine(BaseModel):
    """One shard as the file has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: Annotated[str, Field(min_length=1, max_length=255)]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    fold: int | None = None
    split: str | None = None
    sounds: Annotated[int, Field(ge=0)] | None = None
    pictures: Annotated[int, Field(ge=0)] | None = None
    labels: list[str] | None = None
    examples: list[Example] | None = None
    offsets: list[Annotated[int, Field(ge=0, lt=2**62)]]
    names: list[str]

    @field_validator("file")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise ValueError("a file name without a folder is expected")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> _ShardLine:
        if not self.names or len(self.offsets) != len(self.names) + 1:
            raise ValueError(
                f"{len(self.names)} names and {len(self.offsets)} offsets; one more offset than names, and "
                "at least one name, are expected"
            )
        offsets = np.array(self.offsets, np.int64)
        if (offsets % TAR_BLOCK).any() or (np.diff(offsets) <= 0).any() or offsets[-1] > self.size_bytes:
            raise ValueError(
                f"offsets do not ascend in steps of {TAR_BLOCK} to at most {self.size_bytes}, the file's size"
            )
        if any(one.position >= len(self.names) for one in self.examples or ()):
            raise ValueError(f"an example is of a position beyond its {len(self.names)} names")
        if any("\n" in name for name in self.names):
            raise ValueError("a name goes over several lines")
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardEntry:
    """One shard of a set.

    Attributes:
        file: its name, without a folder.
        size_bytes: of the file.
        sha256: of the file.
        fold: that all its samples are in; None: there are no folds.
        split: "train" or "test", where the data set was in two splits and not in folds.
        sounds: number of samples with a sound; None: the manifest is an older one, which does not say it.
        pictures: number of pictures; None: likewise.
        labels: those that its samples have, sorted; None: likewise.
        examples: samples by which labels and texts are checked; None: likewise.
        offsets: int64 `[samples + 1]`, bytes.
    """

    file: str
    size_bytes: int
    sha256: str
    fold: int | None
    split: str | None
    offsets: NDArray[np.int64] = field(repr=False)
    joined_names: str = field(repr=False)
    sounds: int | None = None
    pictures: int | None = None
    labels: list[str] | None = None
    examples: list[Example] | None = None

    @classmethod
    def of(cls, *, offsets: Iterable[int], names: Iterable[str], **facts: Any) -> ShardEntry:
        """Make an entry of lists; names are kept as one text, since there may be millions."""
        return cls(offsets=np.array(list(offsets), np.int64), joined_names="\n".join(names), **facts)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def names(self) -> list[str]:
        """What its samples are called."""
        return self.joined_names.split("\n")

    def to_json(self) -> dict[str, Any]:
        """Its line of the file."""
        facts = {name: getattr(self, name) for name in ("file", "size_bytes", "sha256", "fold", "split")}
        later = {name: getattr(self, name) for name in ("sounds", "pictures", "labels")}
        if self.examples is not None:
            later["examples"] = [example.model_dump() for example in self.examples]
        facts |= {name: value for name, value in later.items() if value is not None}
        return {**facts, "offsets": self.offsets.tolist(), "names": self.names}

    @classmethod
    def from_json(cls, content: Any) -> ShardEntry:
        """Take a line of the file.

        Raises:
            ValueError: it is none.
        """
        try:
            line = _ShardLine.model_validate(content)
        except ValidationError as error:
            raise ValueError(_first(error)) from error
        return cls.of(**{name: getattr(line, name) for name in _ShardLine.model_fields})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A set of shards, in their order."""

    about: SetEntry
    shards: tuple[ShardEntry, ...]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def write(self, path: Path) -> None:
        """Write the file; one that is there is replaced once the new one is on disk."""

        def lines(file: BinaryIO) -> None:
            file.write(_line(self.about.model_dump(mode="json")))
            for shard in self.shards:
                file.write(_line(shard.to_json()))

        write_whole(path, lines)

    @classmethod
    def parse(cls, lines: Iterable[bytes], *, source: str) -> Manifest:
        """Read the lines of such a file; `source` is where they are from, for messages.

        Raises:
            ValueError: they are not those of a manifest.
        """
        about: SetEntry | None = None
        shards: list[ShardEntry] = []
        for number, line in enumerate(lines, start=1):
            try:
                if len(line) > _LONGEST_LINE:
                    raise ValueError(f"a line of {len(line):,} bytes; at most {_LONGEST_LINE:,} are read")
                content = json.loads(line)
                if about is None:
                    about = SetEntry.model_validate(content)
                else:
                    shards.append(ShardEntry.from_json(content))
            except ValidationError as error:
                raise _wrong(source, number, _first(error)) from error
            except (ValueError, RecursionError) as error:
                raise _wrong(source, number, error) from error
        if about is None or not shards:
            raise ValueError(f"{source} is no manifest of shards: it names no shard.")
        twice = len(shards) - len({shard.file for shard in shards})
        if twice:
            raise ValueError(f"{source} is no manifest of shards: {twice} of its files are there twice.")
        return cls(about=about, shards=tuple(shards))


def digest(shards: Iterable[ShardEntry]) -> str:
    """Tell sets of shards apart by what is in them: 16 hexadecimal digits."""
    content = [[shard.file, shard.sha256, len(shard)] for shard in shards]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, bring it onto the disk, and rename it; nothing is left if that fails."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _wrong(source: str, number: int, why: object) -> ValueError:
    return ValueError(
        f"{source}, line {number} is not that of a manifest of shards: {why}. `python -m utils.shards index` "
        "makes one."
    )


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    return f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg'].removeprefix('Value error, ')}"
