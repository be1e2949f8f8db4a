"""What the speed of AudioCLIP is measured by: the yardsticks of `--benchmark`, and what they are built of."""

from utils.benchmarks.bare_backbone import Backbone, BackboneOnNoise, BareBackbone, ClassNumbers
from utils.benchmarks.published_model import PublishedAudioCLIP
from utils.benchmarks.published_way import ContrastiveEveryBatch, OneAtATime, PublishedWay

__all__ = [
    "Backbone",
    "BackboneOnNoise",
    "BareBackbone",
    "ClassNumbers",
    "ContrastiveEveryBatch",
    "OneAtATime",
    "PublishedAudioCLIP",
    "PublishedWay",
]
