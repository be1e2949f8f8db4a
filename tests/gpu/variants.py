"""Times alternative implementations of the slowest parts of a training step on this device.

    python tests/gpu/variants.py --json variants.json

The parts belong to the audio tower in bfloat16: the grouped convolutions, the first convolution, the wavelet
product and the gates, for 64 clips of 5 s. A variant is worth using if it is faster by more than the spread
of two timings, and as exact; the error is that of the forward pass against float64.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).parents[2]))

from model.esresnet.attention import max_pool_to, shifted_sums
from model.esresnet.spectrogram import convolve_in_parts

SECONDS = 0.15
"""Duration of each timing."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes of the parts: full, or miniature to test that all variants run."""

    batch: int = 64
    height: int = 341
    frames: int = 392
    window: int = 1654
    compile: bool = True
    seconds: float = SECONDS


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A variant of a part: median milliseconds, and the relative error of the forward pass."""

    part: str
    variant: str
    forward_ms: float
    both_ms: float | None
    error: float


Part = Callable[[Tensor, Tensor], Tensor]
"""A variant: maps activations and weights, both leaf tensors, to its output."""


def measure(
    part: str, variant: str, compute: Part, x: Tensor, weight: Tensor, *, exact: Tensor, size: Size
) -> Timing:
    """Time a variant's forward pass, and forward and backward if `x` or `weight` needs a gradient."""
    with torch.no_grad():
        output = compute(x, weight)
        error = float((output.double() - exact).norm() / exact.norm())
        forward = _milliseconds(lambda: compute(x, weight), size)
    both = None
    if x.requires_grad or weight.requires_grad:
        gradient = torch.randn_like(output)
        leaves = [leaf for leaf in (x, weight) if leaf.requires_grad]
        both = _milliseconds(lambda: torch.autograd.grad(compute(x, weight), leaves, gradient), size)
    return Timing(part=part, variant=variant, forward_ms=forward, both_ms=both, error=error)


def _milliseconds(run: Callable[[], object], size: Size) -> float:
    run()
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=size.seconds).median


