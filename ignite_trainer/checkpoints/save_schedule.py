"""Saves states within an epoch, and stops the run when a signal requests it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ignite.engine import Engine, Events

from ignite_trainer.checkpoints.checkpoints import Checkpoints
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import all_gather, any_process, is_main, run_on_main
from ignite_trainer.support.errors import RunStopped
from ignite_trainer.support.signals import StopRequest


class Saver:
    """Saves states at intervals of steps or minutes, always between two optimizer steps.

    A request to stop takes effect at the next such point, or after the next batch of an evaluation.
    """

    def __init__(self, checkpoints: Checkpoints, setup: Setup, request: StopRequest, *, folder: Path) -> None:
        """Save to `checkpoints`; `folder` is the run's folder, for messages."""
        self._checkpoints = checkpoints
        self._setup = setup
        self._request = request
        self._folder = folder
        self.note_saved(0)

    def attach(self, trainer: Engine, *, before_saving: Callable[[int, int], None]) -> None:
        """Check after every step whether to save; attach all other handlers first.

        `before_saving(epoch, iteration)` may raise an error if the state is not worth saving.
        """
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_step, before_saving)

    def note_saved(self, iteration: int) -> None:
        """Restart the intervals after a state was saved or restored."""
        self._saved_at = time.monotonic()
        self._saved = iteration

    def stop_if_asked(self) -> None:
        """Raise RunStopped if any process has received a signal."""
        if any_process(self._request.signal is not None)[0]:
            self._stop()

    def save(self, position: Position, *, random: Mapping[str, Any] | None = None) -> None:
        """Save the state, unless the last state has the same position."""
        if position.iteration > self._saved:
            self._checkpoints.save_state(position, random_states=random)
            self.note_saved(position.iteration)

    def _after_step(self, trainer: Engine, before_saving: Callable[[int, int], None]) -> None:
        state, setup = trainer.state, self._setup
        batches = state.epoch_length or 1
        done = (state.iteration - 1) % batches + 1
        if done % setup.accumulate and done < batches:
            return  # gradients are still accumulating
        # Clocks differ between processes; the main process's clock decides.
        stop, due, failed = any_process(
            self._request.signal is not None,
            is_main() and self._is_due(state.iteration),
            self._checkpoints.failed,
        )
        if failed:
            run_on_main(self._checkpoints.wait)
        if stop or due:
            before_saving(state.epoch, state.iteration)
            self.save(Position(epoch=state.epoch, iteration=state.iteration))
        if stop:
            self._stop()

    def _is_due(self, iteration: int) -> bool:
        steps, minutes = self._setup.save_every_steps, self._setup.save_every_minutes
        return bool(
            (steps and iteration - self._saved >= steps)
            or (minutes and time.monotonic() - self._saved_at >= 60 * minutes)
        )

    def _stop(self) -> NoReturn:
        run_on_main(self._checkpoints.wait)  # torchrun ends all processes soon after the first one exits
        raise RunStopped(next(filter(None, all_gather(self._request.signal))), self._folder)
