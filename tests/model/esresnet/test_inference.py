"""The faster copy for inference equals the plain layers, and never uses old weights."""

import copy
import pickle
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from model.esresnet.attention import Gate
from model.esresnet.esresnext import ESResNeXt, compute_dtype
from model.esresnet.inference import FusedBottleneck, FusedGate, can_fuse, folded, fuse, inference_copy
from tests.small_backbone import clips

CPU = torch.device("cpu")
HALVES = [dtype for dtype in (torch.bfloat16, torch.float16) if can_fuse(CPU, dtype)]
FRAMES: dict[str, Any] = {"n_fft": 256, "hop_length": 100, "win_length": 200, "num_classes": 7}
Network = TypeVar("Network", bound=nn.Module)

needs_onednn = pytest.mark.skipif(not can_fuse(CPU, torch.float32), reason="torch was built without oneDNN")


def with_active_norms(module: Network) -> Network:
    """Give the batch norms of a module non-trivial values, and put it into eval mode."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert tensor is not None
                tensor.detach().add_(0.2 * torch.rand_like(tensor))
    return module.eval()


def tower(**arguments: Any) -> ESResNeXt:
    torch.manual_seed(0)
    return with_active_norms(ESResNeXt(**{**FRAMES, **arguments}).double())


def plain(module: ESResNeXt, audio: Tensor) -> Tensor:
    """Compute the tower's formula module by module and channel by channel."""
    pooled: Tensor | float = 0.0
    for image in module.decibels(audio).unbind(1):
        x = module.maxpool(torch.relu(module.bn1(module.conv1(image))))
        for number in range(1, 5):
            output = getattr(module, f"layer{number}")(x)
            x = (
                output * gate_values(module, number, x, output.shape[-2:])
                if module.apply_attention
                else output
            )
        gate = gate_values(module, 5, x, (1, 1)) if module.apply_attention else 1.0
        pooled = pooled + (x.mean((-2, -1), keepdim=True) * gate).flatten(1)
    features: Tensor = module.fc(pooled)
    return features


def gate_values(module: ESResNeXt, number: int, x: Tensor, size: tuple[int, ...]) -> Tensor:
    gate = getattr(module, f"att{number}")
    pooled = nn.functional.adaptive_max_pool2d(x, size)
    return torch.sigmoid(gate.bn(gate.conv_point(gate.conv_depth(pooled))))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"apply_attention": False},
        {"spectrum": "stft"},
        {"onesided": False},
        {"spec_height": 33, "spec_width": 70},
    ],
)
def test_features_equal_those_of_the_plain_formula(arguments: dict[str, Any]) -> None:
    module = tower(**arguments)
    audio = clips(2, channels=2, samples=5100)
    expected = plain(module, audio)
    torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)  # with gradient
    with torch.no_grad():
        torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():
        torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_the_plain_formula() -> None:
    module = tower().train()
    other = copy.deepcopy(module)
    audio = clips(2, channels=2, samples=5100)
    module(audio).square().sum().backward()
    plain(other, audio).square().sum().backward()
    for (name, ours), theirs in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)
    torch.testing.assert_close(dict(module.named_buffers()), dict(other.named_buffers()))


