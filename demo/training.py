"""What the run of a checkpoint trained, and what it left as it was: from the files that it left beside it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from model.weights.files import read_entries
from model.weights.releases import WeightsError

_SCORE = "score: "
_ABOUT = {"image": "pictures", "text": "texts that are no trained labels", "audio": "sounds"}
# Which part of `AudioCLIP`'s argument `pretrained` they belong to, and the names of their weights.
_TOWERS = {
    "image": ("clip", re.compile(r"visual\..+")),
    "text": ("clip", re.compile(r"(text|transformer|token_embedding|ln_final)\..+|positional_embedding")),
    "audio": ("audio", re.compile(r"audio\..+")),
}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "window", "fbsp.bias")  # no parameters


def labels_of_run(path: Path) -> tuple[str, ...]:
    """Name the classes, as the scores in the run's `predictions.csv` do; none where that is not there."""
    table = path.resolve().parent.parent / "predictions.csv"
    if path.resolve().parent.name != "checkpoints" or not table.is_file():
        return ()
    with table.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return tuple(name.removeprefix(_SCORE) for name in header if name.startswith(_SCORE))


def templates_of_run(path: Path) -> tuple[str, ...]:
    """Return the texts that the run put its labels into, `{}` for the label; by default as they are."""
    given = _args_of_run(path, "Task").get("template", "{}")
    return tuple(map(str, given if isinstance(given, list) else [given])) or ("{}",)


def limits_of_run(path: Path) -> str | None:
    """Say which towers have random weights; None if none has, or that is not known."""
    towers = _random_towers(path)
    if not towers:
        return None
    have = "towers have" if len(towers) > 1 else "tower has"
    return (
        f"The {' and '.join(towers)} {have} random weights, which the run did not train: what is said of "
        f"{' and of '.join(_ABOUT[tower] for tower in towers)} is arbitrary."
    )


def _random_towers(path: Path) -> list[str]:
    """Name the towers that a run neither trained nor began with weights from a file."""
    given = _args_of_run(path, "Model").get("pretrained", True)
    frozen = path.resolve().with_name("frozen_weights.pt")
    if given is True or not frozen.is_file():
        return []
    try:
        kept, entries = set(read_entries(frozen, mapped=True)), read_entries(path, mapped=True)
        names = {*entries.get("model", entries), *kept}  # a state leaves out what is kept beside it
    except (WeightsError, TypeError, AttributeError):
        return []
    parts = given if isinstance(given, dict) else {} if given is False else {"clip", "audio"}
    trained = [name for name in names - kept if not name.endswith(_STATISTICS)]
    return [
        tower
        for tower, (part, own) in _TOWERS.items()
        if part not in parts and not any(map(own.fullmatch, trained))
    ]


def _args_of_run(path: Path, section: str) -> dict[str, Any]:
    """The arguments in a section of the run's protocol; none where that is not there."""
    folder = path.resolve().parent
    try:
        args = json.loads((folder.parent / "protocol.json").read_text(encoding="utf-8-sig"))[section]["args"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return args if isinstance(args, dict) and folder.name == "checkpoints" else {}
