"""Numbers, shares and durations as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

EPOCH_0 = (
    "Epoch 0 is before the first step. Where it is the best, no trained epoch was as good: its weights are "
    "those that training began with, and nothing was learned."
)


def readable(value: float) -> str:
    """Four decimals; none for a count, scientific where these would say nothing."""
    if value >= 2 and value.is_integer() and value < 1e5:
        return f"{value:.0f}"
    decimals = not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if decimals else f"{value:.3e}"


def remarks_on_best(epochs: Iterable[int]) -> list[str]:
    """Say what it means that one of the best epochs is 0; nothing if none is."""
    return [EPOCH_0] if 0 in epochs else []


def duration(seconds: float) -> str:
    """Say how long something took, such as "1 h 12 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def percent(share: float, *, decimals: int = 1) -> str:
    """Format a fraction as a percentage without the sign, rounding half up: 0.8125 gives "81.3".

    NaN and infinity are returned as they are.
    """
    if not math.isfinite(share):
        return str(float(share))
    exact = 100 * Decimal(f"{share:.12f}")  # 0.2875 is slightly less as a float
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
