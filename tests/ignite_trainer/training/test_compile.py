"""`Setup.compile`: the compiled modules, whose names and values stay the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from toy_research.protocols import TRUSTED, toy

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.assembly import assemble
from ignite_trainer.runs.model_preparation import compile_model
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt, SpectrogramMasks


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Record the modules to be compiled, without compiling them."""
    modules: list[nn.Module] = []

    def note(module: nn.Module, **options: Any) -> None:
        assert options == {"dynamic": False}
        modules.append(module)

    monkeypatch.setattr(nn.Module, "compile", note)
    return modules


class Towers(nn.Module):
    asked = 0

    def compile_towers(self) -> None:
        self.asked += 1


def test_a_model_can_choose_which_of_its_towers_are_compiled(compiled: list[nn.Module]) -> None:
    towers, plain = Towers(), nn.Linear(2, 2)
    compile_model(towers)
    compile_model(plain)
    assert towers.asked == 1
    assert compiled == [plain]


@pytest.mark.parametrize("asked", [True, False])
def test_a_run_compiles_on_request(tmp_path: Any, compiled: list[nn.Module], asked: bool) -> None:
    parts = assemble(draw(validate(toy(tmp_path, Setup__compile=asked)), trusted=TRUSTED), seed=1)
    assert compiled == ([parts.model] if asked else [])


def test_recomputed_blocks_are_compiled_one_by_one(compiled: list[nn.Module]) -> None:
    tower = ESResNeXt(num_classes=3)
    tower.recompute_activations()
    tower.compile_towers()
    assert not tower.compiled
    assert compiled == [block for stage, _ in tower._stages() for block in stage.children()]


def test_audioclip_compiles_its_image_and_audio_towers(compiled: list[nn.Module]) -> None:
    small: dict[str, Any] = {"transformer_width": 32, "transformer_heads": 2, "transformer_layers": 1}
    model = AudioCLIP(
        embed_dim=32,
        image_resolution=32,
        vision_layers=(1, 1, 1, 1),
        vision_width=8,
        vocab_size=49408,
        pretrained=False,
        **small,
    )
    model.compile_towers()
    assert model.audio.compiled
    assert compiled == [model.visual]


def masks_of(clips: int) -> SpectrogramMasks:
    return SpectrogramMasks(*torch.tensor([[0.2, 0.3], [0.6, 0.9]]).expand(2, clips, 2, 2))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("training", [True, False])
def test_the_audio_tower_is_one_graph(training: bool) -> None:
    tower = ESResNeXt(num_classes=3, n_fft=256, hop_length=100, win_length=200).train(training)
    audio = torch.randn(2, 1, 9000) * 3000
    masks = masks_of(2) if training else None
    found = torch._dynamo.explain(tower.forward_with_penalty)(audio, check_units=False, masks=masks)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo reads each input
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("recomputed", [False, True])
def test_a_compiled_tower_equals_the_eager_one(recomputed: bool) -> None:
    """Compares features in evaluation, and features and a gradient in float64 training with masks.

    Takes minutes.
    """
    torch.manual_seed(0)
    tower = ESResNeXt(num_classes=3, n_fft=256, hop_length=100, win_length=200)
    audio = torch.randn(4, 1, 20000) * 3000
    found = []
    for compiles in (False, True):
        each = copy.deepcopy(tower)
        if compiles:
            if recomputed:
                each.recompute_activations()
            names = list(each.state_dict())
            each.compile_towers()
            assert list(each.state_dict()) == names
        with torch.inference_mode():
            evaluated = each.eval()(audio)
        features = each.double().train().forward_with_penalty(audio, masks=masks_of(4)).features
        features.square().mean().backward()
        found.append((evaluated, features, each.conv1.weight.grad))
    for one, other, tolerance in zip(*found, (1e-5, 1e-9, 1e-7), strict=True):
        torch.testing.assert_close(
            other, one, rtol=tolerance, atol=tolerance * float(one.detach().abs().max())
        )
