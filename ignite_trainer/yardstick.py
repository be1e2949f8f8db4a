"""The contract of a yardstick: another protocol, whose speed a benchmark compares with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Yardstick(ABC):
    """An entry of the protocol's `Yardsticks`: what else could be done on the same machine.

    It turns a protocol into the one to compare with: the same work done otherwise, or a part of it. A
    benchmark builds and steps both in the same way.
    """

    @abstractmethod
    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Return the protocol to compare with.

        Args:
            protocol: the one that is benchmarked, as JSON types with every default in place; not to be
                changed.

        Raises:
            ValueError: this protocol has nothing that the yardstick could be derived from.
        """
