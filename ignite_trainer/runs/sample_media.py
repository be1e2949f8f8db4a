"""What a run can show of its samples and its model: its task makes the pictures, this says of what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch

from ignite_trainer.api.media import Exhibit, Gallery, Portrait
from ignite_trainer.api.self_description import record, sample_name
from ignite_trainer.data.loader import SplitLoader
from ignite_trainer.runs.assembly import Parts

logger = logging.getLogger(__name__)


class RunGallery(Gallery):
    """What the task of a run shows. What cannot be shown is left out, with a warning that says why.

    Nothing random moves, and the model stays as it is.
    """

    def __init__(self, parts: Parts, *, epochs: int) -> None:
        self._parts, self._epochs = parts, epochs

    def model(self) -> Sequence[Exhibit]:
        """Show the weights that are evaluated and saved."""
        task, model = self._parts.task, self._parts.model
        return self._shown("The model", lambda: task.portray_model(model))

    def held_out(self, positions: Sequence[int]) -> Sequence[Portrait]:
        """Show samples of the held-out split as an evaluation sees them; those that can be shown."""
        loader = self._parts.evaluation["test"]
        portraits = [self._portrait(loader, position, transformed=True) for position in positions]
        return [portrait for portrait in portraits if portrait.exhibits]

    def augmented(self, count: int) -> Sequence[tuple[Portrait, Portrait]]:
        """Show the first samples of the training split, as they are and as they are in the first epoch."""
        loader = self._parts.training
        pairs = []
        for position in range(min(count, self._parts.sizes["train"]) if self._epochs else 0):
            before, after = (self._portrait(loader, position, transformed=it) for it in (False, True))
            if before.exhibits and after.exhibits:
                pairs.append((before, after))
        return pairs

    def _portrait(self, loader: SplitLoader, position: int, *, transformed: bool) -> Portrait:
        task, model = self._parts.task, self._parts.model

        def show() -> Sequence[Exhibit]:
            return task.portray_sample(model, loader.one(position, epoch=1, transformed=transformed))

        dataset = loader.dataset
        return Portrait(
            record=record(dataset, position), exhibits=self._shown(sample_name(dataset, position), show)
        )

    def _shown(self, what: str, show: Callable[[], Sequence[Exhibit]]) -> Sequence[Exhibit]:
        try:
            with torch.inference_mode(), self._parts.evaluated_weights():
                return show()
        except Exception as error:  # a picture is no reason to lose a report, or a run
            logger.warning("%s cannot be shown (%s: %s).", what, type(error).__name__, error, exc_info=True)
            return ()
