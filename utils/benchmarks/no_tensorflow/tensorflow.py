"""Stands in for TensorFlow when hearvalidator and heareval evaluate a torch model.

Both import TensorFlow to recognise its models, and heareval ends if torch sees a GPU that TensorFlow does not
see. The folder is meant for PYTHONPATH, for their commands only.
"""

from __future__ import annotations


class Module:
    """Base class of TensorFlow's models."""


class test:
    """Stand-in for `tensorflow.test`, which heareval asks about GPUs."""

    @staticmethod
    def is_gpu_available(*, cuda_only: bool, min_cuda_compute_capability: object) -> bool:  # noqa: ARG004
        """Return True, so that torch may use its GPU."""
        return True
