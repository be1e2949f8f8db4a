"""AudioCLIP's speed baseline for `--benchmark`, with its model, task and data set.

The other modules make AudioCLIP a model of mteb, HEAR and X-ARES, whose packages import them.
"""

from utils.benchmarks.bare_backbone import Backbone, BackboneOnNoise, BareBackbone, ClassNumbers

__all__ = ["Backbone", "BackboneOnNoise", "BareBackbone", "ClassNumbers"]
