"""Benchmarks a protocol and the same training computed as in the published code.

    python tests/benchmarks/published_code.py -c protocols/audioclip-esc50.json --Setup.precision bf16

Takes the flags of `main.py --benchmark`, and prints the same tables. In the row "published-code", "time
ratio" and "speed-up" compare the two.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ignite_trainer.api.task import StepOutput  # noqa: E402
from ignite_trainer.api.yardstick import Yardstick  # noqa: E402
from utils.tasks.contrastive import AudioTextContrastive  # noqa: E402

T = TypeVar("T")

_HERE = "tests.benchmarks.published_code"
_IMPLEMENTATIONS = ("foreach", "fused")
_CLASSES = {"bare-backbone": "utils.benchmarks.BareBackbone", "published-code": f"{_HERE}.PublishedCode"}
YARDSTICKS = ("--Yardsticks", json.dumps({name: {"class": path} for name, path in _CLASSES.items()}))


def main(argv: Sequence[str]) -> NoReturn:
    """Turn this process into the benchmark."""
    words = ["--benchmark", *YARDSTICKS, *argv, "--trust", "tests"]
    os.execv(sys.executable, [sys.executable, str(ROOT / "main.py"), *words])


class PublishedCode(Yardstick):
    """Trains and evaluates AudioCLIP as published, with the same data, weights and results.

    It computes in float32, contiguous layout and eager mode, with the optimizer's plain loop. The loader
    augments clips one by one, every training step encodes its texts, every evaluation step encodes those of
    all classes, and the host reads every loss. `PublishedAudioCLIP` has the differences in the network.
    """

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the model, the task, and everything else that was slower."""
        return {
            **protocol,
            "Setup": {
                **protocol["Setup"],
                **{"precision": "fp32", "channels_last": False, "compile": False, "keep_memory": False},
                **{"log_interval": 1, "recompute": False, "chunk": None},
            },
            "Model": {**protocol["Model"], "class": "tests.benchmarks.published_model.PublishedAudioCLIP"},
            "Task": {**protocol["Task"], "class": f"{_HERE}.ContrastiveEveryBatch"},
            "Optimizer": _plain(protocol["Optimizer"]) if protocol["Optimizer"] else None,
            "Transforms": [*protocol["Transforms"], {"class": f"{_HERE}.OneAtATime"}],
            "Yardsticks": {},
        }


class ContrastiveEveryBatch(AudioTextContrastive):
    """Encodes the texts of all classes in every step of an evaluation."""

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return the scores of `AudioTextContrastive`."""
        self.start_evaluation(model)
        return super().evaluation_step(model, batch)


def _plain(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Make a torch optimizer update one parameter after another."""
    package, _, name = optimizer["class"].rpartition(".")
    kind = getattr(torch.optim, name, None) if package == "torch.optim" else None
    taken = inspect.signature(kind).parameters if kind else ()
    return {
        **optimizer,
        "args": {**optimizer["args"], **{key: False for key in _IMPLEMENTATIONS if key in taken}},
    }


class OneAtATime:
    """Returns a sample unchanged; as it takes single samples, so do the transforms before it."""

    def __call__(self, sample: T) -> T:
        """Return the sample."""
        return sample


if __name__ == "__main__":
    main(sys.argv[1:])
