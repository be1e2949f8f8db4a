"""With recomputed activations, a step is the same and takes less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from model.recompute import Recomputed
from tests.small_backbone import SMALL_AUDIOCLIP

pytestmark = pytest.mark.usefixtures("published_audio_towers")


def kept_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Count the bytes that autograd saves in a forward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(*inputs)
    return sum(sizes.values())


@pytest.fixture(scope="module")
def towers() -> tuple[ESResNeXt, ESResNeXt]:
    torch.manual_seed(0)
    plain = ESResNeXt(num_classes=7, n_fft=256, hop_length=100, win_length=200).double()
    recomputing = copy.deepcopy(plain)
    recomputing.recompute_activations()
    return plain, recomputing


def test_a_step_and_the_running_statistics_are_the_same(towers: tuple[ESResNeXt, ESResNeXt]) -> None:
    audio = torch.randn(2, 1, 9000, dtype=torch.float64) * 3000
    features = []
    for tower in towers:
        tower.train()
        features.append(tower(audio))
        features[-1].square().mean().backward()
    plain, recomputing = towers
    assert torch.equal(*features)
    assert plain.state_dict().keys() == recomputing.state_dict().keys()
    for (name, one), other in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(one, other), name
    for (name, weight), other_weight in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert weight.grad is not None and other_weight.grad is not None, name
        assert torch.equal(weight.grad, other_weight.grad), name
    assert int(recomputing.bn1.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_less_memory_is_kept_for_the_backward_pass(towers: tuple[ESResNeXt, ESResNeXt]) -> None:
    audio = torch.randn(4, 1, 9000, dtype=torch.float64) * 3000
    plain, recomputing = (kept_bytes(tower.train(), audio) for tower in towers)
    assert recomputing < 0.6 * plain


def test_without_gradient_the_features_are_the_same(towers: tuple[ESResNeXt, ESResNeXt]) -> None:
    audio = torch.randn(1, 1, 9000, dtype=torch.float64) * 3000
    plain, recomputing = (copy.deepcopy(tower).eval() for tower in towers)
    recomputing.load_state_dict(plain.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(plain(audio), recomputing(audio), rtol=1e-12, atol=1e-12)


def test_all_towers_of_an_audioclip_can_recompute_activations() -> None:
    model = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False)
    names = list(model.state_dict())
    model.recompute_activations()
    assert list(model.state_dict()) == names
    stages = [getattr(model.audio, f"layer{number}") for number in range(1, 5)]
    stages += [getattr(model.visual, f"layer{number}") for number in range(1, 5)]
    assert all(isinstance(stage, Recomputed) for stage in stages)
    assert kept_bytes(model.transformer, torch.randn(4, 77, 32)) < kept_bytes(
        AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False).transformer, torch.randn(4, 77, 32)
    )
