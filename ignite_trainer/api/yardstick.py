"""Interface for speed baselines: protocols that a benchmark compares with a protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Yardstick(ABC):
    """A speed baseline, an entry in a protocol's `Yardsticks`.

    It derives a second protocol, which does the same work in another way, or only part of the work, so that
    the speeds of both can be compared.
    """

    @abstractmethod
    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return the baseline's protocol.

        Args:
            protocol: benchmarked protocol as JSON types, with all defaults filled in; do not modify it.

        Raises:
            ValueError: No baseline can be derived from this protocol.
        """
