"""Shares in per cent, rounded as on paper: a half goes up, while Python's formats round 81.25 to 81.2."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal


def percent(share: float, *, decimals: int = 1) -> str:
    """Write a share of 1 in per cent, without the sign; "nan" and "inf" stay so."""
    if not math.isfinite(share):
        return str(float(share))
    exact = 100 * Decimal(f"{share:.12f}")  # 0.2875 is slightly less as a float
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
