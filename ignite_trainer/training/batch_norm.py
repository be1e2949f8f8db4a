"""Batch norm with the statistics of the global batch, for any number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ignite_trainer.support.distributed import gather_rows, sum_over_all, world_size


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace every batch norm in a model with one that uses the statistics of all processes in train mode.

    Names, parameters and buffers stay the same; with one process, results do not change. All processes must
    run each batch norm the same number of times in a step, or set `synchronised` to false for that step.
    """
    for module in model.modules():
        for name, child in module.named_children():
            kind = _SYNCHRONISED.get(type(child))
            if kind is not None:
                synchronised = kind.__new__(kind)
                synchronised.__dict__.update(child.__dict__)
                setattr(module, name, synchronised)


class SynchronisedBatchNorm(nn.Module):
    """Mixin for a batch norm that uses the statistics of all processes while `synchronised` is true.

    For a channel with n values in total, mean m and biased variance v = sum (x - m)^2 / n, the output is
    (x - m) / sqrt(v + eps), and the running variance is updated with v n / (n - 1), as in torch.
    """

    synchronised = True
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise `[B, C, ...]`."""
        alone = world_size() == 1 or not self.synchronised
        if alone or not self.training or not self.track_running_stats:
            normalised: Tensor = super().forward(input)
            return normalised
        assert self.num_batches_tracked is not None, "there are running statistics"
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        if input.is_cuda:
            output: Tensor = _OnCuda.apply(
                input, self.weight, self.bias, self.running_mean, self.running_var, self.eps, momentum
            )
            return output
        return self._normalise(input, momentum)

    def _normalise(self, x: Tensor, momentum: float) -> Tensor:
        """Normalise in plain torch operations, for devices without dedicated kernels."""
        over = [dimension for dimension in range(x.dim()) if dimension != 1]
        shape = [1, -1, *([1] * (x.dim() - 2))]
        count = sum_over_all(x.new_tensor([x.numel() / x.shape[1]]))
        mean = sum_over_all(x.sum(dim=over)) / count
        centred = x - mean.view(shape)
        variance = sum_over_all(centred.square().sum(dim=over)) / count
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
        output = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output


class _OnCuda(torch.autograd.Function):
    """Synchronised batch norm in torch's CUDA kernels.

    torch's own function also supports empty inputs, which makes the host wait for the device in every layer.
    That is unnecessary here: every process has at least one training sample.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        x = _contiguous(x)
        channels = x.shape[1]
        mean, scale = torch.batch_norm_stats(x, eps)  # [C] each, scale = 1 / sqrt(v + eps)
        own = torch.cat([mean, scale, mean.new_full((1,), x.numel() // channels)])
        means, scales, counts = gather_rows(own[None], [1] * world_size()).split(
            [channels, channels, 1], dim=1
        )
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x, means, scales, running_mean, running_var, momentum, eps, counts.flatten()
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        gradient = _contiguous(gradient)
        sums, products, by_weight, by_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, scale, weight, *ctx.needs_input_grad[:3]
        )
        by_x = None
        if ctx.needs_input_grad[0]:
            sums, products = sum_over_all(torch.stack([sums, products]))  # [C] each
            by_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, sums, products, counts)
        return by_x, by_weight, by_bias, None, None, None, None


def _contiguous(x: Tensor) -> Tensor:
    """Return `x` unchanged if it is channels last, otherwise make it contiguous."""
    formats = (torch.channels_last, torch.channels_last_3d)
    return x if any(x.is_contiguous(memory_format=layout) for layout in formats) else x.contiguous()


_SYNCHRONISED: dict[type[nn.Module], type[SynchronisedBatchNorm]] = {
    kind: type(f"Synchronised{kind.__name__}", (SynchronisedBatchNorm, kind), {})
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
}