def grouped_convolutions(size: Size, device: torch.device) -> Iterator[Timing]:
    """Time the 3x3 convolutions with 32 groups; each stage has one with stride 1 or 2, and others."""
    height, width = _halved(size.height, 2), _halved(size.frames, 2)
    for stage in range(1, 5):
        channels = 64 * 2**stage
        x = _activations(size.batch, channels, height, width, device)
        weight = _weights(channels, channels // 32, (3, 3), device)
        exact = F.conv2d(x.double(), weight.double(), padding=1, groups=32)
        blocks = [block for block in (64, 128) if block > channels // 32]
        variants: dict[str, Part] = {
            "channels last": lambda x, w: F.conv2d(x, w, padding=1, groups=32),
            "contiguous": lambda x, w: F.conv2d(x.contiguous(), w, padding=1, groups=32),
            "float16": lambda x, w: F.conv2d(x.half(), w.half(), padding=1, groups=32).bfloat16(),
            **{f"blocks of {block}": _in_blocks(block) for block in blocks},
            "dense": _in_blocks(channels),
        }
        part = f"grouped convolution, stage {stage}: {channels} channels, {height}x{width}"
        for name, compute in variants.items():
            leaf, leaf_weight = _leaf(x), _leaf(weight)
            yield measure(part, name, compute, leaf, leaf_weight, exact=exact, size=size)
            if name in ("channels last", "blocks of 64", "dense"):
                with _cudnn_benchmark():
                    named = f"{name}, cudnn.benchmark"
                    yield measure(part, named, compute, leaf, leaf_weight, exact=exact, size=size)
        height, width = _halved(height), _halved(width)


def _in_blocks(block: int) -> Part:
    """Convolve in groups of `block` channels, with zero weights between different groups of the network."""

    def compute(x: Tensor, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape[:2]
        several = block // inputs
        own = torch.eye(several, device=weight.device, dtype=weight.dtype)[:, None, :, None, None, None]
        packed = weight.view(-1, several, inputs, 1, inputs, 3, 3) * own  # [blocks, s, out, s, in, 3, 3]
        packed = packed.reshape(outputs, block, 3, 3).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, packed, padding=1, groups=outputs // block)

    return compute


def first_convolution(size: Size, device: torch.device) -> Iterator[Timing]:
    """Time 7x7 over the decibel image, whose steps would be 0.5 dB in bfloat16."""
    shape = (size.batch, 3, size.height, size.frames)
    image = (20.0 * torch.randn(shape, device=device) - 60.0).contiguous(memory_format=torch.channels_last)
    weight = _weights(64, 3, (7, 7), device).float()
    exact = F.conv2d(image.double(), weight.double(), stride=2, padding=3)

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, stride=2, padding=3)

    def tf32(x: Tensor, w: Tensor) -> Tensor:
        with _cudnn_tf32():
            return plain(x, w)

    convolution = torch.nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False).to(device)

    def two_halves(x: Tensor, w: Tensor) -> Tensor:
        found: Tensor = functional_call(_InHalves(convolution), {"convolution.weight": w}, (x,))
        return found

    def bfloat16(x: Tensor, w: Tensor) -> Tensor:
        return plain(x.bfloat16(), w.bfloat16())

    variants = {"float32": plain, "tf32": tf32, "two bfloat16 halves": two_halves, "bfloat16": bfloat16}
    for name, compute in variants.items():
        yield measure("first convolution", name, compute, _leaf(image), _leaf(weight), exact=exact, size=size)
        with _cudnn_benchmark():
            yield measure(
                "first convolution",
                f"{name}, cudnn.benchmark",
                compute,
                _leaf(image),
                _leaf(weight),
                exact=exact,
                size=size,
            )


class _InHalves(torch.nn.Module):
    """The network's implementation, with replaceable weights."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return convolve_in_parts(x, self.convolution, torch.bfloat16)


def wavelet_product(size: Size, device: torch.device) -> Iterator[Timing]:
    """Time frames times wavelets, which must be as exact as float32; the gradient is that of the wavelets."""
    rows, bins = size.batch * size.frames, 3 * size.height
    frames = torch.randn(rows, size.window, device=device)
    kernels = torch.randn(2 * bins, size.window, device=device)
    exact = frames.double() @ kernels.double().T

    def aligned(x: Tensor, w: Tensor) -> Tensor:
        extra = -x.shape[1] % 64
        return F.linear(F.pad(x, (0, extra)), F.pad(w, (0, extra)))

    def tf32(x: Tensor, w: Tensor) -> Tensor:
        with _matmul_tf32():
            return F.linear(x, w)

    def three_tf32(x: Tensor, w: Tensor) -> Tensor:
        x_high, w_high = _rounded(x), _rounded(w)
        with _matmul_tf32():
            small = F.linear(x - x_high, w_high) + F.linear(x_high, w - w_high)
            return small + F.linear(x_high, w_high)

    variants: dict[str, Part] = {
        "float32": F.linear,
        "float32, aligned": aligned,
        "tf32": tf32,
        "three tf32": three_tf32,
    }
    for name, compute in variants.items():
        yield measure("wavelet product", name, compute, frames, _leaf(kernels), exact=exact, size=size)
    if device.type == "cuda":  # other devices have no bfloat16 product with a float32 result
        for parts, name in ((3, "six bfloat16"), (2, "three bfloat16")):
            compute = _of_bfloat16(parts)
            yield measure("wavelet product", name, compute, frames, kernels, exact=exact, size=size)
    gradient = torch.randn(rows, 2 * bins, device=device)
    exact = gradient.double().T @ frames.double()
    backward: dict[str, Part] = {
        "float32": lambda g, x: g.T @ x,
        "tf32": lambda g, x: tf32(g.T, x.T),
    }
    for name, compute in backward.items():
        yield measure("gradient of wavelets", name, compute, gradient, frames, exact=exact, size=size)


def _of_bfloat16(parts: int) -> Part:
    """Split both factors into bfloat16 parts, and multiply all pairs that matter as one long product."""

    def split(x: Tensor) -> list[Tensor]:
        found = []
        for _ in range(parts):
            found.append(x.bfloat16())
            x = x - found[-1]
        return found

    def compute(x: Tensor, w: Tensor) -> Tensor:
        extra = -x.shape[1] % 64
        xs, ws = split(F.pad(x, (0, extra))), split(F.pad(w, (0, extra)))
        # Small products first, so that adding them to large ones does not round them away.
        pairs = sorted(((i, j) for i in range(parts) for j in range(parts - i)), key=lambda pair: -sum(pair))
        left = torch.cat([xs[i] for i, _ in pairs], dim=1)
        right = torch.cat([ws[j] for _, j in pairs], dim=1)
        product: Tensor = torch.mm(left, right.T, out_dtype=torch.float32)
        return product

    return compute


def gates(size: Size, device: torch.device) -> Iterator[Timing]:
    """Time the pooling of a gate, and its depthwise convolution."""
    height, width = _halved(size.height, 2), _halved(size.frames, 2)
    for number, kernel in ((2, (1, 5)), (3, (3, 1)), (4, (1, 5))):
        channels = 128 * 2 ** (number - 1)
        to = (_halved(height), _halved(width))
        x = _activations(size.batch, channels, height, width, device)
        exact = F.adaptive_max_pool2d(x.double(), to)
        nothing = torch.zeros((), device=device)
        part = f"gate {number}: pooling of {channels} channels, {height}x{width}"
        pools: dict[str, Part] = {
            "adaptive_max_pool2d": lambda x, _, to=to: F.adaptive_max_pool2d(x, to),  # type: ignore[misc]
            "max_pool2d": lambda x, _, to=to: max_pool_to(x, to),  # type: ignore[misc]
        }
        for name, compute in pools.items():
            yield measure(part, name, compute, _leaf(x), nothing, exact=exact, size=size)
        height, width = to
        x = _activations(size.batch, channels, height, width, device)
        weight = _weights(channels, 1, kernel, device).float()
        exact = F.conv2d(x.double(), weight.double(), padding="same", groups=channels)
        part = f"gate {number}: depthwise {kernel[0]}x{kernel[1]} of {channels} channels, {height}x{width}"
        convolutions: dict[str, Part] = {
            "channels last": lambda x, w: F.conv2d(x, w.bfloat16(), padding="same", groups=len(w)),
            "contiguous": lambda x, w: F.conv2d(
                x.contiguous(), w.bfloat16(), padding="same", groups=len(w)
            ).contiguous(memory_format=torch.channels_last),
            "shifted sums": shifted_sums,
        }
        if size.compile:
            convolutions["shifted sums, compiled"] = torch.compile(shifted_sums, dynamic=False)
        for name, compute in convolutions.items():
            yield measure(part, name, compute, _leaf(x), _leaf(weight), exact=exact, size=size)


def _halved(length: int, times: int = 1) -> int:
    for _ in range(times):
        length = (length + 1) // 2
    return length


def _activations(*shape_and_device: Any) -> Tensor:
    *shape, device = shape_and_device
    x = torch.randn(shape, device=device, dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)


def _weights(outputs: int, inputs: int, kernel: tuple[int, int], device: torch.device) -> Tensor:
    weight = torch.randn(outputs, inputs, *kernel, device=device, dtype=torch.bfloat16)
    scale = math.sqrt(inputs * kernel[0] * kernel[1])
    return weight.contiguous(memory_format=torch.channels_last) / scale


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _rounded(x: Tensor) -> Tensor:
    """Round float32 to TensorFloat-32's 10 bits."""
    rounded: Tensor = (x.view(torch.int32) + 0x1000) & ~0x1FFF
    return rounded.view(torch.float32)


@contextmanager
def _cudnn_benchmark() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        yield


@contextmanager
def _cudnn_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def _matmul_tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def main() -> None:
    """Print the table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, nothing compiled")
    arguments = parser.parse_args()
    size = Size()
    if arguments.rehearse:
        size = Size(batch=2, height=33, frames=40, window=50, compile=False, seconds=1e-3)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    found: list[Timing] = []
    part = ""
    for part_of_step in (grouped_convolutions, first_convolution, wavelet_product, gates):
        for timing in part_of_step(size, device):
            if timing.part != part:
                part = timing.part
                print(f"\n{part}\n  {'forward':>9} {'and back':>9}     error", flush=True)
            both = "" if timing.both_ms is None else f"{timing.both_ms:9.3f}"
            print(f"  {timing.forward_ms:9.3f} {both:>9} {timing.error:9.1e}  {timing.variant}", flush=True)
            found.append(timing)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if arguments.json:
        name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        content = {"device": name, "torch": torch.__version__, "timings": [asdict(one) for one in found]}
        arguments.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