@torch.no_grad()
def test_features_under_autocast_stay_near_full_precision() -> None:
    module = tower().float()
    audio = clips(2, channels=2)
    exact = module(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, plain_features = module(audio), plain(module, audio)
    error, plain_error = ((x.float() - exact).norm() / exact.norm() for x in (rounded, plain_features))
    assert error < max(2 * plain_error, 0.02)


@torch.no_grad()
def test_a_changed_weight_renews_the_copy() -> None:
    module, audio = tower(), clips(1)
    module(audio)
    for name in ("layer2.0.bn2.running_mean", "att3.conv_point.weight", "bn1.weight"):
        before = module(audio)
        module.state_dict()[name].mul_(1.5).add_(0.1)
        assert not torch.equal(module(audio), before)
        torch.testing.assert_close(module(audio), plain(module, audio), rtol=1e-10, atol=1e-10)
    module.layer1 = tower(apply_attention=False).layer1
    torch.testing.assert_close(module(audio), plain(module, audio), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_copied_and_pickled_towers_make_their_own_inference_copies() -> None:
    module, audio = tower(), clips(1)
    names = list(module.state_dict())
    before = module(audio)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.conv1.weight.mul_(2.0)
        torch.testing.assert_close(other(audio), plain(other, audio), rtol=1e-10, atol=1e-10)
    assert torch.equal(module(audio), before)
    assert list(module.state_dict()) == names
    assert module.train()._inference_tower._value is None


@torch.no_grad()
def test_hooks_get_the_results_of_the_plain_modules() -> None:
    module, audio = tower(), clips(1)
    seen: list[Tensor] = []
    module(audio)
    module.get_submodule("layer4.0.bn3").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    module(audio)
    assert len(seen) == 1


@torch.no_grad()
def test_a_batch_norm_left_in_training_uses_its_batch() -> None:
    module, audio = tower(), clips(3)
    module(audio)
    module.bn1.train()
    before = module.bn1.get_buffer("running_mean").clone()
    module(audio)
    assert not torch.equal(module.bn1.get_buffer("running_mean"), before)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )


def downsampling(stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(32, 64, 1, stride, bias=False), nn.BatchNorm2d(64))


@needs_onednn
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (5, 4), (14, 9)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.inference_mode()
def test_a_fused_block_equals_its_layers(size: tuple[int, int], stride: int) -> None:
    block = with_active_norms(Bottleneck(32, 16, stride, downsampling(stride), groups=4, base_width=64))
    x = images(2, 32, *size)
    before, expected = x.clone(), block(x)
    torch.testing.assert_close(FusedBottleneck(folded(block))(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)  # which the stage's gate reads, too


@needs_onednn
@torch.inference_mode()
def test_a_block_without_downsampling_overwrites_its_input() -> None:
    block = with_active_norms(Bottleneck(64, 16, groups=4, base_width=64))
    x = images(2, 64, 6, 5)
    expected = block(x.clone())
    result = FusedBottleneck(folded(block))(x)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert result.data_ptr() == x.data_ptr()
    assert result.is_contiguous(memory_format=torch.channels_last)


@needs_onednn
@pytest.mark.parametrize("kernel_size", [(3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("size", [(1, 1), (7, 6), (3, 3)])
@torch.inference_mode()
def test_a_fused_gate_equals_its_layers(kernel_size: tuple[int, int], size: tuple[int, int]) -> None:
    gate = with_active_norms(Gate(8, 24, kernel_size=kernel_size))
    x, output = images(2, 8, 7, 6), images(2, 24, *size)
    logits = gate.bn(gate.conv_point(gate.conv_depth(F.adaptive_max_pool2d(x, size))))
    expected = output * torch.sigmoid(logits)
    torch.testing.assert_close(FusedGate(folded(gate))(x, output.clone()), expected, rtol=1e-4, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("arguments", [{}, {"apply_attention": False}, {"spec_height": 32, "spec_width": 32}])
@torch.no_grad()
def test_a_fused_tower_rounds_no_worse_than_its_layers(arguments: dict[str, Any], dtype: torch.dtype) -> None:
    module = tower(**arguments).float()
    audio = clips(2, channels=2, samples=5100)
    exact = copy.deepcopy(module).double()(audio)

    def error(features: Tensor) -> float:
        return float((features.double() - exact).norm() / exact.norm())

    def features() -> Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            result: Tensor = module(audio)
        return result

    fused = features()
    kept = module._inference_tower._value
    assert kept is not None
    assert isinstance(kept.get_submodule("layer1.0"), FusedBottleneck)
    again = features()
    assert torch.equal(fused, again)  # nothing cached was overwritten
    hook = module.get_submodule("layer1").register_forward_hook(lambda *_: None)
    plain = features()  # the plain layers, for the hook
    hook.remove()
    assert error(fused) < max(1.5 * error(plain), 1e-5)


@needs_onednn
@pytest.mark.parametrize("dtype", HALVES)
@torch.no_grad()
def test_the_copy_for_one_precision_is_not_used_for_another(dtype: torch.dtype) -> None:
    module = tower().float()
    audio = clips(2)
    full = module(audio)
    with torch.autocast("cpu", dtype=dtype):
        assert compute_dtype(audio) == dtype
        half = module(audio)
    assert half.dtype == dtype
    assert compute_dtype(audio) == torch.float32
    assert torch.equal(module(audio), full)


@needs_onednn
@torch.no_grad()
def test_inference_weights_are_cast_except_the_first_convolution() -> None:
    module = tower().float()
    copied = inference_copy(module, torch.bfloat16)
    kinds = {name.split(".")[0]: weight.dtype for name, weight in copied.named_parameters()}
    assert kinds.pop("conv1") == torch.float32  # decibels in bfloat16 have steps of 0.5 dB
    assert set(kinds.values()) == {torch.bfloat16}
    assert module.get_parameter("layer1.0.conv1.weight").dtype == torch.float32


@needs_onednn
def test_only_operations_that_onednn_supports_are_fused() -> None:
    assert not can_fuse(CPU, torch.float64)
    assert not can_fuse(torch.device("meta"), torch.float32)
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert not can_fuse(CPU, torch.float32)


@needs_onednn
def test_only_blocks_and_gates_are_replaced() -> None:
    block, gate = Bottleneck(64, 16), Gate(4, 8, kernel_size=(3, 1))
    network = nn.ModuleDict({"stage": nn.Sequential(block, nn.ReLU()), "gate": gate, "head": nn.Linear(2, 2)})
    fuse(network)
    kinds = [type(module) for module in (*network["stage"], network["gate"], network["head"])]  # type: ignore[misc]
    assert kinds == [FusedBottleneck, nn.ReLU, FusedGate, nn.Linear]
