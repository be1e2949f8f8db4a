"""Which data a run is trained and measured on, as its states hold it: another run's data is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from ignite_trainer.data import SplitLoader
from ignite_trainer.reporters.reporter import Split
from ignite_trainer.self_description import record


class DataIdentity:
    """Sizes, batches of an epoch, and a digest of the names and targets that each data set can say at once.

    Names are those of `dataset.record`, targets the numbers in an attribute `targets`, if there is one; an
    attribute `digest` stands for both. No sample is read.
    """

    def __init__(self, training: SplitLoader, evaluation: Mapping[Split, SplitLoader]) -> None:
        """Look at the data sets of both splits."""
        self._facts: dict[str, Any] = {"batches of an epoch": len(training)}
        for split, loader in evaluation.items():
            self._facts[f"samples of the {split} split"] = len(loader.dataset)  # type: ignore[arg-type]
            self._facts[f"digest of the {split} split's names and targets"] = _digest(loader.dataset)

    def state_dict(self) -> dict[str, Any]:
        """What a state holds of it."""
        return dict(self._facts)

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
        if changed:
            raise ValueError(f"the data set is another: {'; '.join(changed)}. Start a new run.")


def _digest(dataset: Any) -> str:
    if isinstance(own := getattr(dataset, "digest", None), str):
        return own
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        digest.update(json.dumps(dict(record(dataset, index)), default=str).encode())
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # no numbers: not ours to understand
        digest.update(json.dumps(torch.as_tensor(getattr(dataset, "targets", [])).tolist()).encode())
    return digest.hexdigest()[:16]
