"""Learned complex frequency B-spline wavelets and the penalty on their norms.

Guzhov et al., "ESResNe(X)t-fbsp: Learning Robust Time-Frequency Transformation of Audio" (arXiv 2104.11587).
spectrogram.py applies the bank to audio.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..recompute import CachedValue


class SplineWavelets(nn.Module):
    """A bank of complex B-spline wavelets, one per frequency bin, with learned order, bandwidth and centre.

    Initially (m = 0, fb = 1, fc = 0..K-1), row k equals a Fourier transform's row at the frequency
    `k * taps / (taps - 1)`, because the first and last taps lie at -pi and pi.

    Args:
        bins: number of wavelets K.
        taps: length of each wavelet, samples (`n_fft`).
        normalized: whether to divide the bank by sqrt(taps), so that rows initially have L2 norm 1.

    Attributes:
        m: spline order of each row, `[K]`.
        fb: bandwidth of each row, `[K]`, positive.
        fc: centre frequency of each row, `[K]`, bins.
        bias: empty buffer `[0]` for the entry of this name in the released checkpoints.
    """

    bias: Tensor

    def __init__(self, bins: int, taps: int, *, normalized: bool = True) -> None:
        super().__init__()
        self.taps = taps
        self.normalized = normalized
        self.m = nn.Parameter(torch.zeros(bins))
        self.fb = nn.Parameter(torch.ones(bins))
        self.fc = nn.Parameter(torch.arange(bins, dtype=torch.get_default_dtype()))
        self.register_buffer("bias", torch.empty(0))
        self._cached: CachedValue[Tensor] = CachedValue()

    def bank(self) -> Tensor:
        """Evaluate the wavelets at `taps` points t from -pi to pi.

            w(t) = sqrt(fb) * sinc(fb t / m) ** m * exp(-i fc t),   sinc(x) = sin(x) / x

        In eval mode without gradients the result is cached (see `CachedValue`), so do not modify it.

        Returns:
            `[2, K, taps]`, real and imaginary parts; float64 for a float64 module, otherwise float32.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._evaluate()
        return self._cached.get(self._evaluate, (self.m, self.fb, self.fc))

    def _evaluate(self) -> Tensor:
        dtype = torch.float64 if self.m.dtype == torch.float64 else torch.float32
        m, fb, fc = (parameter.to(dtype).unsqueeze(-1) for parameter in (self.m, self.fb, self.fc))  # [K, 1]
        time = math.pi * torch.linspace(-1.0, 1.0, self.taps, dtype=dtype, device=m.device) + 1e-8
        bank: Tensor = _Wavelets.apply(m, fb, fc, time, 1 / math.sqrt(self.taps) if self.normalized else 1.0)
        return bank

    def norm_penalty(self, bank: Tensor) -> Tensor:
        """Compute the mean squared deviation of the rows' L2 norms from the norm of a Fourier row.

        Args:
            bank: wavelets `[2, K, taps]` from `bank()`.

        Returns:
            Mean over k of `(||w_k||_2 - g) ** 2`, scalar, with g = 1 if normalized, otherwise sqrt(taps).
        """
        target = 1.0 if self.normalized else math.sqrt(self.taps)
        norms = torch.linalg.vector_norm(bank, dim=(0, 2))
        penalty: Tensor = (norms - target).square().mean()
        return penalty

    @torch.no_grad()
    def before_optimizer_step(self) -> None:
        """Divide each parameter's gradient by the gradient's largest absolute element plus 1e-8, in place.

        Call this once per optimizer step, after accumulation, all-reduce and unscaling of the gradients.
        """
        for parameter in (self.m, self.fb, self.fc):
            if parameter.grad is not None:
                parameter.grad /= parameter.grad.abs().amax() + 1e-8

    def train(self, mode: bool = True) -> "SplineWavelets":
        """Set the mode; a change drops the cached bank."""
        if mode != self.training:
            self._cached.drop()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Describe the bank in the module's printout."""
        return f"bins={self.m.numel()}, taps={self.taps}, normalized={self.normalized}"


class _Wavelets(torch.autograd.Function):
    """`gain * sqrt(fb) * s ** m * exp(-i fc t)` with `s = sinc(x)`, `x = fb t / m`, and its gradient.

    The gradients are sums over taps of a few products. Autograd would keep twenty arrays of the bank's size.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, fb: Tensor, fc: Tensor, time: Tensor, gain: float) -> Tensor:
        """Evaluate `[2, K, taps]` from m, fb, fc `[K, 1]` and time `[taps]`."""
        _, spline = _spline(m, fb, time)
        # The complex power s ** m of a real s, in polar form.
        modulus = spline.abs().pow_(m).mul_(gain * torch.sqrt(fb))
        phase = torch.where(spline < 0, math.pi * m, 0.0).sub_(fc * time)
        bank = phase.new_empty(2, *phase.shape)
        torch.mul(modulus, torch.cos(phase), out=bank[0])
        torch.mul(modulus, torch.sin(phase), out=bank[1])
        ctx.save_for_backward(m, fb, time, bank)
        return bank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Sum `Re(conj(g) dw/dp)` over taps for p = m, fb, fc, where w is the bank and g its gradient.

        dw = w d(log w), and log w = log(fb) / 2 + m (log|s| + i pi [s < 0]) - i fc t + const.
        """
        m, fb, time, (real, imaginary) = ctx.saved_tensors
        along = torch.addcmul(gradient[0] * real, gradient[1], imaginary)  # Re(conj(g) w)
        across = torch.addcmul(gradient[1] * real, gradient[0], imaginary, value=-1)  # Re(conj(g) i w)
        x, spline = _spline(m, fb, time)
        # d log|s| / d log x = x / tan(x) - 1, where d log x is d fb / fb or -d m / m
        by_log_x = m * (torch.cos(x).div_(spline).sub_(1.0).mul_(along)).sum(-1, keepdim=True)
        by_fb = (0.5 * along.sum(-1, keepdim=True) + by_log_x) / fb
        by_fc = -(across @ time.unsqueeze(-1))
        power = along.mul_(spline.abs().log_()).add_(across.mul_(spline < 0), alpha=math.pi)
        by_m = power.sum(-1, keepdim=True) - by_log_x / (m + 1e-8)
        return by_m, by_fb, by_fc, None, None


def _spline(m: Tensor, fb: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `x = fb t / m` and `sin(x) / x`, each `[K, taps]`."""
    x = fb * time / (m + 1e-8)
    x.masked_fill_(x == 0, torch.finfo(x.dtype).tiny)  # the quotient is then 1, the limit at 0
    return x, torch.sin(x).div_(x)
