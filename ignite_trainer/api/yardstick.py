"""The interface of yardsticks: protocols whose speed a benchmark compares with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Yardstick(ABC):
    """An entry of a protocol's `Yardsticks`.

    It derives a protocol that does the same work in another way, or a part of it, to compare speeds.
    """

    @abstractmethod
    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protocol to compare with.

        Args:
            protocol: the benchmarked protocol as JSON types, with every default in place; do not change it.

        Raises:
            ValueError: no yardstick can be derived from this protocol.
        """
