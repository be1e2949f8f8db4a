"""File format for a data set's embeddings, `features.safetensors`, for probes and notebooks.

```text
tensors    <kind>   float32 [N, D]   one tensor per kind of features, such as audio; [n, D] if there is
           <kind>.clip   int64 [n]   index of each row's clip, for kinds of which a clip can have several rows
           fold     int64   [N]      if the data set has folds
           target   int64   [N]      index into class_names, if every clip has exactly one label
metadata   format, kinds, clips, labels, class_names, dataset, and splits if the data set has official splits:
           strings; all except format and dataset are JSON
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from utils.datasets.sample import TEST, TRAIN, VALIDATION

FILE_NAME = "features.safetensors"

_FORMAT = "features of a data set, 1"
_RESERVED = ("fold", "target")
_CLIP = ".clip"


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of a data set's N clips, with names, labels and folds.

    Attributes:
        features: features by kind, such as "audio": float32 `[N, D]`; D may differ between kinds. Kinds in
            `clips_of` have `[n, D]`.
        clips_of: index of each row's clip, int64 `[n]`, for kinds of which a clip can have any number of
            rows, such as texts of clips with several captions.
        clips: name of each clip.
        labels: labels of each clip; a clip may have several labels or none.
        class_names: all labels.
        dataset: name of the data set in results.
        folds: fold number of each clip, int64 `[N]`; None if the data set has no folds.
        splits: official split of each clip, "train", "validation" or "test"; None if there are none.

    Raises:
        ValueError: Lengths differ, there are no features, or a label is not a class.
    """

    features: Mapping[str, NDArray[np.float32]]
    clips: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    class_names: tuple[str, ...]
    dataset: str
    folds: NDArray[np.int64] | None = None
    splits: tuple[str, ...] | None = None
    clips_of: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("there are no features")
        for kind, features in self.features.items():
            if kind in _RESERVED:
                raise ValueError(f'features cannot be called "{kind}", which is a reserved name')
            if features.ndim != 2 or features.dtype != np.float32:
                raise ValueError(
                    f'"{kind}" is {features.dtype} of shape {list(features.shape)}; expected float32 [N, D]'
                )
        lengths = {kind: len(rows) for kind, rows in self.features.items() if kind not in self.clips_of}
        lengths |= {"clips": len(self.clips), "labels": len(self.labels)}
        if self.folds is not None:
            lengths["fold"] = len(self.folds)
        if self.splits is not None:
            lengths["splits"] = len(self.splits)
            if other := set(self.splits) - {TRAIN, VALIDATION, TEST}:
                raise ValueError(f'"{min(other)}" is not a split; train, validation and test are')
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
            raise ValueError(f"the lengths differ: {counts}")
        for kind, clips in self.clips_of.items():
            if len(clips) != len(self.features.get(kind, ())) or not np.isin(clips, range(len(self))).all():
                raise ValueError(f'the clips of "{kind}" do not belong to its rows')
        unknown = {label for labels in self.labels for label in labels} - set(self.class_names)
        if unknown:
            raise ValueError(f'the label "{min(unknown)}" is not one of the {len(self.class_names)} classes')

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def targets(self) -> NDArray[np.int64] | None:
        """Index of each clip's label in `class_names`, `[N]`; None unless each clip has exactly one label."""
        if any(len(labels) != 1 for labels in self.labels):
            return None
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return np.array([numbers[label] for (label,) in self.labels], dtype=np.int64)

    def write(self, path: Path) -> None:
        """Write the file; an existing file is replaced once the new file is complete."""
        tensors = {kind: np.ascontiguousarray(features) for kind, features in self.features.items()}
        for name, numbers in (("fold", self.folds), ("target", self.targets)):
            if numbers is not None:
                tensors[name] = np.ascontiguousarray(numbers, dtype=np.int64)
        for kind, clips in self.clips_of.items():
            tensors[f"{kind}{_CLIP}"] = np.ascontiguousarray(clips, dtype=np.int64)
        listed = {
            "kinds": list(self.features),
            "clips": self.clips,
            "labels": self.labels,
            "class_names": self.class_names,
            **({} if self.splits is None else {"splits": self.splits}),
        }
        metadata = {name: json.dumps(content, ensure_ascii=False) for name, content in listed.items()}
        part = path.with_name(path.name + ".part")
        # safetensors' save_file creates files that only the owner can read.
        part.write_bytes(save(tensors, {"format": _FORMAT, "dataset": self.dataset, **metadata}))
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> FeatureTable:
        """Read a file that `write` made.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file has another format or is incomplete.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT:
                    raise ValueError(f"its format is {about.get('format')!r}; expected {_FORMAT!r}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            listed = {name: json.loads(about[name]) for name in ("kinds", "clips", "labels", "class_names")}
            return cls(
                features={kind: tensors[kind] for kind in listed["kinds"]},
                clips=tuple(listed["clips"]),
                labels=tuple(tuple(labels) for labels in listed["labels"]),
                class_names=tuple(listed["class_names"]),
                dataset=about["dataset"],
                folds=tensors.get("fold"),
                splits=tuple(json.loads(about["splits"])) if "splits" in about else None,
                clips_of={kind: tensors[kind + _CLIP] for kind in listed["kinds"] if kind + _CLIP in tensors},
            )
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} does not exist; the Features evaluation writes it.") from error
        except KeyError as error:
            raise ValueError(f"{path} is not a table of features: {error} is missing.") from error
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a table of features, or is incomplete: {error}.") from error
