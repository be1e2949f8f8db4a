"""Identity of a run's data, stored in its states so that the run never resumes with different data."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ignite_trainer.api.reporter import Split
from ignite_trainer.api.self_description import record
from ignite_trainer.checkpoints.state_validation import StateContent
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError


class DataIdentity:
    """Sizes and digests of both splits, found without reading a sample.

    A digest is the data set's own or, if it has none, computed from its records and numeric `targets`.
    """

    def __init__(self, training: SplitLoader, evaluation: Mapping[Split, SplitLoader]) -> None:
        """Describe the data in a run's loaders."""
        self._training = training
        self._facts: dict[str, Any] = {"batches of an epoch": len(training)}
        for split, loader in evaluation.items():
            self._facts[f"samples of the {split} split"] = len(loader.dataset)  # type: ignore[arg-type]
            self._facts[f"digest of the {split} split's names and targets"] = _digest(loader.dataset)

    def state_dict(self) -> dict[str, Any]:
        """Return the sizes and digests."""
        return {**self._facts, "processes": world_size()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with a state's data; raise a ValueError that lists any differences."""
        changed = [
            f"{name}: {state.get(name)} then, {now} now"
            for name, now in self._facts.items()
            if state.get(name) != now
        ]
        then, now = state.get("processes", 1), world_size()
        if len(changed) == 1 and len(self._training) != state.get("batches of an epoch") and then != now:
            raise ValueError(
                f"{changed[0]}. It was saved by {_processes(then)}, each with its own batches, but this run "
                f'has {now}. Start {then} again; with Setup.batch_of "all", any number can resume.'
            )
        if changed:
            raise ValueError(f"the data set has changed: {'; '.join(changed)}. Start a new run.")

    def require_same_parts(self, path: Path, state: StateContent) -> None:
        """Raise a ProtocolError if this number of processes cannot resume in the middle of a state's epoch.

        With a streamed data set, each process reads its own slice of the epoch's order, and had read only the
        beginning of it when the state was saved.
        """
        then, now, position = state.processes, world_size(), state.position
        done = position.iteration % len(self._training)
        if then == now or not done or not self._training.is_streamed:
            return
        before = path.with_name(replace(position, epoch=position.epoch - 1, complete=True).file_name)
        other = "; from the end of the epoch, any number can resume"
        if before.exists():
            within = " and ".join(sorted(state.name for state in path.parent.glob("last_*_step-*.pt")))
            other = f", or remove {within} to resume from {before.name}, the end of an epoch, with any number"
        raise ProtocolError(
            f"The state {path} was saved by {_processes(then)} after {done} of the {len(self._training)} "
            f"batches of epoch {position.epoch}, but this run has {now}. With a streamed data set, the rest "
            f"of this epoch would repeat some samples and skip others. Resume with {_processes(then)}{other}."
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _digest(dataset: Any) -> str:
    if isinstance(own := getattr(dataset, "digest", None), str):
        return own
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(json.dumps(dict(record(dataset, index)), default=str).encode())
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # targets that are not numbers
        digest.update(json.dumps(torch.as_tensor(getattr(dataset, "targets", [])).tolist()).encode())
    return digest.hexdigest()[:16]
