"""Scores of every sample of a split, for reports and `predictions.csv`."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_trainer.api.self_description import record
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import whole_file

_SCORE = "score: "
_SEPARATOR = "|"  # between the labels of one sample
# Text that spreadsheets run as a formula, possibly escaped by "'" already.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Scores of a model for each sample of a split, in the split's order.

    Attributes:
        scores: scores of the K classes, float32 `[N, K]`.
        targets: correct classes, bool `[N, K]`; exactly one per row unless `multilabel`.
        class_names: names of the K classes.
        records: identities of the samples, such as file and fold; all have the same keys.
        multilabel: whether a sample can have several classes, or no class.
        positions: positions of the samples in their data set; None if read from a file or pooled.
    """

    scores: NDArray[np.float32]
    targets: NDArray[np.bool_]
    class_names: tuple[str, ...]
    records: tuple[Mapping[str, str | int], ...]
    multilabel: bool = False
    positions: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Column of each sample's highest score, int64 `[N]`."""
        best: NDArray[np.int64] = self.scores.argmax(axis=1)
        return best

    @property
    def correct(self) -> NDArray[np.bool_]:
        """For each sample, True if its highest score belongs to a correct class; bool `[N]`."""
        return self.targets[np.arange(len(self)), self.predicted]

    def write_csv(self, path: Path) -> None:
        """Write a row for each sample: its record, target, prediction and scores.

        Several targets of one sample are joined by `|`. Scores have nine significant digits, which represent
        float32 exactly. Text that a spreadsheet would run as a formula is prefixed with `'`, which `read_csv`
        removes.
        """
        with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            about = list(self.records[0]) if self.records else []
            writer.writerow([*about, "target", "prediction", *(_SCORE + name for name in self.class_names)])
            names = np.array(self.class_names, dtype=object)
            rows = zip(self.records, self.targets, names[self.predicted], self.scores, strict=True)
            for sample, targets, prediction, scores in rows:
                right = _SEPARATOR.join(names[targets])
                texts = [_as_text(value) for value in (*sample.values(), right, prediction)]
                writer.writerow([*texts, *(f"{score:.9g}" for score in scores)])

    @classmethod
    def read_csv(cls, path: Path, *, multilabel: bool = False) -> Predictions:
        """Read a file written by `write_csv`.

        Raises:
            ProtocolError: The file is not a table of predictions.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            rows = [[_from_text(cell) for cell in row] for row in rows]
            at = header.index("target")
            classes = tuple(name.removeprefix(_SCORE) for name in header[at + 2 :])
            labels = [row[at].split(_SEPARATOR) if multilabel else [row[at]] for row in rows]
            right = [[name in found for name in classes] for found in labels]
            targets = np.array(right, dtype=bool).reshape(len(rows), len(classes))
            scores = np.array([row[at + 2 :] for row in rows], dtype=np.float32).reshape(targets.shape)
            records = tuple(dict(zip(header[:at], map(_value, row), strict=False)) for row in rows)
        except (OSError, ValueError, IndexError) as error:
            raise ProtocolError(f"{path} is not a table of predictions: {error}") from error
        return cls(
            scores=scores, targets=targets, class_names=classes, records=records, multilabel=multilabel
        )

    @classmethod
    def pooled(cls, parts: Sequence[Predictions]) -> Predictions:
        """Concatenate the predictions for several splits, such as all folds.

        Raises:
            ProtocolError: The predictions have different classes.
        """
        first = parts[0]
        if len({(part.class_names, part.multilabel) for part in parts}) > 1:
            raise ProtocolError("Predictions over different classes cannot be pooled.")
        return cls(
            scores=np.concatenate([part.scores for part in parts]),
            targets=np.concatenate([part.targets for part in parts]),
            class_names=first.class_names,
            records=tuple(sample for part in parts for sample in part.records),
            multilabel=first.multilabel,
        )


class PredictionCollector:
    """Collects scores during an evaluation, without waiting for the device. Batches may come in any order."""

    def __init__(self, dataset: Any, class_names: Sequence[str]) -> None:
        self._dataset = dataset
        self._class_names = tuple(class_names)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def reset(self) -> None:
        """Discard all batches."""
        self._parts = []

    def add(self, indices: Tensor, scores: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            indices: positions of the samples in the data set, int64 `[B]`.
            scores: scores of the K classes, `[B, K]`.
            targets: correct classes, int64 `[B]`, or 0/1 `[B, K]` if a sample can have several classes.
        """
        self._parts.append((indices, scores, targets))

    def predictions(self) -> Predictions | None:
        """Return the predictions in the data set's order, or None without a score per class and sample."""
        if not self._parts:
            return None
        indices, scores, targets = (torch.cat(column).cpu() for column in zip(*self._parts, strict=True))
        if (
            scores.dim() != 2
            or len(scores) != len(indices)
            or targets.is_floating_point()
            or targets.shape not in (scores.shape[:1], scores.shape)
        ):
            return None
        order = indices.argsort(stable=True)
        indices, scores, targets = indices[order], scores[order], targets[order]
        multilabel = targets.dim() == 2
        chosen = targets if multilabel else torch.nn.functional.one_hot(targets, scores.shape[1])
        names = self._class_names if len(self._class_names) == scores.shape[1] else ()
        return Predictions(
            scores=scores.float().numpy(),
            targets=chosen.bool().numpy(),
            class_names=names or tuple(map(str, range(scores.shape[1]))),
            records=tuple(record(self._dataset, int(index)) for index in indices),
            multilabel=multilabel,
            positions=tuple(indices.tolist()),
        )


def _as_text(value: str | int) -> str | int:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _from_text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _value(text: str) -> str | int:
    return int(text) if text.isascii() and text.isdigit() and str(int(text)) == text else text
