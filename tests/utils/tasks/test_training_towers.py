"""Training all towers: in parts of a batch, and at separate learning rates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from ignite_trainer.api.task import EmbeddingTask
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.training.engines import make_trainer
from ignite_trainer.training.forward import GradientCache
from ignite_trainer.training.optimization import build_optimizer
from ignite_trainer.training.parameters import apply_rules
from model.audioclip import AudioCLIP
from tests.ignite_trainer.training.stepping import CPU, setup
from tests.utils.tasks.test_tasks import loss_of, tiny_audioclip
from utils.datasets import Sample
from utils.tasks import AudioTextContrastive

LABELS = [["dog"], ["rain"], ["dog"], ["siren"], ["sea waves"], ["rain"]]

RATES = {
    r"audio\.fbsp\..*|logit_scale.*": 0.5,
    r"audio\..*": 0.1,
    r"visual\..*": 0.01,
    r"(transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection": 0.001,
}


def audioclip() -> AudioCLIP:
    model = tiny_audioclip().double()
    # Without batch statistics, and with wavelets other than Fourier's.
    apply_rules(
        model, [ParameterRule(match=r"visual\..*", train=False), ParameterRule(match=".*", mode="eval")]
    )
    assert model.audio.fbsp is not None
    with torch.no_grad():
        model.audio.fbsp.m.add_(0.1)
    return model.eval()


def gradients(model: AudioCLIP) -> dict[str, Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def check_parts(task: EmbeddingTask, model: AudioCLIP, batch: Any, *, reached: set[str]) -> None:
    """Compare the loss, scores and gradients of a batch of 6 in parts of 2 with those of the whole."""
    whole = task.training_step(model, batch)
    loss_of(whole).backward()
    expected = gradients(model)
    cache = GradientCache(task, model, setup(batch_train=6, chunk=2), device=CPU)
    output, _ = cache.forward(Batch(torch.arange(6), batch))
    assert output is not None
    loss_of(output).backward()
    cache.backward()
    found = gradients(model)
    torch.testing.assert_close(output.loss, whole.loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(output.y_pred, whole.y_pred, rtol=0, atol=1e-10)
    assert found.keys() == expected.keys() >= reached
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()) if gradient.numel() else 0.0, 1.0)
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


@pytest.mark.parametrize(
    ("options", "recomputed"), [({}, False), ({"positives": "same_label", "reduction": "mean"}, True)]
)
def test_gradients_in_parts_equal_those_of_the_whole_batch(options: dict[str, Any], recomputed: bool) -> None:
    model, task = audioclip(), AudioTextContrastive(**options)
    if recomputed:
        model.recompute_activations()
    generator = torch.Generator().manual_seed(0)
    batch = Sample(3000.0 * torch.randn(6, 1, 3000, generator=generator).double(), None, LABELS)
    reached = {"audio.fbsp.m", "audio.conv1.weight", "text_projection", "logit_scale_at"}
    check_parts(task, model, batch, reached=reached)


@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_after_a_fused_step_parts_are_embedded_with_the_new_weights(kind: Any) -> None:
    """Embedding a part first without gradient must not leave outdated cached wavelets and norms."""
    model, task = audioclip(), AudioTextContrastive()
    plan = apply_rules(model, [ParameterRule(match=".*", mode="eval")])
    optimizer = build_optimizer(kind, {"lr": 1e-3}, plan.groups)
    assert all(group["fused"] for group in optimizer.param_groups)
    generator = torch.Generator().manual_seed(0)
    batch = Sample(3000.0 * torch.randn(6, 1, 3000, generator=generator).double(), None, LABELS)
    settings = setup(batch_train=6, chunk=2)
    trainer = make_trainer(task, model, optimizer, plan, settings, device=CPU, progress=False)
    trainer.run([Batch(torch.arange(6), batch)], max_epochs=1)
    with torch.no_grad():
        found = task.embed(model, batch)["audio"]
        expected = task.embed(copy.deepcopy(model), batch)["audio"]  # a copy caches nothing
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_each_tower_can_have_its_own_learning_rate() -> None:
    model = tiny_audioclip().double()
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
