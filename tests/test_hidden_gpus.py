"""Tests see no GPU unless they are selected with `-m gpu`."""

from __future__ import annotations

import os

import pytest
import torch

from tests.conftest import asks_for_gpu


@pytest.mark.parametrize(
    ("markers", "asked"),
    [("", False), ("not slow", False), ("not gpu", False), ("gpu", True), ("gpu and not slow", True)],
)
def test_the_gpu_marker_requests_gpus(markers: str, asked: bool) -> None:
    assert asks_for_gpu(markers) == asked


def test_gpus_are_hidden() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert torch.cuda.device_count() == 0
