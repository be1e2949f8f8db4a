"""The story of one run: check, build, evaluate, train, keep, report."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.utils import manual_seed
from torch.optim import Optimizer

from ignite_trainer import metrics, results, results_table
from ignite_trainer.assembly import SPLITS, Parts, assemble
from ignite_trainer.blueprint import Blueprint, draw
from ignite_trainer.checkpoints import Checkpoints, Position
from ignite_trainer.engines import make_trainer, running_loss
from ignite_trainer.errors import ProtocolError
from ignite_trainer.faults import FaultPolicy, RollBack, explained
from ignite_trainer.folder_lock import alone_in
from ignite_trainer.instantiate import build
from ignite_trainer.memory import freed_memory
from ignite_trainer.passes import PassResult, SplitPass
from ignite_trainer.precision import float32_products
from ignite_trainer.protocol import Protocol
from ignite_trainer.record import FILE_NAME, RunRecord, describe_run
from ignite_trainer.reporters import Reporter, Together
from ignite_trainer.reporters.reporter import Evaluated, Iteration, Measured, RunEnd, RunStart, Split
from ignite_trainer.self_description import folds, held_out_folds, results_name


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where a finished run is, and what it reached."""

    folder: Path
    end: RunEnd
    record: RunRecord


def run(protocol: Protocol, *, trusted: Iterable[str] = (), folder: Path | None = None) -> RunResult:
    """Carry out one protocol.

    Args:
        protocol: a validated protocol.
        trusted: packages whose classes it may name besides the usual ones.
        folder: the run's own, which must not be there yet; None: a new one under the root of results.

    Raises:
        ProtocolError: before any training, for all that can be known then.
        RunFailed: it cannot go on: the loss is no longer finite, the disk is full, memory runs out ...
    """
    seed = torch.seed() % 2**32 if protocol.setup.seed is None else protocol.setup.seed
    protocol = protocol.model_copy(update={"setup": protocol.setup.model_copy(update={"seed": seed})})
    blueprint = draw(protocol, trusted=trusted)
    if idist.get_world_size() > 1:
        raise ProtocolError("Several processes cannot train one model yet; start one.")
    results.check_writable(results.root_of(protocol))
    manual_seed(seed)
    parts = assemble(blueprint, seed=seed)
    made = [
        build(kind, args, where=f"Reporters[{index}]")
        for index, (kind, args) in enumerate(blueprint.reporters)
    ]
    if folder is None:
        folder = results.make_run_folder(protocol, seed=seed)
    else:
        folder.mkdir(parents=True)
    with (
        alone_in(folder, name="run"),
        contextlib.closing(parts),
        contextlib.closing(Together(made)) as reporters,
        float32_products(protocol.setup.precision),
        freed_memory(kept=protocol.setup.keep_memory),
        explained(folder),
    ):
        result = _Run(blueprint, parts, folder, reporters).carry_out(seed)
    results_table.update(results.root_of(protocol))
    return result


