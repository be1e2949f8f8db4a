"""Evaluations in addition to metrics, for a protocol's `Evaluations` section."""

from utils.evaluations.features import Features
from utils.evaluations.linear_probe import LinearProbe
from utils.evaluations.querying import Querying

__all__ = ["Features", "LinearProbe", "Querying"]
