"""Errors for steps that run out of memory, with a batch size that fits and keeps the samples per step."""

from __future__ import annotations

from collections.abc import Callable

from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.errors import RunFailed, first_line
from ignite_trainer.support.memory import is_out_of_memory


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int | None:
    """Return the first of size / 2, size / 4 ... for which `attempt` succeeds.

    Return None if no size succeeds, or if `attempt` fails for a reason other than memory.
    """
    while size := size // 2:
        try:
            attempt(size)
        except Exception as error:  # for example, a layer may need more samples
            if not is_out_of_memory(error):
                return None
        else:
            return size
    return None


def training_failed(reason: str, setup: Setup, *, fits: int | None, embeds: bool = False) -> RunFailed:
    """Make the error of a training step that needs too much memory, with sizes to try.

    Args:
        reason: torch's error message.
        setup: `Setup` section with the sizes that were too large.
        fits: number of samples that fit in memory, if known.
        embeds: whether a batch can be embedded in parts.
    """
    at_once = setup.chunk if embeds and setup.chunk and setup.embeds_in_parts else setup.batch_train
    smaller = fits or at_once // 2
    found = f"A batch of {smaller} fits; use" if fits else "Try"
    if at_once == 1:
        advice = 'One sample is the minimum: use a smaller model, or Setup.precision "bf16", in a new run.'
    elif embeds:
        advice = (
            f"{found} --Setup.chunk {smaller}, which embeds that many samples at a time and compares all "
            f'{setup.batch_train}, or Setup.precision "bf16"; either in a new run.'
        )
    else:
        batch, accumulate = _equal_step(setup.batch_train * setup.accumulate, smaller)
        advice = (
            f"{found} -b {batch} --Setup.accumulate {accumulate}, which keeps the samples per step, "
            'or Setup.precision "bf16"; either in a new run.'
        )
    parts = f", {at_once} at a time," if at_once < setup.batch_train else ""
    return RunFailed(
        f"Not enough memory for a training step of {setup.batch_train} samples{parts} "
        f"({first_line(reason)}). {advice} The results of finished epochs are kept."
    )


def evaluation_failed(reason: str, setup: Setup) -> RunFailed:
    """Make the error of an evaluation step that needs too much memory."""
    size = setup.batch_test or setup.batch_train
    return RunFailed(
        f"Not enough memory for an evaluation step of {size} samples ({first_line(reason)}). Lower "
        f"Setup.batch_test, for example with -B {max(size // 2, 1)}; --resume accepts that, as results do "
        "not depend on it. The results of finished epochs are kept."
    )


def _equal_step(total: int, largest: int) -> tuple[int, int]:
    """Return the largest batch size up to `largest` that divides `total`, and the number of batches."""
    batch = next((size for size in range(largest, 0, -1) if total % size == 0), 1)
    return batch, total // batch
