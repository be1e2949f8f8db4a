"""The manifest of a set of shards: a file `manifest.jsonl` in their folder that lists their contents.

    {"format": "shards, 1", "name": "ESC-50", "class_names": ["dog", ...], "suffixes": ["json", "ogg"], ...}
    {"file": "fold-1-000000.tar", "size_bytes": 9912320, "sha256": "...", "fold": 1, "split": null,
     "sounds": 100, "pictures": 0, "labels": ["dog", ...], "examples": [{"position": 7, ...}, ...],
     "offsets": [0, 100352, ...], "names": ["audio/1-100032-A-0.ogg", ...]}
    ...

With it, the samples can be numbered through all shards without reading the shards. Offsets are in bytes: the
beginning of each sample in the tar file, and the end of the last sample.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from model.storage.atomic import whole_file

FILE_NAME = "manifest.jsonl"
FORMAT = "shards, 1"
TAR_BLOCK = 512  # bytes; everything in a tar file begins at a multiple of this

T = TypeVar("T")

_LONGEST_LINE = 100_000_000  # bytes, enough for a shard with a million samples
_ADDED_LATER = ("sounds", "pictures", "labels", "examples")  # older manifests lack these

Count = Annotated[int, Field(ge=0)]
_OFFSETS = TypeAdapter(list[Annotated[int, Field(ge=0, lt=2**62)]])
_NAMES = TypeAdapter(Annotated[list[Annotated[str, Field(pattern=r"^[^\n]*$")]], Field(min_length=1)])


class Example(BaseModel):
    """A sample that stands for its shard when labels and texts are checked before a run.

    `text` is its longest caption.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    position: Count
    labels: list[str] = []
    text: str | None = None
    sound: bool = False


def choose_examples(samples: Sequence[Example]) -> list[Example]:
    """Choose representative samples, by which tasks check a whole shard.

    These are the first sample without a label, the first with several labels, the first without a sound, and
    the samples with the longest text and the longest labels, in characters.
    """
    chosen = [
        next((sample for sample in samples if not sample.labels), None),
        next((sample for sample in samples if len(sample.labels) > 1), None),
        next((sample for sample in samples if not sample.sound), None),
        max(samples, key=lambda sample: len(sample.text or "")),
        max(samples, key=lambda sample: sum(map(len, sample.labels))),
    ]
    by_position = {sample.position: sample for sample in chosen if sample is not None}
    return [by_position[position] for position in sorted(by_position)]


