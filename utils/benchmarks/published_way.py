"""The yardstick for what was gained: the same figures computed as the published code computed them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from ignite_trainer.task import StepOutput
from ignite_trainer.yardstick import Yardstick
from utils.tasks.contrastive import AudioTextContrastive

T = TypeVar("T")

_IMPLEMENTATIONS = ("foreach", "fused")


class PublishedWay(Yardstick):
    """Training and evaluation of AudioCLIP as published: the same data, weights and figures, more work.

    In float32 and contiguous layout, eager, with the optimizer's plain loop; clips are augmented one by one
    in the loader; every batch encodes its texts, in evaluation those of all classes; every loss is read by
    the host.
    What the network does otherwise is in `PublishedAudioCLIP`.
    """

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Replace model and task by their published kind, and what else was slower."""
        return {
            **protocol,
            "Setup": {
                **protocol["Setup"],
                **{"precision": "fp32", "channels_last": False, "compile": False, "keep_memory": False},
                **{"log_interval": 1, "recompute": False, "chunk": None},
            },
            "Model": {**protocol["Model"], "class": "utils.benchmarks.PublishedAudioCLIP"},
            "Task": {**protocol["Task"], "class": "utils.benchmarks.ContrastiveEveryBatch"},
            "Optimizer": _plain(protocol["Optimizer"]) if protocol["Optimizer"] else None,
            "Transforms": [*protocol["Transforms"], {"class": "utils.benchmarks.OneAtATime"}],
            "Yardsticks": {},
        }


class ContrastiveEveryBatch(AudioTextContrastive):
    """The contrastive task with the texts of all classes encoded in every step of an evaluation."""

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return what `AudioTextContrastive` does."""
        self.start_evaluation(model)
        return super().evaluation_step(model, batch)


def _plain(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Have torch's optimizer move one parameter after the other."""
    package, _, name = optimizer["class"].rpartition(".")
    kind = getattr(torch.optim, name, None) if package == "torch.optim" else None
    taken = inspect.signature(kind).parameters if kind else ()
    return {
        **optimizer,
        "args": {**optimizer["args"], **{key: False for key in _IMPLEMENTATIONS if key in taken}},
    }


class OneAtATime:
    """Leaves a sample as it is; no transform of batches, it makes those before it take single samples."""

    def __call__(self, sample: T) -> T:
        """Return the sample."""
        return sample
