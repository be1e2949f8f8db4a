"""Checkpoints of a run: the best epochs for each metric marked `is_checkpoint`, and the last two states."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_trainer.api.reporter import Best
from ignite_trainer.checkpoints.checkpoint_files import (
    BUILT_FROM,
    DamagedError,
    read_intact,
    save_durably,
    save_weights,
    snapshot,
    states_of,
)
from ignite_trainer.checkpoints.frozen_weights import FrozenWeights, read_frozen
from ignite_trainer.checkpoints.state_validation import BEST_FILE, BEST_KEPT, Position, StateContent, checked
from ignite_trainer.data.transfer import in_thread
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.support import random_state
from ignite_trainer.support.distributed import all_gather, barrier, is_main, rank, run_on_main
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import remove, remove_partial_files

logger = logging.getLogger(__name__)


class Checkpoints:
    """Writes `best_<metric>_epoch-<n>_<value>.pt` and the states `last_epoch-<n>[_step-<iteration>].pt`.

    A best file holds the model's state dict; epoch 0 denotes the weights before the first step. A state holds
    everything needed to resume: the model, the other parts of the run, the position, the random states, and
    the names of the best files. Frozen weights are in a separate file alongside the states. A checkpoint is a
    best file or a state. Checkpoints contain the protocol's `Model` section, from which the model can be
    rebuilt. All tensors are on the CPU. The last two states are kept, with the best files that they name,
    until `finish`.

    A checkpoint is copied to the CPU, then written in a thread while training continues. `save`,
    `save_state`, `finish` and `wait` first wait for the previous checkpoint, and raise a RunFailed if it
    could not be written. Call `wait` before a run ends. Call `restore` only at the beginning of a run.

    All processes call these methods; only the main process writes.

    Attributes:
        last: path of the last state, even while the state is being written.
        damaged: names of the damaged files that made `restore` skip a state, each with a description of
            its actual content, if recognised.
    """

    def __init__(
        self,
        folder: Path,
        protocol: Protocol,
        *,
        model: nn.Module,
        state: Mapping[str, Any],
        saved_weights: Callable[[], AbstractContextManager[None]] = nullcontext,
        check_resumable: Callable[[Path, StateContent], None] = lambda *_: None,
    ) -> None:
        """Prepare to save and restore a model and the other parts of a run.

        Args:
            folder: folder of the checkpoints.
            protocol: protocol of the run, which marks metrics with `is_checkpoint`.
            model: model to save; it is restored before the other parts.
            state: other parts of the run by name. Each has a method `state_dict()`, which returns plain
                values and tensors, and a method `load_state_dict()`.
            saved_weights: context manager that gives the model the weights to save.
            check_resumable: further check of a state; it raises a ProtocolError if the run cannot resume from
                the state. In that case, no file is changed.
        """
        self._folder = folder
        self._model = model
        self._state = state
        self._saved_weights = saved_weights
        self._check_resumable = check_resumable
        self._lines = {line.line_label: line for line in protocol.lines.values() if line.is_checkpoint}
        self._built_from = protocol.to_json()["Model"]
        self._frozen = FrozenWeights(folder, model)
        self._pending: Future[None] | None = None  # the checkpoint being written
        self._kept: dict[str, list[Best]] = {label: [] for label in self._lines}
        self.last: Path | None = None
        self._needed: set[Path] = set()  # the last state and the best files that it names
        self.damaged: list[str] = []

    @property
    def best(self) -> tuple[Best, ...]:
        """Best epoch for each metric; ties go to the earliest epoch, but epoch 0 ranks last."""
        return tuple(kept[0] for kept in self._kept.values() if kept)

    @property
    def failed(self) -> bool:
        """True if this process already knows that writing a file failed; `wait` raises the error."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def save(
        self,
        held_out: Mapping[str, float],
        *,
        validation: Mapping[str, float] | None = None,
        position: Position,
    ) -> None:
        """Save the state after an epoch, and the weights if the epoch is among the best.

        Args:
            held_out: metrics on the held-out split, by label.
            validation: metrics on the validation split, which then ranks the epochs; None to rank them by
                the held-out split.
            position: end of the epoch.
        """
        best = self._place_among_the_best(held_out, validation, position.epoch)
        self._save(position, random_state.capture(), best=best)

    def save_untrained(
        self, held_out: Mapping[str, float], validation: Mapping[str, float] | None = None
    ) -> None:
        """Save the weights before the first step as the best so far; the arguments are those of `save`."""
        run_on_main(self.wait)
        if is_main():
            best = self._place_among_the_best(held_out, validation, 0)
            with self._saved_weights():
                weights = snapshot(dict(self._model.state_dict()))
            self._pending = in_thread(self._write_best, weights, best)

    def save_state(self, position: Position, *, random_states: Mapping[str, Any] | None = None) -> None:
        """Save everything needed to resume. Call only between optimizer steps: gradients are not saved.

        The current global random states are saved unless `random_states` are given.
        """
        self._save(position, random_state.capture() if random_states is None else dict(random_states))

    def wait(self) -> None:
        """Wait until the last checkpoint is written; raise a RunFailed if writing failed."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def finish(self) -> None:
        """Wait for the last checkpoint, then remove all others except the best files."""
        run_on_main(self.wait)
        if is_main() and self.last:
            self._remove_all_but(self._needed)

    def restore(self) -> Position | None:
        """Restore the newest intact state, and log a warning for each damaged state that is newer.

        Returns:
            The position of the state, or None if no state is intact; in that case, nothing is changed.

        Raises:
            ProtocolError: The state belongs to another model, optimizer or data set, or the file does not
                contain a state.
        """
        self.damaged = []
        for candidate in run_on_main(lambda: states_of(self._folder)):
            try:
                content = read_intact(candidate)
                frozen = read_frozen(candidate, content)
            except DamagedError as error:
                logger.warning(
                    "%s is damaged or incomplete, so %s cannot be restored; trying the state before it.",
                    error,
                    candidate.name,
                )
                self.damaged.append(error.name)
                continue
            try:
                state = checked(content, candidate, self._state)
                self._load({**content, "model": {**frozen, **state.model}}, state)
                self._check_resumable(candidate, state)
            except ProtocolError:
                raise
            except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise ProtocolError(f"State {candidate} does not match the protocol: {error}") from error
            barrier()  # every process must have read the state before the main process removes files
            if is_main():
                self._take_over(candidate, state)
            return state.position
        return None

    def _save(self, position: Position, random: dict[str, Any], *, best: Iterable[Path] = ()) -> None:
        path = self._folder / position.file_name
        run_on_main(self.wait)  # all processes raise the main process's error
        randoms = all_gather(random)
        if is_main():
            with self._saved_weights():
                content = snapshot(self._content(position, randoms))
            needed_before, self._needed = self._needed, self._needed_by(path)
            self._pending = in_thread(self._write, path, content, best, needed_before | self._needed)
        self.last = path

    def _needed_by(self, state: Path) -> set[Path]:
        best = {entry.checkpoint for kept in self._kept.values() for entry in kept if entry.checkpoint}
        return {state, *best}

    def _write_best(self, weights: Mapping[str, Any], best: Iterable[Path]) -> None:
        self._folder.mkdir(exist_ok=True)
        for file in best:
            save_weights(file, weights, built_from=self._built_from)

    def _write(
        self, path: Path, content: dict[str, Any], best: Iterable[Path], needed: Collection[Path]
    ) -> None:
        """Write the best files and the state, then remove the checkpoints no longer needed."""
        self._write_best(content["model"], best)
        save_durably(path, self._frozen.store_separately(content))
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            remove(path)
            raise RunFailed(
                f"Cannot save the state of the run: it must contain only plain values and tensors ({error})."
            ) from error
        self._remove_all_but(needed)

    def _remove_all_but(self, needed: Collection[Path]) -> None:
        best = (path for path in self._folder.glob("best_*.pt") if BEST_FILE.fullmatch(path.name))
        for path in (*states_of(self._folder), *best):
            if path not in needed:
                remove(path)

    def _content(self, position: Position, randoms: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "position": asdict(position),
            "best": {
                label: [
                    {
                        "value": best.value,
                        "epoch": best.epoch,
                        "file": best.checkpoint and best.checkpoint.name,
                        "chosen_on": best.chosen_on,
                        "validation": best.validation,
                    }
                    for best in kept
                ]
                for label, kept in self._kept.items()
            },
            BUILT_FROM: self._built_from,
            "random": randoms[0],
            **({"random_of_other_processes": randoms[1:]} if randoms[1:] else {}),
            "model": dict(self._model.state_dict()),
            **{name: part.state_dict() for name, part in self._state.items()},
        }

    def _load(self, content: Mapping[str, Any], state: StateContent) -> None:
        self._model.load_state_dict(content["model"])
        for name, part in self._state.items():
            part.load_state_dict(content[name])
            if isinstance(part, Optimizer):
                _lay_out_like_parameters(part)
        for label, kept in self._kept.items():
            kept[:] = [
                replace(best, checkpoint=best.checkpoint and self._folder / best.checkpoint)
                for best in state.best.get(label, [])
            ]
        randoms = [state.random, *state.random_of_other_processes]
        random_state.reinstate(randoms[rank() if rank() < len(randoms) else 0])

    def _take_over(self, restored: Path, state: StateContent) -> None:
        """Continue from a restored state: remove everything written after it."""
        self._frozen.sha256 = state.frozen_weights
        self.last = restored
        self._needed = self._needed_by(restored)
        states = states_of(self._folder)
        for newer in states[: states.index(restored)]:
            remove(newer)
        remove_partial_files(self._folder)
        done = state.position.epoch - (not state.position.complete)
        for path in self._folder.glob("best_*.pt"):
            match = BEST_FILE.fullmatch(path.name)
            if match and int(match[1]) > done and path not in self._needed:
                remove(path)

    def _place_among_the_best(
        self, held_out: Mapping[str, float], validation: Mapping[str, float] | None, epoch: int
    ) -> list[Path]:
        """Rank an epoch; return a file for its weights for each metric by which it is among the best."""
        files = []
        for label, line in self._lines.items() if is_main() else ():
            new, kept = Best.of(label, epoch, held_out=held_out, validation=validation), self._kept[label]
            path = self._folder / f"best_{line.file_name}_epoch-{epoch}_{new.chosen_by:.4f}.pt"
            new = replace(new, checkpoint=path)
            place = sum(self._rank(other) >= self._rank(new) for other in kept)
            if place < BEST_KEPT:
                kept.insert(place, new)
                del kept[BEST_KEPT:]
                files.append(path)
        return files

    def _rank(self, best: Best) -> tuple[float, bool]:
        return best.rank(better=self._lines[best.label].best)


def _lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Give the optimizer's tensors the memory layout of their parameters.

    torch's fused CPU kernels walk through both in memory order. They silently compute wrong results if the
    layouts differ, for example because the model was converted to channels last after the state was saved.
    """
    parameters = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