class _Run:
    """One run under way: engines, what they have reached, and who is told."""

    def __init__(self, blueprint: Blueprint, parts: Parts, folder: Path, reporters: Reporter) -> None:
        self._blueprint, self._protocol, self._setup = blueprint, blueprint.protocol, blueprint.protocol.setup
        self._parts, self._folder, self._reporters = parts, folder, reporters
        self._passes = {split: SplitPass(blueprint, parts, split, folder=folder) for split in SPLITS}
        self._faults = FaultPolicy(
            self._protocol.faults, parts.training.dataset, folder=folder, reporters=reporters
        )
        scaler = parts.scaler if parts.scaler.is_enabled() else None
        state = {
            "optimizer": parts.optimizer,
            "scheduler": parts.scheduler,
            "scaler": scaler,
            "faults": self._faults,
        }
        self._checkpoints = Checkpoints(
            folder / "checkpoints",
            self._protocol,
            model=parts.model,
            state={name: part for name, part in state.items() if part is not None},
        )
        self._held_out = PassResult(metrics={}, predictions=None, tables={}, seconds=0.0)
        self._step_clock = time.monotonic()

    def carry_out(self, seed: int) -> RunResult:
        """Evaluate, train for the epochs of the protocol, and tell the reporters."""
        started = time.monotonic()
        environment = results.describe_environment(seed=seed, device=self._parts.device)
        self._announce(environment)
        self._evaluate("test", epoch=0, iteration=0)
        if self._parts.optimizer is not None:
            self._train(self._parts.optimizer)
        self._checkpoints.finish()
        end = RunEnd(
            last_epoch=self._setup.epochs,
            last=self._held_out.metrics,
            best=self._checkpoints.best,
            last_checkpoint=self._checkpoints.last,
            seconds=time.monotonic() - started,
            faults=self._faults.counted({loader.unreadable for loader in self._parts.evaluation.values()}),
        )
        if self._held_out.predictions is not None:
            self._held_out.predictions.write_csv(self._folder / "predictions.csv")
        self._reporters.on_end(end)
        record = describe_run(
            self._protocol,
            self._parts,
            end,
            evaluations=self._held_out.tables,
            multilabel=bool(self._held_out.predictions and self._held_out.predictions.multilabel),
            revision=environment["revision"],
        )
        # Last: it says that all is there.
        results.write_json(self._folder / FILE_NAME, record.model_dump(mode="json"))
        return RunResult(folder=self._folder, end=end, record=record)

    def _announce(self, environment: Mapping[str, Any]) -> None:
        parts, seed = self._parts, environment["seed"]
        results.write_json(self._folder / "protocol.json", self._protocol.to_json())
        results.write_json(self._folder / "environment.json", environment)
        training = f"{parts.sizes['train']:,} samples, {len(parts.training):,} batches"
        weights = ", ".join(f"{file.name} (sha256 {file.sha256[:12]}...)" for file in parts.initial_weights)
        trained = {
            **{f"Parameters {pattern}": text for pattern, text in parts.plan.summary.items()},
            "Training split": training,
        }
        dataset = parts.evaluation["test"].dataset
        is_part = bool(held_out_folds(dataset)) or not folds(dataset)
        facts = {
            "Device": environment["accelerator"] or f"{parts.device} ({environment['threads']} threads)",
            "Precision": self._setup.precision,
            "Seed": str(seed),
            **({"Initial weights": weights} if weights else {}),
            **(trained if self._setup.epochs else {}),
            "Data": results_name(dataset),
            "Held-out split" if is_part else "Evaluated": f"{parts.sizes['test']:,} samples",
            "Results": str(self._folder),
        }
        self._reporters.on_start(
            RunStart(
                folder=self._folder,
                name=f"{self._setup.name} {self._folder.name}",
                protocol=self._protocol.to_json(),
                environment=environment,
                facts=facts,
                windows=metrics.windows(self._protocol),
                epochs=self._setup.epochs,
                iterations_per_epoch=len(parts.training),
            )
        )

    def _train(self, optimizer: Optimizer) -> None:
        """Train to the last epoch, also where that takes returns to a checkpoint."""
        position: Position | None = None
        while True:
            try:
                self._make_trainer(optimizer, position).run(
                    self._parts.training, max_epochs=self._setup.epochs
                )
            except RollBack as why:
                position = self._faults.roll_back(why, self._checkpoints, optimizer, self._parts.scheduler)
            else:
                return

    def _make_trainer(self, optimizer: Optimizer, position: Position | None) -> Engine:
        """A trainer that begins after the epoch of a position; None: with the first."""
        parts, setup = self._parts, self._setup
        trainer = make_trainer(
            parts.task,
            parts.model,
            optimizer,
            parts.plan,
            setup,
            device=parts.device,
            scaler=parts.scaler,
            watch=self._faults.watch,
        )
        metrics.attach_running_metrics(self._blueprint, trainer, device=parts.device)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        log = functools.partial(self._log_steps, optimizer=optimizer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=setup.log_interval), log)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        if position is not None:
            trainer.load_state_dict(
                {
                    "epoch": position.epoch,
                    "max_epochs": setup.epochs,
                    "epoch_length": len(parts.training),
                }
            )
        return trainer

    def _start_epoch(self, trainer: Engine) -> None:
        self._parts.training.set_epoch(trainer.state.epoch)
        self._step_clock = time.monotonic()

    def _log_steps(self, trainer: Engine, optimizer: Optimizer) -> None:
        now, state = time.monotonic(), trainer.state
        position = (state.iteration - 1) % len(self._parts.training) + 1
        steps = min(self._setup.log_interval, position)
        self._faults.require_finite(state.epoch, state.iteration)
        self._reporters.on_iteration(
            Iteration(
                epoch=state.epoch,
                iteration=state.iteration,
                loss=running_loss(trainer),
                learning_rates=tuple(group["lr"] for group in optimizer.param_groups),
                samples_per_second=steps * self._setup.batch_train / (now - self._step_clock),
                metrics=metrics.values(trainer, self._protocol),
            )
        )
        self._step_clock = time.monotonic()

    def _finish_epoch(self, trainer: Engine) -> None:
        epoch, iteration = trainer.state.epoch, trainer.state.iteration
        self._faults.require_finite(epoch, iteration, self._parts.model)
        if self._parts.scheduler:
            self._parts.scheduler.step()
        if not self._setup.skip_train_evaluation:
            self._evaluate("train", epoch=epoch, iteration=iteration)
        self._evaluate("test", epoch=epoch, iteration=iteration)
        self._checkpoints.save(
            self._held_out.metrics, position=Position(epoch=epoch, iteration=iteration, complete=True)
        )

    def _evaluate(self, split: Split, *, epoch: int, iteration: int) -> None:
        result = self._passes[split].run(self._due(epoch) if split == "test" else ())
        if split == "test":
            self._held_out = result
        self._reporters.on_evaluation(
            Evaluated(
                epoch=epoch,
                iteration=iteration,
                split=split,
                metrics=result.metrics,
                seconds=result.seconds,
                predictions=result.predictions,
            )
        )
        for name, table in result.tables.items():
            self._reporters.on_measurement(Measured(epoch=epoch, name=name, table=table))

    def _due(self, epoch: int) -> list[str]:
        """The evaluations that take part in the pass after this epoch: after the last one all."""
        return [
            name
            for name, (spec, _) in self._parts.evaluations.items()
            if epoch == self._setup.epochs or (spec.every and epoch % spec.every == 0)
        ]
