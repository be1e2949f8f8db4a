"""Training objectives, for a protocol's `Task` section."""

from utils.tasks.classification import Classification
from utils.tasks.contrastive import AudioTextContrastive
from utils.tasks.three_modalities import Contrastive

__all__ = ["AudioTextContrastive", "Classification", "Contrastive"]
