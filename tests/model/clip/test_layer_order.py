"""The order of layers in towers, from the names of parameters."""

from __future__ import annotations

import pytest
import torch

from model.audioclip import AudioCLIP
from model.clip.layer_order import order_of_layers
from tests.small_backbone import SMALL_AUDIOCLIP

AUDIO = [
    *(["audio.fbsp"], ["audio.conv1", "audio.bn1"]),
    *([f"audio.layer{stage}", f"audio.att{stage}"] for stage in (1, 2, 3, 4)),
    ["audio.att5", "audio.fc"],
]
SCALES = [["logit_scale", "logit_scale_ai", "logit_scale_at"]]


def sets(towers: list[list[list[str]]]) -> list[list[set[str]]]:
    return [[set(layer) for layer in tower] for tower in towers]


def test_towers_of_the_published_kind_have_their_stages_in_order() -> None:
    found = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False).layer_order()
    stem = [f"visual.{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn")]
    visual = [stem, *([f"visual.layer{stage}"] for stage in (1, 2, 3, 4)), ["visual.attnpool"]]
    text = [["positional_embedding", "token_embedding"], ["transformer.resblocks.0"]]
    text.append(["text_projection", "ln_final"])
    assert sets(found) == sets([AUDIO, visual, text, SCALES])


def test_an_audio_tower_without_wavelets_and_gates_begins_with_its_convolution() -> None:
    options = {**SMALL_AUDIOCLIP, "spectrum": "stft", "apply_attention": False, "pretrained": False}
    (tower,) = AudioCLIP(**options).audio.layer_order()
    assert tower == [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"], ["fc"]]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("ViT-B-32", (12, 12)),
        ("coca_ViT-B-32", (12, 12)),
        ("ViT-B-16-SigLIP", (12, 12)),
        ("convnext_base", (4, 12)),
        ("RN50x4", (4, 12)),
    ],
)
def test_every_parameter_of_open_clips_towers_has_a_layer(name: str, blocks: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = AudioCLIP(clip=name, pretrained=False)
    towers = model.layer_order()
    assert [len(tower) for tower in towers] == [7, 2 + blocks[0], 2 + blocks[1], 1]
    entries = [name for tower in towers for layer in tower for name in layer]
    for parameter, _ in model.named_parameters():
        assert sum(parameter == entry or parameter.startswith(f"{entry}.") for entry in entries) == 1


def test_blocks_are_ordered_by_number_not_by_name() -> None:
    names = [f"blocks.{number}.weight" for number in (10, 2, 0)]
    assert order_of_layers([*names, "head.bias"]) == [["blocks.0"], ["blocks.2"], ["blocks.10"], ["head"]]


def test_a_tower_without_known_blocks_has_no_order() -> None:
    assert order_of_layers(["conv1.weight", "head.bias"]) == []
