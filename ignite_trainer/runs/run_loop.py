"""The run loop: evaluates, trains, saves, and notifies the reporters."""

from __future__ import annotations

import functools
import logging
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from ignite_trainer.api import file_names
from ignite_trainer.api.evaluation import FigureTable
from ignite_trainer.api.reporter import Best, Evaluated, Iteration, Measured, RunEnd, Split
from ignite_trainer.api.self_description import listing, seen_in_training
from ignite_trainer.checkpoints.checkpoints import Checkpoints
from ignite_trainer.checkpoints.running_metrics import Elapsed, RunningMetrics
from ignite_trainer.checkpoints.save_schedule import Saver
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.reporters import Reporter
from ignite_trainer.results import run_folder
from ignite_trainer.results.leakage import MEANING, caution
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs import resuming
from ignite_trainer.runs.assembly import Parts
from ignite_trainer.runs.data_identity import DataIdentity
from ignite_trainer.runs.evaluation_pass import SplitPass
from ignite_trainer.runs.faults import FaultPolicy
from ignite_trainer.runs.run_start import describe_start
from ignite_trainer.support import random_state
from ignite_trainer.support.distributed import broadcast_state, is_main, run_on_main, world_size
from ignite_trainer.support.errors import ProtocolError, RunStopped
from ignite_trainer.support.files import write_json
from ignite_trainer.support.signals import StopRequest
from ignite_trainer.training import metrics
from ignite_trainer.training.engines import RUNNING_LOSS, make_trainer, running_average, running_loss
from ignite_trainer.training.lone_samples import LoneSamples


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Folder and result of a finished run."""

    folder: Path
    end: RunEnd
    record: RunRecord


class Run:
    """A run in progress, with its engines and checkpoints."""

    def __init__(
        self,
        blueprint: Blueprint,
        parts: Parts,
        folder: Path,
        reporters: Reporter,
        request: StopRequest,
    ) -> None:
        """Connect the parts. The run stops when `request` notes a signal."""
        self._blueprint = blueprint
        self._protocol = blueprint.protocol
        self._setup = blueprint.protocol.setup
        self._parts = parts
        self._folder = folder
        self._reporters = reporters
        self._elapsed = Elapsed()
        self._datasets = datasets = {split: loader.dataset for split, loader in parts.evaluation.items()}
        models = (parts.model, *parts.task.other_models)
        self._caution = caution(models, datasets["train"], datasets["test"])
        seen = [seen_in_training(model, datasets["test"]) for model in models]
        self._seen_in_training = " ".join(filter(None, dict.fromkeys(seen)))
        self._faults = FaultPolicy(
            self._protocol.faults, datasets["train"], folder=folder, reporters=reporters
        )
        data = DataIdentity(parts.training, parts.evaluation)
        state = {
            "optimizer": parts.optimizer,
            "scheduler": parts.scheduler,
            "scaler": parts.scaler if parts.scaler.is_enabled() else None,
            "average": parts.average,
            "elapsed": self._elapsed,
            "faults": self._faults,
            "data": data,
            **{f"unreadable_{split}": loader.unreadable for split, loader in parts.evaluation.items()},
        }
        self._state: dict[str, Any] = {name: part for name, part in state.items() if part is not None}
        self._checkpoints = Checkpoints(
            folder / file_names.CHECKPOINTS,
            self._protocol,
            model=parts.model,
            state=self._state,
            saved_weights=parts.evaluated_weights,
            check_resumable=data.require_same_parts,
        )
        self._saver = Saver(self._checkpoints, self._setup, request, folder=folder)
        self._passes = {
            split: SplitPass(blueprint, parts, split, folder=folder, after_batch=self._saver.stop_if_asked)
            for split in parts.evaluation
        }
        self._trainer = self._make_trainer(parts.optimizer) if parts.optimizer else None
        self._evaluated: dict[Split, Evaluated] = {}  # the last result of each split
        self._tables: dict[str, FigureTable] = {}
        self._step_clock = time.monotonic()
        self._skipped = 0  # batches of the first epoch that an earlier session trained on

    def execute(self, seed: int, *, resume: bool) -> RunResult:
        """Evaluate, train for all epochs in the protocol, and notify the reporters.

        Wait for pending checkpoints, even after an error.
        """
        try:
            return self._execute(seed, resume=resume)
        finally:
            self._checkpoints.wait()

    def _execute(self, seed: int, *, resume: bool) -> RunResult:
        position = self._restore() if resume else None
        environment = run_folder.describe_environment(seed=seed, device=self._parts.device)
        self._announce(environment, position, resume=resume)
        if position is None:
            for split in self._splits_but_training:
                self._evaluate(split, epoch=0, iteration=0)
            if self._trainer is not None:
                self._checkpoints.save_untrained(self._held_out.metrics, self._validated)
        if self._trainer is not None:
            self._train(self._trainer, position)
        self._checkpoints.finish()
        self._share_unreadable()
        end = RunEnd(
            last_epoch=self._held_out.epoch,
            last=self._held_out.metrics,
            best=self._checkpoints.best,
            last_checkpoint=self._checkpoints.last,
            seconds=self._elapsed.seconds,
            stopped_early=self._held_out.epoch < self._setup.epochs,
            faults=self._faults.all_counts({loader.unreadable for loader in self._parts.evaluation.values()}),
        )
        predictions = self._held_out.predictions
        if predictions is not None and is_main():
            predictions.write_csv(self._folder / file_names.PREDICTIONS)
        self._reporters.on_end(end)
        record = RunRecord.of(
            self._blueprint,
            end,
            datasets=self._datasets,
            weights=self._parts.initial_weights,
            task_weights=self._parts.task_weights,
            evaluations=self._tables,
            multilabel=bool(predictions and predictions.multilabel),
            revision=environment["revision"],
            caution=self._caution,
            seen_in_training=self._seen_in_training,
        )
        if is_main():  # written last, as it marks the run as finished
            write_json(self._folder / file_names.RESULT, record.model_dump(mode="json"))
        return RunResult(folder=self._folder, end=end, record=record)

    @property
    def _held_out(self) -> Evaluated:
        """Last result of the held-out split."""
        return self._evaluated["test"]

    @property
    def _validated(self) -> Mapping[str, float] | None:
        """Last metrics of the validation split; None without such a split."""
        return self._evaluated["validation"].metrics if "validation" in self._passes else None

    @property
    def _splits_but_training(self) -> tuple[Split, ...]:
        """The evaluated splits in order: the held-out split comes last, when it is known which epoch is."""
        return tuple(split for split in self._passes if split != "train")

    def _restore(self) -> Position | None:
        """Restore the run's last state; return None if the run was killed before a state was saved.

        Raises:
            ProtocolError: The run cannot resume; its files are unchanged.
        """
        position = self._checkpoints.restore()
        result = self._folder / file_names.RESULT
        if position is None:
            damaged = listing(list(dict.fromkeys(self._checkpoints.damaged)))
            if damaged or result.exists():
                reason = f"damaged: {damaged}" if damaged else "all are missing"
                raise ProtocolError(
                    f"The run in {self._folder} has no intact state ({reason}). "
                    "It cannot be resumed and is left unchanged; start a new run without --resume."
                )
            return None
        batches, epochs = len(self._parts.training), self._setup.epochs
        if position.epoch > epochs or position.epoch != math.ceil(position.iteration / batches):
            raise ProtocolError(
                f"The last state in {self._folder} is from epoch {position.epoch} after {position.iteration} "
                f"batches, but an epoch now has {batches}, so the data set has changed. Start a new run."
            )
        if is_main():
            result.unlink(missing_ok=True)
        self._saver.note_saved(position.iteration)
        return position

    def _announce(self, environment: Mapping[str, Any], position: Position | None, *, resume: bool) -> None:
        """Write protocol and environment, and notify the reporters that the run starts or resumes."""
        # Asked in every process, because they answer it together.
        is_over = position is not None and position.complete and self._is_last(position.epoch)
        if not is_main():
            return
        folder = self._folder
        if resume:
            environment = {**environment, "earlier": run_folder.earlier_environments(folder)}
        write_json(folder / file_names.PROTOCOL, self._protocol.to_json())
        write_json(folder / file_names.ENVIRONMENT, environment)
        warning = " ".join(filter(None, [MEANING.get(self._caution, ""), self._seen_in_training]))
        if warning:
            logging.getLogger(__name__).warning(warning)
        place = f"epoch {position.epoch}, iteration {position.iteration}" if position else "the beginning"
        start = describe_start(
            self._protocol,
            self._parts,
            folder,
            environment,
            resumed_from=place if resume else None,
            best=self._checkpoints.best,
            caution=warning,
        )
        if not resume:
            self._reporters.on_start(start)
            return
        if position and is_over:
            position = replace(position, complete=False)  # repeat its evaluation, for the predictions
        self._reporters.on_resume(start, resuming.truncate_log(folder, position))

    def _make_trainer(self, optimizer: Optimizer) -> Engine:
        """Make the training engine, and add its running metrics to the run's state."""
        parts, setup = self._parts, self._setup
        average = running_average(parts.device)
        trainer = make_trainer(
            parts.task,
            parts.model,
            optimizer,
            parts.plan,
            setup,
            device=parts.device,
            scaler=parts.scaler,
            watch=self._faults.watch,
            average=average,
            lone_samples=LoneSamples(
                parts.task,
                parts.model,
                setup,
                record_dropped=self._faults.record_dropped_fields,
                record_unsynchronised=self._faults.record_unsynchronised_step,
            ),
        )
        by_iteration = metrics.attach_running_metrics(self._blueprint, trainer, device=parts.device)
        parts.task.scores_are_read = bool(by_iteration)
        self._state["running"] = RunningMetrics(
            trainer, {RUNNING_LOSS: average, **by_iteration}, across_epochs=[RUNNING_LOSS]
        )
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        log = functools.partial(self._log_steps, optimizer=optimizer)
        trainer.add_event_handler(metrics.logged_steps(setup.log_interval), log)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish_epoch)
        self._saver.attach(trainer, before_saving=self._before_saving)
        return trainer

    def _train(self, trainer: Engine, position: Position | None) -> None:
        """Train to the last epoch, from the position or, by default, from the beginning."""
        batches, epochs = len(self._parts.training), self._setup.epochs
        if position is not None:
            trainer.load_state_dict(
                {"iteration": position.iteration, "epoch_length": batches, "max_epochs": epochs}
            )
            self._skipped = position.iteration % batches
            if not self._skipped and not position.complete:
                self._evaluate_epoch(position.epoch, position.iteration)
                self._close_epoch(position.epoch, position.iteration)
            elif position.complete and self._is_last(position.epoch):
                self._evaluate_epoch(position.epoch, position.iteration)  # to make the predictions
            if not self._skipped and self._is_last(position.epoch):
                return
        trainer.run(self._parts.training, max_epochs=epochs)

    def _start_epoch(self, trainer: Engine) -> None:
        self._parts.training.set_epoch(trainer.state.epoch, start=self._skipped)
        self._skipped = 0
        self._step_clock = time.monotonic()

    def _log_steps(self, trainer: Engine, optimizer: Optimizer) -> None:
        now, state, interval = time.monotonic(), trainer.state, self._setup.log_interval
        position = (state.iteration - 1) % len(self._parts.training) + 1
        batches = min(state.iteration % interval or interval, position)
        self._faults.require_finite(state.epoch, state.iteration)
        samples = batches * self._setup.batch_of_all(world_size(), train=True)
        self._reporters.on_iteration(
            Iteration(
                epoch=state.epoch,
                iteration=state.iteration,
                loss=running_loss(trainer),
                learning_rates=tuple(
                    optimizer.param_groups[index]["lr"] for index in self._parts.plan.first_groups
                ),
                samples_per_second=samples / (now - self._step_clock),
                metrics=metrics.values(trainer, self._protocol),
            )
        )
        self._step_clock = time.monotonic()

    def _finish_epoch(self, trainer: Engine) -> None:
        epoch, iteration = trainer.state.epoch, trainer.state.iteration
        self._before_saving(epoch, iteration)
        self._evaluate_epoch(epoch, iteration)
        self._close_epoch(epoch, iteration)
        if self._is_last(epoch):
            trainer.terminate()

    def _is_last(self, epoch: int) -> bool:
        """Return whether this is the last epoch of the protocol, or `Setup.patience` is exhausted."""
        patience = self._setup.patience
        if epoch == self._setup.epochs or patience is None:
            return epoch == self._setup.epochs
        return run_on_main(lambda: epoch - self._best_epoch(epoch) >= patience)

    def _best_epoch(self, epoch: int) -> int:
        """Return the best epoch on the validation split, up to and including this one; main process only."""
        line = next(line for line in self._protocol.lines.values() if line.is_checkpoint)
        best = [best for best in self._checkpoints.best if best.label == line.line_label]
        if "validation" in self._evaluated and self._evaluated["validation"].epoch == epoch:
            best.append(Best.of(line.line_label, epoch, held_out={}, validation=self._validated))
        return max(best, key=lambda best: best.rank(better=line.best)).epoch  # the first of equal ones

    def _before_saving(self, epoch: int, iteration: int) -> None:
        self._faults.require_finite(epoch, iteration, self._parts.model)
        self._faults.share_counts()
        self._share_unreadable()

    def _share_unreadable(self) -> None:
        for loader in self._parts.evaluation.values():  # the training loader uses the same object
            loader.unreadable.merge_across_processes()

    def _evaluate_epoch(self, epoch: int, iteration: int) -> None:
        random = random_state.capture()
        if self._parts.average:
            self._parts.average.finish_epoch(epoch)
        with self._parts.evaluated_weights():  # each process has its own running statistics
            broadcast_state(self._parts.model, buffers_alone=True)
        try:
            if not self._setup.skip_train_evaluation:
                self._evaluate("train", epoch=epoch, iteration=iteration)
            for split in self._splits_but_training:
                self._evaluate(split, epoch=epoch, iteration=iteration)
        except RunStopped:  # the epoch's steps are done, so the run resumes with the evaluation
            self._saver.save(Position(epoch=epoch, iteration=iteration), random=random)
            run_on_main(self._checkpoints.wait)
            raise

    def _close_epoch(self, epoch: int, iteration: int) -> None:
        """Step the scheduler if its interval is the epoch, and save."""
        if self._parts.scheduler and not self._protocol.schedules_steps:
            with warnings.catch_warnings():
                # torch does not know about the optimizer steps of earlier sessions.
                warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
                self._parts.scheduler.step()
        self._share_unreadable()
        self._checkpoints.save(
            self._held_out.metrics,
            validation=self._validated,
            position=Position(epoch=epoch, iteration=iteration, complete=True),
        )
        self._saver.note_saved(iteration)

    def _evaluate(self, split: Split, *, epoch: int, iteration: int) -> None:
        is_last = split == "test" and self._is_last(epoch)
        due = [
            name
            for name, spec in self._protocol.evaluations.items()
            if split == "test" and (is_last or (spec.every and epoch % spec.every == 0))
        ]
        result, tables = self._passes[split].run(due, epoch=epoch, iteration=iteration)
        self._evaluated[split] = result
        if split == "test":
            self._tables = tables
        self._reporters.on_evaluation(result)
        for name, table in tables.items():
            self._reporters.on_measurement(Measured(epoch=epoch, name=name, table=table))
