"""What the audio tower does differently in eval mode without gradient: the same numbers, sooner."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model.esresnet.esresnext import ESResNeXt

Clips = Callable[..., Tensor]


def tower(**arguments: object) -> ESResNeXt:
    """A float64 tower in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    frames = {"n_fft": 256, "hop_length": 100, "win_length": 200, "num_classes": 7}
    module = ESResNeXt(**{**frames, **arguments}).double().eval()  # type: ignore[arg-type]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.detach(), norm.bias.detach(), norm.running_mean, norm.running_var):
                assert tensor is not None
                tensor.add_(0.2 * torch.rand_like(tensor))
    return module


def plain(module: ESResNeXt, audio: Tensor) -> Tensor:
    """The tower's formula, one module after the other, one channel after the other."""
    pooled: Tensor | float = 0.0
    for image in module.decibels(audio).unbind(1):
        x = module.maxpool(torch.relu(module.bn1(module.conv1(image))))
        for number in range(1, 5):
            output = getattr(module, f"layer{number}")(x)
            x = output * opening(module, number, x, output.shape[-2:]) if module.apply_attention else output
        gate = opening(module, 5, x, (1, 1)) if module.apply_attention else 1.0
        pooled = pooled + (x.mean((-2, -1), keepdim=True) * gate).flatten(1)
    features: Tensor = module.fc(pooled)
    return features


def opening(module: ESResNeXt, number: int, x: Tensor, size: tuple[int, ...]) -> Tensor:
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
def test_features_are_those_of_the_plain_formula(arguments: dict[str, object], clips: Clips) -> None:
    module = tower(**arguments)
    audio = clips(2, channels=2, samples=5100)
    expected = plain(module, audio)
    torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)  # with gradient
    with torch.no_grad():
        torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():
        torch.testing.assert_close(module(audio), expected, rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_plain_formula(clips: Clips) -> None:
    module = tower().train()
    other = copy.deepcopy(module)
    audio = clips(2, channels=2, samples=5100)
    module(audio).square().sum().backward()
    plain(other, audio).square().sum().backward()
    for (name, ours), theirs in zip(module.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)
    torch.testing.assert_close(dict(module.named_buffers()), dict(other.named_buffers()))


@torch.no_grad()
def test_autocast_stays_near_full_precision(clips: Clips) -> None:
    module = tower().float()
    audio = clips(2, channels=2)
    exact = module(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, unfolded = module(audio), plain(module, audio)
    error, unfolded_error = ((x.float() - exact).norm() / exact.norm() for x in (rounded, unfolded))
    assert error < max(2 * unfolded_error, 0.02)


@torch.no_grad()
def test_a_changed_weight_is_seen(clips: Clips) -> None:
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
def test_copies_and_pickles_make_their_own_inference_backbone(clips: Clips) -> None:
    module, audio = tower(), clips(1)
    names = list(module.state_dict())
    before = module(audio)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        other.conv1.weight.mul_(2.0)
        torch.testing.assert_close(other(audio), plain(other, audio), rtol=1e-10, atol=1e-10)
    assert torch.equal(module(audio), before)
    assert list(module.state_dict()) == names
    assert module.train()._folded._value is None


@torch.no_grad()
def test_hooks_are_called_with_the_modules_own_results(clips: Clips) -> None:
    module, audio = tower(), clips(1)
    seen: list[Tensor] = []
    module(audio)
    module.get_submodule("layer4.2.bn3").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    module(audio)
    assert len(seen) == 1


@torch.no_grad()
def test_a_batch_norm_left_in_training_uses_its_batch(clips: Clips) -> None:
    module, audio = tower(), clips(3)
    module(audio)
    module.bn1.train()
    before = module.bn1.get_buffer("running_mean").clone()
    module(audio)
    assert not torch.equal(module.bn1.get_buffer("running_mean"), before)
