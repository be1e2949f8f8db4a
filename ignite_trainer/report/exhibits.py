"""What a report shows of single samples and of the model: files in `exhibits/`, beside the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ignite_trainer.exhibit import Exhibit, Gallery
from ignite_trainer.markdown import inert, picture, player
from ignite_trainer.predictions import Predictions
from ignite_trainer.report import statistics
from ignite_trainer.results import write_json
from ignite_trainer.writing import whole_file

MOST_SAMPLES = 6
MOST_BYTES = 4 * 2**20
"""Of all that is shown of samples in one report."""
_FOLDER = "exhibits"
_HARDEST = f"{_FOLDER}/hardest.json"

Shown = Mapping[str, Any]
"""A sample that is shown, as JSON types: its record, classes, scores, and the files that show it."""


def hardest_section(predictions: Predictions, gallery: Gallery, folder: Path) -> str:
    """Show the mistakes with the largest `statistics.margins`, the hardest first; "" if none can be shown."""
    shutil.rmtree(folder / _FOLDER, ignore_errors=True)  # of an earlier report
    kept = statistics.finite(predictions)
    if not kept.positions or not kept.scores.size:
        return ""
    margins = statistics.margins(kept)
    hardest = [row for row in np.argsort(-margins, kind="stable") if not kept.correct[row]]
    shown: list[Shown] = []
    room = MOST_BYTES
    for row in hardest[:MOST_SAMPLES]:
        for portrait in gallery.held_out([kept.positions[row]]):
            room -= sum(len(exhibit.content) for exhibit in portrait.exhibits)
            if room < 0:
                break
            files = _write(portrait.exhibits, folder, stem=f"hardest-{len(shown) + 1}")
            shown.append({**_said(kept, int(row)), "margin": float(margins[row]), "files": files})
    if not shown:
        return ""
    write_json(folder / _HARDEST, shown)
    return _section(shown)


def hardest_of_all(folders: Iterable[Path], folder: Path) -> str:
    """Show the hardest samples of several runs, whose folders lie in `folder`; "" if they showed none."""
    found: list[Shown] = []
    for run in folders:
        if (run / _HARDEST).exists():
            within = run.relative_to(folder).as_posix()
            for entry in json.loads((run / _HARDEST).read_text(encoding="utf-8")):
                files = [{**file, "path": f"{within}/{file['path']}"} for file in entry["files"]]
                if entry["predicted"][0] not in (name for name, _ in entry["right"]):  # in old files, too
                    found.append({**entry, "files": files})
    hardest = sorted(found, key=lambda entry: -entry["margin"])[:MOST_SAMPLES]
    return _section(hardest) if hardest else ""


def model_section(gallery: Gallery, folder: Path) -> str:
    """Show what the model has learned; "" if its task shows nothing."""
    files = _write(gallery.model(), folder, stem="model")
    return "\n\n".join(["## What was learned", *map(_file, files)]) if files else ""


def _said(predictions: Predictions, row: int) -> dict[str, Any]:
    names, scores = predictions.class_names, predictions.scores[row]
    predicted = int(predictions.predicted[row])
    right = [int(number) for number in np.flatnonzero(predictions.targets[row])]
    return {
        "record": dict(predictions.records[row]),
        "right": [[names[number], float(scores[number])] for number in right],
        "predicted": [names[predicted], float(scores[predicted])],
    }


def _section(shown: Sequence[Shown]) -> str:
    parts = [
        "## Hardest samples",
        "Of the samples of the held-out split whose highest score is of a wrong class, those in which it is "
        "most above the score of the right one.",
    ]
    for entry in shown:
        record = ", ".join(str(value) if n == 0 else f"{k} {value}" for n, (k, value) in _items(entry))
        right = ", ".join(f"{name} ({score:.3f})" for name, score in entry["right"]) or "none"
        name, score = entry["predicted"]
        parts += [f"### {inert(record)}", inert(f"Right: {right}. Predicted: {name} ({score:.3f}).")]
        parts += map(_file, entry["files"])
    return "\n\n".join(parts)


def _items(entry: Shown) -> Iterable[tuple[int, tuple[str, Any]]]:
    return enumerate(entry["record"].items())


def _write(exhibits: Sequence[Exhibit], folder: Path, *, stem: str) -> list[dict[str, str]]:
    files = []
    for number, exhibit in enumerate(exhibits, start=1):
        path = PurePath(_FOLDER, f"{stem}-{number}{exhibit.suffix}")
        (folder / _FOLDER).mkdir(exist_ok=True)
        with whole_file(folder / path) as part:
            part.write_bytes(exhibit.content)
        told = {"media_type": exhibit.media_type, "what": exhibit.what, "explanation": exhibit.explanation}
        files.append({"path": path.as_posix(), **told})
    return files


def _file(file: Mapping[str, str]) -> str:
    path, what = PurePath(file["path"]), file["what"]
    image = file["media_type"].startswith("image/")
    shown = picture(path, what) if image else player(path, what, file["media_type"])
    explanation = inert(file.get("explanation", ""))  # reports of before have none
    return f"{explanation}\n\n{shown}" if explanation else shown
