"""Checkpoints of a run: the best few by each metric that asks for it, and the last two whole states."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ignite_trainer import random_state
from ignite_trainer.distributed import all_say, is_main, main_says, rank, wait_for_all
from ignite_trainer.durable import is_intact, remove, remove_remains, write_durably
from ignite_trainer.errors import ProtocolError, RunFailed
from ignite_trainer.protocol import Protocol
from ignite_trainer.reporters.reporter import Best
from ignite_trainer.state_content import BEST_FILE, BEST_KEPT, BestEntry, Position, StateContent, checked
from ignite_trainer.writing import writing

__all__ = ["BEST_KEPT", "Checkpoints", "Position"]

_STATE = re.compile(r"last_epoch-(\d+)(?:_step-(\d+))?\.pt")

logger = logging.getLogger(__name__)


class Checkpoints:
    """Writes `best_<metric>_epoch-<n>_<value>.pt` and the states `last_epoch-<n>[_step-<iteration>].pt`.

    The best files are the model's state dict, load wherever weights load, and have a `.safetensors` beside
    them. A state holds all that a run goes on with: model, the parts named to it, position, random states,
    and which files are the best. Each file gets its name when it is complete and verified, and has its
    checksum beside it. The last two states stay, with all best files that they name, until `finish`.

    Of several processes, which all call it, the main one writes, and all read what is there.
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
        self._kept: dict[str, list[Best]] = {label: [] for label in self._lines}
        self._last: Path | None = None
        self._before: list[Path] = []  # states older than the last
        # Best files that the last state does not name any more, and those that the one before it names.
        self._superseded: list[Path] = []
        self._needed_by_the_one_before: list[Path] = []

    def save(self, values: Mapping[str, float], *, position: Position) -> None:
        """Save what the held-out `values` of this epoch call for, and the state after it."""
        if is_main():
            with self._saved_weights():
                weights = self._weights()
                for label in self._lines:
                    self._save_if_among_the_best(label, values[label], position.epoch, weights)
        self.save_state(position)

    def save_state(self, position: Position, *, random: Mapping[str, Any] | None = None) -> Path:
        """Save all that the run goes on with; return where.

        Args:
            position: between two steps of the optimizer: gradients are not saved.
            random: the global random states, if others than those of now.

        Raises:
            RunFailed: it cannot be written; the states there are stay. Or a part holds what a file of plain
                values cannot.
        """
        path = self._folder / position.file_name
        randoms = all_say(random_state.capture() if random is None else dict(random))
        if not is_main():
            self._last = path
            return path
        with self._saved_weights():
            self._write(position.file_name, self._content(position, randoms))
        try:
            torch.load(path, weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            remove(path)
            raise RunFailed(f"The state of the run cannot be saved as plain values: {error}") from error
        older = [self._last] if self._last and self._last != path else []
        for superseded in {*self._before, *self._needed_by_the_one_before} - {path, *older}:
            _remove_weights(superseded)
        self._last, self._before = path, older
        self._needed_by_the_one_before, self._superseded = self._superseded, []
        return path

    def restore(self, path: Path | None = None) -> Position | None:
        """Put everything back as it was when a state was saved.

        Args:
            path: the state; None: the newest one that is intact. Those that are not are named in the log.

        Returns:
            How far the run had come then; None if there is no intact state, and nothing was changed.

        Raises:
            ProtocolError: the state is of another model, optimizer or data set, or holds what no run saves.
        """
        for candidate in [path] if path else main_says(lambda: _newest_first(self._folder)):
            content = _read(candidate)
            if content is None:
                logger.warning(
                    "The checkpoint %s is damaged or incomplete; the one before it is tried.", candidate
                )
                continue
            state = checked(content, candidate, self._state)
            try:
                self._load(content, state)
                self._may_go_on(candidate, state)
            except ProtocolError:
                raise
            except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                raise ProtocolError(
                    f"The checkpoint {candidate} does not fit what the protocol describes: {error}"
                ) from error
            wait_for_all()  # until they have read it, before anything beside it is removed
            if is_main():
                self._take_over(candidate, state.position)
            return state.position
        return None

    def finish(self) -> None:
        """Remove what only a run under way needs: the state before the last, best files it alone names."""
        for path in (*self._before, *self._needed_by_the_one_before, *self._superseded):
            _remove_weights(path)
        self._before, self._needed_by_the_one_before, self._superseded = [], [], []

    @property
    def best(self) -> tuple[Best, ...]:
        """The best epoch by each metric marked `is_checkpoint`, the earliest of equals."""
        return tuple(kept[0] for kept in self._kept.values() if kept)

    @property
    def found(self) -> list[Path]:
        """The states that are there, the newest first, whether they are intact or not."""
        return _newest_first(self._folder)

    @property
    def last(self) -> Path | None:
        """Where the last state is."""
        return self._last

    def _weights(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self._model.state_dict().items()}

    def _content(self, position: Position, randoms: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "position": asdict(position),
            "best": {
                label: [_entry(best).model_dump() for best in kept] for label, kept in self._kept.items()
            },
            "random": randoms[0],
            **({"random_of_other_processes": randoms[1:]} if randoms[1:] else {}),
            "model": self._weights(),
            **{name: part.state_dict() for name, part in self._state.items()},
        }

    def _load(self, content: Mapping[str, Any], state: StateContent) -> None:
        self._model.load_state_dict(content["model"])
        for name, part in self._state.items():
            part.load_state_dict(content[name])
            if isinstance(part, Optimizer):
                _lay_out_like_parameters(part)
                # A scheduler warns of its step if it saw none of the optimizer, which took them in the past.
                part._opt_called = True  # type: ignore[attr-defined]
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
        randoms = [content["random"], *content.get("random_of_other_processes", [])]
        random_state.reinstate(randoms[rank() if rank() < len(randoms) else 0])

    def _take_over(self, restored: Path, position: Position) -> None:
        """Go on from a state: what was written after it is removed, what it supersedes is noted."""
        states = _newest_first(self._folder)
        if restored not in states:  # of another folder, where nothing is ours to remove
            self._last, self._before = None, states
            return
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
                _remove_weights(path)
            else:
                self._needed_by_the_one_before.append(path)

    def _save_if_among_the_best(
        self, label: str, value: float, epoch: int, weights: Mapping[str, Any]
    ) -> None:
        kept = self._kept[label]
        place = sum(self._rank(label, one.value) >= self._rank(label, value) for one in kept)
        if place == BEST_KEPT:
            return
        path = self._write(f"best_{self._lines[label].file_name}_epoch-{epoch}_{value:.4f}.pt", weights)
        if all(isinstance(tensor, Tensor) for tensor in weights.values()):
            content = safetensors.torch.save(_unshared(weights))
            beside = path.with_suffix(".safetensors")
            with writing(beside):
                write_durably(beside, lambda file: file.write(content))
        kept.insert(place, Best(label=label, value=value, epoch=epoch, checkpoint=path))
        self._superseded += [best.checkpoint for best in kept[BEST_KEPT:] if best.checkpoint]
        del kept[BEST_KEPT:]

    def _rank(self, label: str, value: float) -> float:
        """The more the better; what is no number is the worst."""
        if math.isnan(value):
            return -math.inf
        return value if self._lines[label].best == "max" else -value

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / name
        with writing(path):
            write_durably(path, lambda file: torch.save(content, file))
        return path


def _newest_first(folder: Path) -> list[Path]:
    found = [(match, path) for path in folder.glob("last_*.pt") if (match := _STATE.fullmatch(path.name))]
    # A state without a step is that of a complete epoch.
    found.sort(key=lambda one: (int(one[0][1]), float(one[0][2] or math.inf)), reverse=True)
    return [path for _, path in found]


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a state; None unless it is intact."""
    if not is_intact(path):
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError):
        return None


def _entry(best: Best) -> BestEntry:
    file = best.checkpoint.name if best.checkpoint else None
    return BestEntry(value=best.value, epoch=best.epoch, file=file)


def _plain(value: Any) -> Any:
    """A tensor in its usual layout, whatever that of the model in memory."""
    return value.contiguous() if isinstance(value, Tensor) else value


def _unshared(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own: safetensors holds no ties."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}


def _remove_weights(path: Path) -> None:
    for each in (path, path.with_suffix(".safetensors")):
        remove(each)


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
