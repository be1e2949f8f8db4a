"""Every tower at a learning rate of its own, by rules over names."""

from __future__ import annotations

import torch

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP

RATES = {
    r"audio\.fbsp\..*|logit_scale.*": 0.5,
    r"audio\..*": 0.1,
    r"visual\..*": 0.01,
    r"(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection": 0.001,
}


def test_each_tower_moves_at_its_own_rate() -> None:
    model = AudioCLIP(
        embed_dim=16,
        image_resolution=32,
        vision_layers=1,
        vision_width=64,
        vision_patch_size=8,
        transformer_width=32,
        transformer_heads=2,
        transformer_layers=1,
        pretrained=False,
    ).double()
    rules = [ParameterRule(match=match, args={"lr": rate}) for match, rate in RATES.items()]
    plan = apply_rules(model, rules)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(plan.groups, lr=100.0).step()
    moved: dict[float, set[str]] = {}
    for name, weight in model.named_parameters():
        step = (before[name] - weight.detach()).unique()
        torch.testing.assert_close(step, step[:1].expand_as(step))
        moved.setdefault(round(float(step[0]), 6), set()).add(name.split(".")[0])
    assert moved == {
        0.5: {"audio", "logit_scale", "logit_scale_ai", "logit_scale_at"},
        0.1: {"audio"},
        0.01: {"visual"},
        0.001: {"transformer", "token_embedding", "ln_final", "positional_embedding", "text_projection"},
    }
