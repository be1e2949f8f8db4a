"""Which data a run is trained and measured on, as its states hold it: another run's data is refused.

So is, within an epoch of a data set read in streams, another number of processes: each has a stretch of the
epoch's order, and of these the steps so far have taken the beginnings.
"""

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
    """Sizes, batches of an epoch, and a digest of the names and targets that each data set can say at once.

    Names are those of `dataset.record`, targets the numbers in an attribute `targets`, if there is one; an
    attribute `digest` stands for both. No sample is read.
    """

    def __init__(self, training: SplitLoader, evaluation: Mapping[Split, SplitLoader]) -> None:
        """Look at the data sets of both splits."""
        self._training = training
        self._facts: dict[str, Any] = {"batches of an epoch": len(training)}
        for split, loader in evaluation.items():
            self._facts[f"samples of the {split} split"] = len(loader.dataset)  # type: ignore[arg-type]
            self._facts[f"digest of the {split} split's names and targets"] = _digest(loader.dataset)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores about the data."""
        return {**self._facts, "processes": world_size()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with the data that a state is of.

        Raises:
            ValueError: they differ; the message says in what.
        """
        changed = [
            f"{name} {state.get(name)} then and {now} now"
            for name, now in self._facts.items()
            if state.get(name) != now
        ]
        then, now = state.get("processes", 1), world_size()
        if len(changed) == 1 and len(self._training) != state.get("batches of an epoch") and then != now:
            raise ValueError(
                f"{changed[0]}, as it was saved by {_processes(then)}, and there {_are(now)} now, each with "
                f'its own batches. Start {then} again; a run whose Setup.batch_of is "all" goes on with any '
                "number of them."
            )
        if changed:
            raise ValueError(f"the data set is another: {'; '.join(changed)}. Start a new run.")

    def require_same_parts(self, path: Path, state: StateContent) -> None:
        """Raise a ProtocolError if these processes would have other parts of the epoch than the state's."""
        then, now, position = state.processes, world_size(), state.position
        done = position.iteration % len(self._training)
        if then == now or not done or not self._training.is_streamed:
            return
        within = sorted(path.parent.glob("last_*_step-*.pt"))
        before = path.with_name(replace(position, epoch=position.epoch - 1, complete=True).file_name)
        other = "from the end of the epoch on it may be any number"
        if before.exists():
            names = " and ".join(one.name for one in within)
            other = f"or remove {names}: from {before.name}, the end of an epoch, any number goes on"
        raise ProtocolError(
            f"The state {path} was saved by {_processes(then)} after {done} of the {len(self._training)} "
            f"batches of epoch {position.epoch}, and there {_are(now)} now: of a data set that is read in "
            "streams, some samples would come twice in this epoch and others not at all. Go on with "
            f"{_processes(then)}; {other}."
        )


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _digest(dataset: Any) -> str:
    if isinstance(own := getattr(dataset, "digest", None), str):
        return own
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(json.dumps(dict(record(dataset, index)), default=str).encode())
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # no numbers: not ours to understand
        digest.update(json.dumps(torch.as_tensor(getattr(dataset, "targets", [])).tolist()).encode())
    return digest.hexdigest()[:16]
