"""AudioCLIP's speed baseline for `--benchmark`, with its model, task and data set."""

from utils.benchmarks.bare_backbone import Backbone, BackboneOnNoise, BareBackbone, ClassNumbers

__all__ = ["Backbone", "BackboneOnNoise", "BareBackbone", "ClassNumbers"]
