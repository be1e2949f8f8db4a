"""Formats shares in per cent, rounding half up: 81.25 becomes 81.3, where Python's formats give 81.2."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal


def percent(share: float, *, decimals: int = 1) -> str:
    """Format a share of 1 in per cent, without the sign; NaN and infinity stay as they are."""
    if not math.isfinite(share):
        return str(float(share))
    exact = 100 * Decimal(f"{share:.12f}")  # 0.2875 is slightly less as a float
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
