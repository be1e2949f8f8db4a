"""Convolutions fused with what follows them, against the layers one after the other."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from model.esresnet import ESResNeXt
from model.esresnet.attention import Gate
from model.esresnet.folding import folded
from model.esresnet.fusing import FusedBottleneck, FusedGate, can_fuse, fuse
from model.esresnet.inference import computing_dtype, inference_copy

CPU = torch.device("cpu")
HALVES = [dtype for dtype in (torch.bfloat16, torch.float16) if can_fuse(CPU, dtype)]

pytestmark = [
    pytest.mark.skipif(not can_fuse(CPU, torch.float32), reason="torch was built without oneDNN"),
    pytest.mark.filterwarnings("error"),
]


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )


Network = TypeVar("Network", bound=nn.Module)


def moved(module: Network) -> Network:
    """Give batch norms something to do."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert tensor is not None
                tensor.detach().add_(0.3 * torch.rand_like(tensor))
    return module.eval()


def downsampling(stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(32, 64, 1, stride, bias=False), nn.BatchNorm2d(64))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 4), (14, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.inference_mode()
def test_a_fused_block_is_its_layers_one_after_the_other(size: tuple[int, int], stride: int) -> None:
    block = moved(Bottleneck(32, 16, stride, downsampling(stride), groups=4, base_width=64))
    x = images(2, 32, *size)
    before, expected = x.clone(), block(x)
    torch.testing.assert_close(FusedBottleneck(folded(block))(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)  # which the stage's gate looks at, too


@torch.inference_mode()
def test_a_block_without_downsampling_writes_where_its_input_was() -> None:
    block = moved(Bottleneck(64, 16, groups=4, base_width=64))
    x = images(2, 64, 6, 5)
    expected = block(x.clone())
    result = FusedBottleneck(folded(block))(x)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert result.data_ptr() == x.data_ptr()
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel_size", [(3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("size", [(1, 1), (7, 6), (3, 3)])
@torch.inference_mode()
def test_a_fused_gate_is_its_layers_one_after_the_other(
    kernel_size: tuple[int, int], size: tuple[int, int]
) -> None:
    gate = moved(Gate(8, 24, kernel_size=kernel_size))
    x, output = images(2, 8, 7, 6), images(2, 24, *size)
    logits = gate.bn(gate.conv_point(gate.conv_depth(F.adaptive_max_pool2d(x, size))))
    expected = output * torch.sigmoid(logits)
    torch.testing.assert_close(FusedGate(folded(gate))(x, output.clone()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("arguments", [{}, {"apply_attention": False}, {"spec_height": 32, "spec_width": 32}])
@torch.no_grad()
def test_a_fused_tower_rounds_no_worse_than_its_layers(
    arguments: dict[str, Any], dtype: torch.dtype, clips: Callable[..., Tensor]
) -> None:
    module = moved(ESResNeXt(num_classes=7, n_fft=256, hop_length=100, win_length=200, **arguments))
    audio = clips(2, channels=2, samples=5100)
    exact = copy.deepcopy(module).double()(audio)

    def error(features: Tensor) -> float:
        return float((features.double() - exact).norm() / exact.norm())

    def features() -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            result: Tensor = module(audio)
        return result

    fused = features()
    kept = module._folded._value
    assert kept is not None
    assert isinstance(kept.get_submodule("layer1.0"), FusedBottleneck)
    again = features()
    assert torch.equal(fused, again)  # nothing that is kept was written
    hook = module.get_submodule("layer1").register_forward_hook(lambda *_: None)
    plain = features()  # as hooks want to see it
    hook.remove()
    assert error(fused) < max(1.5 * error(plain), 1e-5)


@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_what_is_kept_for_one_precision_is_not_used_for_another(
    dtype: torch.dtype, clips: Callable[..., Tensor]
) -> None:
    module = moved(ESResNeXt(num_classes=7, n_fft=256, hop_length=100, win_length=200))
    audio = clips(2)
    full = module(audio)
    with torch.autocast("cpu", dtype=dtype):
        assert computing_dtype(audio) == dtype
        half = module(audio)
    assert half.dtype == dtype
    assert computing_dtype(audio) == torch.float32
    assert torch.equal(module(audio), full)


@torch.no_grad()
def test_inference_weights_are_cast_once_but_for_the_first_convolution() -> None:
    module = ESResNeXt(num_classes=7, n_fft=256, hop_length=100, win_length=200).eval()
    module._modules.pop("fbsp")
    copied = inference_copy(module, torch.bfloat16)
    kinds = {name.split(".")[0]: weight.dtype for name, weight in copied.named_parameters()}
    assert kinds.pop("conv1") == torch.float32  # decibels in bfloat16 have steps of 0.5 dB
    assert set(kinds.values()) == {torch.bfloat16}
    assert module.get_parameter("layer1.0.conv1.weight").dtype == torch.float32


def test_what_onednn_does_not_compute_is_not_fused() -> None:
    assert not can_fuse(CPU, torch.float64)
    assert not can_fuse(torch.device("meta"), torch.float32)
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert not can_fuse(CPU, torch.float32)


def test_only_blocks_and_gates_are_replaced_wherever_they_are() -> None:
    block, gate = Bottleneck(64, 16), Gate(4, 8, kernel_size=(3, 1))
    network = nn.ModuleDict({"stage": nn.Sequential(block, nn.ReLU()), "gate": gate, "head": nn.Linear(2, 2)})
    fuse(network)
    kinds = [type(module) for module in (*network["stage"], network["gate"], network["head"])]  # type: ignore[misc]
    assert kinds == [FusedBottleneck, nn.ReLU, FusedGate, nn.Linear]
