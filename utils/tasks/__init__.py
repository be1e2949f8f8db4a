"""What models are trained for: the research code behind a protocol's `Task` section."""

from utils.tasks.classification import Classification
from utils.tasks.contrastive import AudioTextContrastive

__all__ = ["AudioTextContrastive", "Classification"]
