"""How numbers and times read, at the terminal and in the report."""

from __future__ import annotations

import math


def readable(value: float) -> str:
    """Four decimals; none for a count, scientific where these would say nothing."""
    if value >= 2 and value.is_integer() and value < 1e5:
        return f"{value:.0f}"
    decimals = not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if decimals else f"{value:.3e}"


def duration(seconds: float) -> str:
    """Say how long something took, such as "1 h 12 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
