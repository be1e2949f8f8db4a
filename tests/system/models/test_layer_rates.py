"""Layer-wise learning rates of AudioCLIP and ESResNeXt, from the names of their modules."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import nn

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from tests.small_backbone import SMALL_AUDIOCLIP, small_backbone


def factors(model: nn.Module, *rules: dict[str, Any]) -> dict[str, float]:
    plan = apply_rules(model, [ParameterRule(**rule) for rule in rules])
    return {name: origin.rate for origin in plan.origins for name in origin.names}


def depth_in_audio_tower(name: str) -> int:
    """Count the layers between a parameter and the output: fbsp, conv1, four stages with gates, head."""
    first = name.split(".", maxsplit=1)[0]
    number = re.fullmatch(r"(?:layer|att)([1-4])", first)
    return {"fbsp": 6, "conv1": 5, "bn1": 5, "att5": 0, "fc": 0}.get(
        first, 5 - int(number[1] if number else 5)
    )


def test_the_layers_of_esresnext_have_decayed_rates() -> None:
    with small_backbone():
        model = ESResNeXt(n_fft=256, hop_length=100, win_length=200)
    found = factors(model, {"match": ".*", "depth_decay": 0.75})
    assert found == pytest.approx({name: 0.75 ** depth_in_audio_tower(name) for name in found})
    assert len(found) == len(list(model.parameters()))
    assert {round(factor, 4) for factor in found.values()} == {1, 0.75, 0.5625, 0.4219, 0.3164, 0.2373, 0.178}


def test_the_layers_of_an_audioclip_have_decayed_rates() -> None:
    with small_backbone():
        model = AudioCLIP(**{**SMALL_AUDIOCLIP, "transformer_layers": 2, "pretrained": False})
    found = factors(
        model,
        {"match": "audio\\..*|logit_.*", "depth_decay": 0.75},
        {"match": ".*", "depth_decay": 0.5},
    )
    for name, factor in found.items():
        if name.startswith("audio."):
            assert factor == pytest.approx(0.75 ** depth_in_audio_tower(name.removeprefix("audio."))), name
    others = {
        **{"logit_scale": 0, "logit_scale_ai": 0, "logit_scale_at": 0},
        **{"visual.conv1.weight": 5, "visual.bn3.bias": 5, "visual.layer1.0.conv1.weight": 4},
        **{"visual.layer4.0.bn2.weight": 1, "visual.attnpool.positional_embedding": 0},
        **{"token_embedding.weight": 3, "positional_embedding": 3},
        **{"transformer.resblocks.0.ln_1.bias": 2, "transformer.resblocks.1.attn.in_proj_weight": 1},
        **{"ln_final.weight": 0, "text_projection": 0},
    }
    assert {name: found[name] for name in others} == pytest.approx(
        {name: 0.5**d for name, d in others.items()}
    )
