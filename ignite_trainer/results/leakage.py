"""Warns of weights that a run starts or learns from, if they were selected or trained on evaluated samples.

The model says it of published weights. An earlier run is identified by its `result.json`, which is in the
folder of the weights or one level up.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from ignite_trainer.api import file_names
from ignite_trainer.api.self_description import (
    digest,
    folds,
    held_out_folds,
    held_out_splits,
    hold_nothing_out,
    seen_in_training,
    whole_name,
)
from ignite_trainer.results.record import RunRecord
from ignite_trainer.support.errors import ProtocolError

CHOSEN = "weights chosen on it"
OTHER_PART = "weights of a run that held another part out"
SEEN = "training data may overlap"
MEANING = {
    CHOSEN: (
        "The initial weights (or a teacher's) come from the epoch that was best on the samples evaluated "
        "here, which makes the values optimistic. The weights of that run's last epoch are not affected."
    ),
    OTHER_PART: (
        "The model was trained on samples that are evaluated here: the run that saved its initial weights "
        "(or a teacher's) held out another part of the data set. The values are not valid results."
    ),
    SEEN: (
        "Samples that are evaluated here are, or may be, among the training data of the initial weights (or "
        "a teacher's). The report of the run and the details in table.md say what is known."
    ),
}
"""Explanation of each mark."""


def caution(models: Iterable[nn.Module], train: Any, test: Any) -> str:
    """Return the first of `OTHER_PART`, `CHOSEN` and `SEEN` that applies to the models' weights, or "".

    `train` and `test` are the run's splits. A model can list its initial weights as `weights_files`, and say
    what is known of their training data.
    """
    found = set()
    for model in models:
        found |= {_caution(Path(path).resolve(), train, test) for path in getattr(model, "weights_files", ())}
        found |= {SEEN} if seen_in_training(model, test) else set()
    return next((mark for mark in (OTHER_PART, CHOSEN, SEEN) if mark in found), "")


def _caution(file: Path, train: Any, test: Any) -> str:
    run = _run_of(file)
    if run is None or not run.epochs or (run.whole_name or run.dataset) != whole_name(test):
        return ""
    held_out = _held_out_by(run, train, test)
    if held_out is None:
        return ""
    if not held_out or run.caution == OTHER_PART:
        return OTHER_PART
    if file.name.startswith("best_") and (run.chosen_on == "test" or _validated(run, test)):
        return CHOSEN
    return run.caution


def _held_out_by(run: RunRecord, train: Any, test: Any) -> bool | None:
    """Return whether a run on the same data set held out all evaluated samples; None if unknown."""
    if run.digest and run.digest == digest(test):
        return True
    if run.held_out:
        evaluated = set(held_out_folds(test) or folds(test))
        return evaluated <= {*run.held_out, *run.validation} if evaluated else None
    if run.held_out_splits and held_out_splits(test):
        return set(held_out_splits(test)) <= set(run.held_out_splits)
    return False if run.nothing_held_out is False and hold_nothing_out(train, test) else None


def _validated(run: RunRecord, test: Any) -> bool:
    """Return whether a run chose its best epoch on some of the evaluated samples."""
    return bool(set(run.validation) & set(held_out_folds(test) or folds(test)))


def _run_of(file: Path) -> RunRecord | None:
    for folder in (file.parent, file.parent.parent):
        try:
            return RunRecord.read(folder / file_names.RESULT)
        except ProtocolError:
            continue
    return None
