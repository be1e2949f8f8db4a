"""Whether the run that saved a model's initial weights chose or trained them on the samples evaluated now.

That run is known by its `result.json`, beside the weights or beside their folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ignite_trainer.errors import ProtocolError
from ignite_trainer.record import FILE_NAME, RunRecord
from ignite_trainer.self_description import folds, held_out_folds, results_name, whole_name

CHOSEN = "weights chosen on it"
OTHER_PART = "weights of a run that held another part out"
MEANING = {
    CHOSEN: (
        "The initial weights are those of the epoch that was best on the samples evaluated here, which "
        "flatters them; the last epoch of the run that saved them is the honest figure."
    ),
    OTHER_PART: (
        "The run that saved the initial weights held another part of this data set out: unless that part has "
        "all samples evaluated here, the model was trained on some of them, and the figure is no result."
    ),
}
"""What the marks say, in sentences."""


def caution(model: nn.Module, dataset: Any) -> str:
    """Return `CHOSEN`, `OTHER_PART`, the graver one, or "" where neither is known.

    Args:
        model: with its initial weights' files, if it says which they are.
        dataset: the samples that are evaluated.
    """
    found = {_caution(Path(path), dataset) for path in getattr(model, "weights_files", ())}
    return next((mark for mark in (OTHER_PART, CHOSEN) if mark in found), "")


def _caution(file: Path, dataset: Any) -> str:
    run = _run_of(file.resolve())
    if run is None or not run.epochs or (run.whole_name or run.dataset) != whole_name(dataset):
        return ""
    evaluated = set(held_out_folds(dataset) or folds(dataset))
    if run.dataset != results_name(dataset) or not evaluated <= set(run.held_out):
        return OTHER_PART
    return CHOSEN if file.name.startswith("best_") else run.caution


def _run_of(file: Path) -> RunRecord | None:
    for folder in (file.parent, file.parent.parent):
        try:
            return RunRecord.read(folder / FILE_NAME)
        except ProtocolError:
            continue
    return None
