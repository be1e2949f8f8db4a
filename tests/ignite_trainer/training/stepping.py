"""Training steps on a few batches, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from toy_research.learning import Matching
from toy_research.network import TwoTowers
from toy_research.signals import Tone

from ignite_trainer.api.task import Task
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule, Setup
from ignite_trainer.training.engines import make_trainer
from ignite_trainer.training.optimizer_steps import StepWatch, loss_scaler
from ignite_trainer.training.parameters import apply_rules

CPU = torch.device("cpu")


class Trained(NamedTuple):
    """Trainer, optimizer and scaler of a finished training."""

    trainer: Engine
    optimizer: Optimizer
    scaler: GradScaler


def setup(**changes: Any) -> Setup:
    return Setup(**{"name": "x", "batch_train": 12, "epochs": 1, "saved_models_path": "x", **changes})


def towers(**options: Any) -> TwoTowers:
    """Build the same towers every time, without dropout and batch norm by default."""
    torch.manual_seed(0)
    return TwoTowers(**{"dropout": 0.0, "norm": False, **options})


def tones(size: int, *, seed: int = 1, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    signal = scale * torch.randn(size, 1, 16, generator=generator)
    target = torch.randint(3, (size,), generator=generator)
    return Batch(torch.arange(size), Tone(signal, None, 0.0, [""] * size, target))


def train(
    model: nn.Module,
    data: list[Batch],
    *,
    task: Task | None = None,
    optimizer: type[Optimizer] = torch.optim.SGD,
    args: dict[str, Any] | None = None,
    epochs: int = 1,
    watch: StepWatch | None = None,
    rules: Sequence[dict[str, Any]] = ({"match": ".*"},),
    **changes: Any,
) -> Trained:
    """Train the parameters of a model, by default all, at a rate of 0.5; `changes` apply to the `Setup`."""
    settings = setup(**changes)
    plan = apply_rules(model, [ParameterRule(**rule) for rule in rules])
    chosen = optimizer(plan.groups, **(args or {"lr": 0.5}))
    scaler = loss_scaler(settings.precision, CPU)
    trainer = make_trainer(
        task or Matching(), model, chosen, plan, settings, device=CPU, scaler=scaler, watch=watch
    )
    trainer.run(data, max_epochs=epochs)
    return Trained(trainer, chosen, scaler)
