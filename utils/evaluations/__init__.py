"""What is measured besides a protocol's metrics: the research code behind its `Evaluations` section."""

from utils.evaluations.features import Features
from utils.evaluations.linear_probe import LinearProbe
from utils.evaluations.querying import Querying

__all__ = ["Features", "LinearProbe", "Querying"]
