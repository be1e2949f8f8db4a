"""Errors for steps that run out of memory, with advice that keeps the number of samples per step."""

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
        except Exception as error:  # such as batch norm's, which refuses single samples
            if not is_out_of_memory(error):
                return None
        else:
            return size
    return None


def training_memory_error(
    reason: str, setup: Setup, *, fits: int | None, can_chunk: bool = False
) -> RunFailed:
    """Return the error for a training step that ran out of memory, with sizes to try.

    Args:
        reason: torch's error message.
        setup: `Setup` section with the sizes that were too large.
        fits: number of samples that fit in memory, if known.
        can_chunk: whether the task can embed a batch in chunks.
    """
    at_once = setup.chunk if can_chunk and setup.chunk and setup.embeds_in_parts else setup.batch_train
    smaller = fits or at_once // 2
    known = f" (A batch of {fits} fits.)" if fits else ""
    if at_once == 1:
        advice = (
            "The batch is already a single sample; start a new run with a smaller model or "
            "--Setup.precision bf16."
        )
    elif can_chunk:
        advice = (
            f"Start a new run with --Setup.chunk {smaller}, which embeds {smaller} samples at a time and "
            f"still compares all {setup.batch_train}, or with --Setup.precision bf16.{known}"
        )
    else:
        total = setup.batch_train * setup.accumulate
        batch, accumulate = _equal_step(total, smaller)
        advice = (
            f"Start a new run with -b {batch} --Setup.accumulate {accumulate}, which keeps {total} samples "
            f"per step, or with --Setup.precision bf16.{known}"
        )
    parts = f", {at_once} at a time," if at_once < setup.batch_train else ""
    return RunFailed(
        f"Not enough memory for a training step of {setup.batch_train} samples{parts} "
        f"({first_line(reason)}). {advice} The results of finished epochs are kept."
    )


def evaluation_memory_error(reason: str, setup: Setup) -> RunFailed:
    """Return the error for an evaluation step that ran out of memory, with a size to try."""
    size = setup.batch_test or setup.batch_train
    return RunFailed(
        f"Not enough memory for an evaluation step of {size} samples ({first_line(reason)}). Lower "
        f"Setup.batch_test, for example with -B {max(size // 2, 1)}; you can change it and --resume, because "
        "it does not affect the results. The results of finished epochs are kept."
    )


def _equal_step(total: int, largest: int) -> tuple[int, int]:
    """Return the largest batch size up to `largest` that divides `total`, and the number of batches."""
    batch = next((size for size in range(largest, 0, -1) if total % size == 0), 1)
    return batch, total // batch
