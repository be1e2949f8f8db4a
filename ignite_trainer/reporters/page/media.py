"""The hardest samples, and samples before and after augmentation, for reports.

The hardest samples are saved in `exhibits/` in the run's folder, where the sweep's report finds them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ignite_trainer.api.media import Exhibit, Gallery
from ignite_trainer.api.predictions import Predictions
from ignite_trainer.reporters.page import statistics
from ignite_trainer.reporters.page.render import Section
from ignite_trainer.support.files import whole_file, write_json

MAX_SAMPLES = 6
MAX_BYTES = 4 * 2**20
"""Limit on the total size of a report's hardest samples."""
_AUGMENTED_SAMPLES = 2
_FOLDER = "exhibits"
_HARDEST = f"{_FOLDER}/hardest.json"


def save_hardest(predictions: Predictions, gallery: Gallery, folder: Path) -> None:
    """Save the misclassified samples with the largest `statistics.margins`, hardest first."""
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)  # samples of an earlier report
    kept = statistics.finite(predictions)
    if not kept.positions or not kept.scores.size:
        return
    margins = statistics.margins(kept)
    hardest = [row for row in np.argsort(-margins, kind="stable") if not kept.correct[row]]
    saved: list[dict[str, Any]] = []
    room = MAX_BYTES
    for row in hardest[:MAX_SAMPLES]:
        for portrait in gallery.held_out([kept.positions[row]]):
            room -= sum(len(exhibit.content) for exhibit in portrait.exhibits)
            if room >= 0:
                files = _save(portrait.exhibits, folder, stem=f"hardest-{len(saved) + 1}")
                saved.append({**_describe(kept, row), "margin": float(margins[row]), "files": files})
    if saved:
        write_json(folder / _HARDEST, saved)


def hardest_section(runs: Iterable[Path]) -> list[Section]:
    """Show the hardest samples saved in the runs' folders; return [] if there are none."""
    found = [
        (run, entry)
        for run in runs
        if (run / _HARDEST).exists()
        for entry in json.loads((run / _HARDEST).read_text(encoding="utf-8"))
    ]
    hardest = sorted(found, key=lambda pair: -pair[1]["margin"])[:MAX_SAMPLES]
    if not hardest:
        return []
    text = (
        "The misclassified samples of the held-out split for which the predicted class's score exceeds the "
        "true class's score by the largest margin."
    )
    return [Section(title="Hardest samples", text=[text], parts=[_sample(*pair) for pair in hardest])]


def augmented_section(gallery: Gallery) -> list[Section]:
    """Show training samples before and after augmentation; return [] if there is nothing to show."""
    pairs = gallery.augmented(_AUGMENTED_SAMPLES)
    if all(before.exhibits == after.exhibits for before, after in pairs):
        return []
    parts = [
        Section(title=title + _title(portrait.record), exhibits=portrait.exhibits)
        for pair in pairs
        for title, portrait in zip(("Original: ", "Augmented: "), pair, strict=True)
    ]
    text = "The first samples of the training split, as the data set returns them and as the model receives "
    return [Section(title="Augmentation", text=[text + "them in the first epoch."], parts=parts)]


def _describe(predictions: Predictions, row: int) -> dict[str, Any]:
    scores = [*zip(predictions.class_names, predictions.scores[row].tolist(), strict=True)]
    return {
        "record": dict(predictions.records[row]),
        "right": [scores[number] for number in np.flatnonzero(predictions.targets[row])],
        "predicted": scores[predictions.predicted[row]],
    }


def _save(exhibits: Sequence[Exhibit], folder: Path, *, stem: str) -> list[dict[str, str]]:
    (folder / _FOLDER).mkdir(exist_ok=True)
    files = []
    for number, exhibit in enumerate(exhibits, start=1):
        path = f"{_FOLDER}/{stem}-{number}{exhibit.suffix}"
        with whole_file(folder / path) as part:
            part.write_bytes(exhibit.content)
        about = {"media_type": exhibit.media_type, "what": exhibit.what, "explanation": exhibit.explanation}
        files.append({"path": path, **about})
    return files


def _sample(run: Path, entry: Mapping[str, Any]) -> Section:
    right = ", ".join(f"{name} ({score:.3f})" for name, score in entry["right"]) or "none"
    name, score = entry["predicted"]
    files = [(run / file.pop("path"), file) for file in entry["files"]]
    return Section(
        title=_title(entry["record"]),
        text=[f"True class: {right}. Predicted: {name} ({score:.3f})."],
        exhibits=[Exhibit(content=path.read_bytes(), **about) for path, about in files if path.is_file()],
    )


def _title(record: Mapping[str, str | int]) -> str:
    names = [str(value) if n == 0 else f"{key} {value}" for n, (key, value) in enumerate(record.items())]
    return ", ".join(names)
