"""Synchronised batch norm in CUDA kernels, against torch's batch norm in one process."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ignite_trainer.training.batch_norm import _OnCuda


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_one_process_gets_torchs_batch_norm_without_waiting_for_the_device(
    layout: torch.memory_format,
    affine: bool,
    watched_device: None,  # noqa: ARG001
) -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda")

    torch.manual_seed(0)
    x = (random(6, 32, 7, 5) * 3 + 1).to(memory_format=layout)
    gradient = random(6, 32, 7, 5).to(memory_format=layout)
    start = [random(32), random(32)] if affine else []
    results: list[list[Tensor]] = []
    for synchronised in (False, True):
        mean, variance = torch.zeros(32, device="cuda"), torch.ones(32, device="cuda")
        leaf = x.clone().requires_grad_()
        affinity = [each.clone().requires_grad_() for each in start]
        weight, bias = affinity or (None, None)
        if synchronised:
            torch.cuda.set_sync_debug_mode("error")
            output = _OnCuda.apply(leaf, weight, bias, mean, variance, 1e-5, 0.1)
        else:
            output = F.batch_norm(leaf, mean, variance, weight, bias, training=True, momentum=0.1, eps=1e-5)
        output.backward(gradient)
        torch.cuda.set_sync_debug_mode("default")
        grads = [each.grad for each in (leaf, *affinity) if each.grad is not None]
        assert len(grads) == 1 + len(affinity)
        results.append([output.detach(), *grads, mean, variance])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
