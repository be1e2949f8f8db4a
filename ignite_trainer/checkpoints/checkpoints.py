"""Checkpoints of a run: the best few by each metric that asks for it, and the last two whole states."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
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
    remove_weights,
    save_durably,
    save_weights,
    states_of,
)
from ignite_trainer.checkpoints.frozen_weights import FrozenWeights, read_left_out
from ignite_trainer.checkpoints.snapshot import snapshot
from ignite_trainer.checkpoints.state_validation import (
    BEST_FILE,
    BEST_KEPT,
    BestEntry,
    Position,
    StateContent,
    checked,
)
from ignite_trainer.data.transfer import in_thread
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.support import random_state
from ignite_trainer.support.distributed import all_say, is_main, main_says, rank, wait_for_all
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import remove, remove_remains

__all__ = ["BEST_KEPT", "Checkpoints", "Position"]

logger = logging.getLogger(__name__)


class Checkpoints:
    """Writes `best_<metric>_epoch-<n>_<value>.pt` and the states `last_epoch-<n>[_step-<iteration>].pt`.

    The best files are the model's state dict, and load wherever weights load; epoch 0 is that before the
    first step. A state holds all that a run goes on with: model, the parts named to it, position, random
    states, and which files are the best; frozen weights are in a file beside the states. All tensors are on
    the CPU.
    States and best files hold the protocol's section `Model`, from which the model can be built again.
    Each file gets its name when it is complete and verified, and has its checksum beside it. The last two
    states stay, with all best files that they name, until `finish`.

    What is saved is copied, then written by a thread while training goes on; `save`, `save_state`, `finish`
    and `wait` first wait for what was saved before, and raise the RunFailed of a file that cannot be written.
    Call `wait` before a run ends. `restore` is for the beginning of a run, when nothing was saved yet.

    Of several processes, which all call it, the main one writes, and all read what is there.

    Attributes:
        damaged: names of the damaged files that made `restore` skip a state, and what lies there instead.
    """

    def __init__(
        self,
        folder: Path,
        protocol: Protocol,
        *,
        model: nn.Module,
        state: Mapping[str, Any],
        saved_weights: Callable[[], AbstractContextManager[None]] = nullcontext,
        may_go_on: Callable[[Path, StateContent], None] = lambda *_: None,
    ) -> None:
        """Prepare to save and restore `model`, and the parts of `state`, under `folder`.

        A part has `state_dict()`, of plain values and tensors, and `load_state_dict(...)`, called after the
        model has its weights. Whatever is saved is read in a block of `saved_weights`. `may_go_on` raises a
        ProtocolError where a state that fits otherwise cannot be gone on with; then no file is changed.
        """
        self._folder, self._model, self._state = folder, model, state
        self._saved_weights, self._may_go_on = saved_weights, may_go_on
        self._lines = {line.line_label: line for line in protocol.lines.values() if line.is_checkpoint}
        self._built_from = protocol.to_json()["Model"]
        self._frozen = FrozenWeights(folder, model)
        self._pending: Future[None] | None = None  # what is being written
        self.damaged: list[str] = []
        self._kept: dict[str, list[Best]] = {label: [] for label in self._lines}
        self._last: Path | None = None
        self._before: list[Path] = []  # states older than the last
        # Best files that the last state does not name any more, and those that the one before it names.
        self._superseded: list[Path] = []
        self._needed_by_the_one_before: list[Path] = []

    def save(self, values: Mapping[str, float], *, position: Position) -> None:
        """Save what the held-out `values` of this epoch call for, and the state after it.

        Raises:
            RunFailed: what was saved before cannot be written; the files there are stay.
        """
        labels = self._lines if is_main() else ()
        best = [self._place_among_the_best(label, values[label], position.epoch) for label in labels]
        self._save(position, random_state.capture(), best=[path for path in best if path])

    def save_untrained(self, values: Mapping[str, float]) -> None:
        """Save the weights before the first step as the best so far, by the held-out `values` they reach.

        Raises:
            RunFailed: what was saved before cannot be written.
        """
        main_says(self.wait)
        if is_main():
            best = [self._place_among_the_best(label, values[label], 0) for label in self._lines]
            with self._saved_weights():
                weights = snapshot(dict(self._model.state_dict()))
            self._pending = in_thread(self._write_best, weights, [path for path in best if path])

    def save_state(self, position: Position, *, random: Mapping[str, Any] | None = None) -> None:
        """Save all that the run goes on with.

        Args:
            position: between two steps of the optimizer: gradients are not saved.
            random: the global random states, if others than those of now.

        Raises:
            RunFailed: what was saved before cannot be written; the files there are stay. Or a part of it
                holds what a file of plain values cannot.
        """
        self._save(position, random_state.capture() if random is None else dict(random))

    def wait(self) -> None:
        """Wait until what was saved is written.

        Raises:
            RunFailed: it cannot be written; the files there are stay.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    @property
    def failed(self) -> bool:
        """True once this process knows that a file could not be written; `wait` raises the error."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def restore(self) -> Position | None:
        """Put everything back as it was when the newest intact state was saved; name the others in the log.

        Returns:
            How far the run had come then; None if there is no intact state, and nothing was changed.

        Raises:
            ProtocolError: the state is of another model, optimizer or data set, or holds what no run saves.
        """
        self.damaged = []
        for candidate in main_says(lambda: states_of(self._folder)):
            try:
                content = read_intact(candidate)
                frozen = read_left_out(candidate, content)
            except DamagedError as error:
                logger.warning(
                    "The checkpoint %s is damaged or incomplete; the state before %s is tried.",
                    error,
                    candidate.name,
                )
                self.damaged.append(error.name)
                continue
            state = checked(content, candidate, self._state)
            try:
                self._load({**content, "model": {**frozen, **state.model}}, state)
                self._may_go_on(candidate, state)
            except ProtocolError:
                raise
            except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise ProtocolError(
                    f"The checkpoint {candidate} does not fit what the protocol describes: {error}"
                ) from error
            wait_for_all()  # until they have read it, before anything beside it is removed
            if is_main():
                self._take_over(candidate, state)
            return state.position
        return None

    def finish(self) -> None:
        """Remove what only a run under way needs: the state before the last, best files it alone names.

        Raises:
            RunFailed: what was saved last cannot be written.
        """
        main_says(self.wait)
        for path in (*self._before, *self._needed_by_the_one_before, *self._superseded):
            remove_weights(path)
        self._before, self._needed_by_the_one_before, self._superseded = [], [], []

    @property
    def best(self) -> tuple[Best, ...]:
        """The best epoch by each metric marked `is_checkpoint`, the earliest of equals but for epoch 0."""
        return tuple(kept[0] for kept in self._kept.values() if kept)

    @property
    def last(self) -> Path | None:
        """Path of the last state, also while it is being written."""
        return self._last

    def _save(self, position: Position, random: dict[str, Any], *, best: Sequence[Path] = ()) -> None:
        path = self._folder / position.file_name
        main_says(self.wait)  # the others wait for the message, and raise the same error
        randoms = all_say(random)
        if is_main():
            with self._saved_weights():
                content = snapshot(self._content(position, randoms))
            older = [self._last] if self._last and self._last != path else []
            superseded = {*self._before, *self._needed_by_the_one_before} - {path, *older}
            self._pending = in_thread(self._write, path, content, best, superseded)
            self._before, self._needed_by_the_one_before, self._superseded = older, self._superseded, []
        self._last = path

    def _write_best(self, weights: Mapping[str, Any], best: Iterable[Path]) -> None:
        self._folder.mkdir(exist_ok=True)
        for file in best:
            save_weights(file, weights, built_from=self._built_from)

    def _write(
        self, path: Path, content: dict[str, Any], best: Iterable[Path], superseded: Iterable[Path]
    ) -> None:
        """Write a state and its weights as `best` files, then remove what it supersedes."""
        self._write_best(content["model"], best)
        save_durably(path, self._frozen.leave_out(content))
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            remove(path)
            raise RunFailed(f"The state of the run cannot be saved as plain values: {error}") from error
        for file in superseded:
            remove_weights(file)

    def _content(self, position: Position, randoms: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "position": asdict(position),
            "best": {
                label: [_entry(best).model_dump() for best in kept] for label, kept in self._kept.items()
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
        self._kept = {
            label: [
                Best(
                    label=label,
                    value=entry.value,
                    epoch=entry.epoch,
                    checkpoint=self._folder / entry.file if entry.file else None,
                )
                for entry in state.best.get(label, [])
            ]
            for label in self._lines
        }
        for kept in self._kept.values():
            kept.sort(key=self._rank, reverse=True)  # earlier versions had epoch 0 before its equals
        randoms = [content["random"], *content.get("random_of_other_processes", [])]
        random_state.reinstate(randoms[rank() if rank() < len(randoms) else 0])

    def _take_over(self, restored: Path, state: StateContent) -> None:
        """Go on from a state: what was written after it is removed, what it supersedes is noted."""
        states, position = states_of(self._folder), state.position
        self._frozen.sha256 = state.frozen_weights
        at = states.index(restored)
        for newer in states[:at]:
            remove(newer)
        self._last, self._before = restored, states[at + 1 :]
        remove_remains(self._folder)
        named = {best.checkpoint for kept in self._kept.values() for best in kept}
        done = position.epoch if position.complete else position.epoch - 1
        self._superseded, self._needed_by_the_one_before = [], []
        for path in sorted(self._folder.glob("best_*.pt")):
            match = BEST_FILE.fullmatch(path.name)
            if path in named or not match:
                continue
            if int(match[1]) > done:
                remove_weights(path)
            else:
                self._needed_by_the_one_before.append(path)

    def _place_among_the_best(self, label: str, value: float, epoch: int) -> Path | None:
        """Return the file for the weights of this epoch, or None if they are not among the best."""
        kept = self._kept[label]
        path = self._folder / f"best_{self._lines[label].file_name}_epoch-{epoch}_{value:.4f}.pt"
        new = Best(label=label, value=value, epoch=epoch, checkpoint=path)
        place = sum(self._rank(one) >= self._rank(new) for one in kept)
        if place == BEST_KEPT:
            return None
        kept.insert(place, new)
        self._superseded += [best.checkpoint for best in kept[BEST_KEPT:] if best.checkpoint]
        del kept[BEST_KEPT:]
        return path

    def _rank(self, best: Best) -> tuple[float, bool]:
        return best.rank(better=self._lines[best.label].best)


def _entry(best: Best) -> BestEntry:
    file = best.checkpoint.name if best.checkpoint else None
    return BestEntry(value=best.value, epoch=best.epoch, file=file)


def _lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Give what the optimizer keeps of a parameter that parameter's layout in memory.

    torch's fused kernels for the CPU walk through both as they lie, and are silently wrong where the two
    differ: where the model was put channels last after the state was saved, say.
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
