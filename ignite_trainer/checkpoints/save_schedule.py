"""When the state of a run is saved within an epoch, and when the run stops because a signal asks it to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ignite.engine import Engine, Events

from ignite_trainer.checkpoints.checkpoints import Checkpoints, Position
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import all_say, any_says, is_main, main_says
from ignite_trainer.support.errors import RunStopped
from ignite_trainer.support.signals import StopRequest


class Saver:
    """Saves every so many steps and minutes, always between two steps of the optimizer.

    A request to stop is met at the next such place, or after the next batch of an evaluation.
    """

    def __init__(self, checkpoints: Checkpoints, setup: Setup, request: StopRequest, *, folder: Path) -> None:
        """Save to `checkpoints`, of the run in `folder`."""
        self._checkpoints, self._setup, self._request, self._folder = checkpoints, setup, request, folder
        self._saved_at, self._saved = time.monotonic(), 0  # the iteration

    def attach(self, trainer: Engine, *, before_saving: Callable[[int, int], None]) -> None:
        """Look after every step; attach it last.

        `before_saving` is called with epoch and iteration, and raises where the state is not worth it.
        """
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: self._after_step(trainer, before_saving)
        )

    def note_saved(self, iteration: int) -> None:
        """A state was saved otherwise, or restored: the next one is due as long after it."""
        self._saved_at, self._saved = time.monotonic(), iteration

    def stop_if_asked(self) -> None:
        """Raise RunStopped if a signal has come, to any process."""
        if any_says(self._request.signal is not None)[0]:
            self._stop()

    def save(self, position: Position, *, random: Mapping[str, Any] | None = None) -> None:
        """Save the state, unless the last one is of this very place."""
        if position.iteration > self._saved:
            self._checkpoints.save_state(position, random=random)
            self.note_saved(position.iteration)

    def _after_step(self, trainer: Engine, before_saving: Callable[[int, int], None]) -> None:
        state, setup = trainer.state, self._setup
        batches = state.epoch_length or 1
        done = (state.iteration - 1) % batches + 1
        if done % setup.accumulate and done < batches:
            return  # gradients wait for more
        # Clocks differ: the main process's counts.
        asked, due, failed = any_says(
            self._request.signal is not None,
            is_main() and self._is_due(state.iteration),
            self._checkpoints.failed,
        )
        if failed:
            main_says(self._checkpoints.wait)
        if asked or due:
            before_saving(state.epoch, state.iteration)
            self.save(Position(epoch=state.epoch, iteration=state.iteration))
        if asked:
            self._stop()

    def _is_due(self, iteration: int) -> bool:
        steps, minutes = self._setup.save_every_steps, self._setup.save_every_minutes
        return bool(
            (steps and iteration - self._saved >= steps)
            or (minutes and time.monotonic() - self._saved_at >= 60 * minutes)
        )

    def _stop(self) -> NoReturn:
        main_says(self._checkpoints.wait)  # torchrun ends all processes soon after the first one exits
        raise RunStopped(next(filter(None, all_say(self._request.signal))), self._folder)