class SetEntry(BaseModel):
    """The first line: facts about the whole set.

    Attributes:
        name: name of the set in results.
        class_names: all labels.
        suffixes: suffixes of the files that every sample has.
        texts: whether any sample has a text.
        made_from: original data set and options, for human readers.
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

    @classmethod
    def of(cls, parts: Sequence[SetEntry | Summary], *, class_names: Iterable[str], **facts: Any) -> SetEntry:
        """Describe a set by its parts; `facts` are the other fields."""
        return cls(
            format=FORMAT,
            class_names=list(dict.fromkeys(class_names)),
            suffixes=sorted(set.intersection(*(set(part.suffixes) for part in parts))),
            texts=any(part.texts for part in parts),
            **facts,
        )


def _checked(adapter: TypeAdapter[T], value: Any) -> T:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(_first_fault(error)) from error


class ShardEntry(BaseModel):
    """A shard of a set: one line of the manifest.

    Attributes:
        file: file name, without a folder.
        size_bytes: size of the file.
        sha256: hash of the file.
        fold: fold of all samples in the shard; None if there are no folds.
        split: split of all samples in the shard: "train", "validation" or "test"; None if there are folds, or
            no splits.
        sounds: number of samples with a sound; None in older manifests.
        pictures: number of images; None in older manifests.
        labels: sorted labels of the shard's samples; None in older manifests.
        examples: samples by which labels and texts are checked; None in older manifests.
        offsets: offsets of the samples, in bytes, int64 `[samples + 1]`.
        joined_names: names of the samples, one per line, as a single string saves memory.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)

    file: Annotated[str, Field(min_length=1, max_length=255)]
    size_bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    fold: int | None = None
    split: str | None = None
    sounds: Count | None = None
    pictures: Count | None = None
    labels: list[str] | None = None
    examples: list[Example] | None = None
    offsets: Annotated[
        NDArray[np.int64],
        PlainValidator(lambda offsets: np.array(_checked(_OFFSETS, offsets), np.int64)),
        PlainSerializer(lambda array: array.tolist()),
    ] = Field(repr=False)
    joined_names: Annotated[
        str,
        PlainValidator(lambda names: "\n".join(_checked(_NAMES, names))),
        PlainSerializer(lambda joined: joined.split("\n")),
    ] = Field(alias="names", repr=False)

    @field_validator("file")
    @classmethod
    def _has_no_folder(cls, name: str) -> str:
        if name in {".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise ValueError("a file name without a folder is expected")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> ShardEntry:
        if len(self.names) != len(self):
            raise ValueError(
                f"{len(self.names)} names and {len(self.offsets)} offsets; one more offset than names, and "
                "at least one name, are expected"
            )
        steps = np.diff(self.offsets)
        if (self.offsets % TAR_BLOCK).any() or (steps <= 0).any() or self.offsets[-1] > self.size_bytes:
            raise ValueError(
                f"offsets do not ascend in steps of {TAR_BLOCK} to at most {self.size_bytes}, the file's size"
            )
        if any(example.position >= len(self) for example in self.examples or ()):
            raise ValueError(f"an example has a position beyond the {len(self)} names")
        return self

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def names(self) -> list[str]:
        """Names of its samples."""
        return self.joined_names.split("\n")

    def to_json(self) -> dict[str, Any]:
        """Return the shard's line in the manifest, as JSON types."""
        unknown = {name for name in _ADDED_LATER if getattr(self, name) is None}
        return self.model_dump(by_alias=True, exclude=unknown)

    @classmethod
    def from_json(cls, content: Any) -> ShardEntry:
        """Check a line of the manifest; raise a ValueError that names the first fault."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(_first_fault(error)) from error


class Summary(BaseModel):
    """A shard's line in the manifest, and facts for the line of the whole set: see `SetEntry`."""

    entry: ShardEntry
    suffixes: list[str]
    texts: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A set of shards, in order."""

    about: SetEntry
    shards: tuple[ShardEntry, ...]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def write(self, path: Path) -> None:
        """Write the file; an older file stays until the new file is on disk."""
        with whole_file(path) as file:
            for entry in (self.about.model_dump(mode="json"), *(shard.to_json() for shard in self.shards)):
                line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
                file.write(line.encode() + b"\n")

    @classmethod
    def parse(cls, lines: Iterable[bytes], *, source: str) -> Manifest:
        """Read the lines of a manifest; `source` names it in messages.

        Raises:
            ValueError: A line is wrong, or there is no shard.
        """
        about: SetEntry | None = None
        shards: list[ShardEntry] = []
        for number, line in enumerate(lines, start=1):
            try:
                if len(line) > _LONGEST_LINE:
                    raise ValueError(f"it has {len(line):,} bytes; at most {_LONGEST_LINE:,} are read")
                content = json.loads(line)
                if about is None:
                    about = SetEntry.model_validate(content)
                else:
                    shards.append(ShardEntry.from_json(content))
            except (ValueError, RecursionError) as error:
                why = _first_fault(error) if isinstance(error, ValidationError) else error
                raise ValueError(
                    f"{source}, line {number} is not a line of a manifest of shards: {why}. "
                    "`python -m utils.shards index` makes a manifest."
                ) from error
        if about is None or not shards:
            raise ValueError(f"{source} is not a manifest of shards: it lists no shard.")
        if repeated := len(shards) - len({shard.file for shard in shards}):
            raise ValueError(f"{source} is not a manifest of shards: it lists {repeated} files twice.")
        return cls(about=about, shards=tuple(shards))


def digest(shards: Iterable[ShardEntry]) -> str:
    """Compute 16 hexadecimal digits that identify a set of shards by content."""
    content = [[shard.file, shard.sha256, len(shard)] for shard in shards]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class Hashing:
    """A file whose content is counted and hashed while it is read or written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.count = 0

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        return self._counted(self._file.read(size))

    def write(self, content: bytes) -> int:
        """Write all of the content."""
        return self._file.write(self._counted(content))

    def _counted(self, content: bytes) -> bytes:
        self.digest.update(content)
        self.count += len(content)
        return content


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg'].removeprefix('Value error, ')}"
