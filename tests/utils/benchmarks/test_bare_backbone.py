"""The bare backbone: protocols and steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ignite_trainer.commands.benchmark import OURS, contenders
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.support.errors import ProtocolError
from utils.benchmarks import Backbone, BackboneOnNoise, ClassNumbers
from utils.benchmarks.bare_backbone import NumberSample

PROTOCOLS = Path(__file__).parents[3] / "protocols"


def protocols_of(name: str, *words: str) -> dict[str, Protocol]:
    _, overrides = split_overrides(words)
    protocol = load(PROTOCOLS / f"{name}.json", overrides, defaults=PROTOCOLS / "defaults.json")
    return {name: each.protocol for name, each in contenders(protocol).items()}


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("audioclip-esc50", {"height": 341, "width": 392, "images_per_sample": 1}),
        ("audioclip-us8k", {"height": 341, "width": 313, "images_per_sample": 2}),
        ("esresnextfbsp-esc50", {"height": 341, "width": 392, "images_per_sample": 1}),
        ("quickstart", {"height": 64, "width": 64, "images_per_sample": 1}),
    ],
)
def test_the_images_are_as_large_as_the_towers_spectrograms(name: str, size: dict[str, int]) -> None:
    protocols = protocols_of(name, "--Setup.precision", "bf16")
    bare, ours = protocols["bare-backbone"], protocols[OURS]
    assert bare.task.args == size
    assert bare.setup == ours.setup
    assert bare.optimizer == ours.optimizer
    assert bare.transforms == []


@pytest.mark.parametrize("path", sorted(PROTOCOLS.glob("*-*.json")), ids=lambda path: path.stem)
def test_every_shipped_protocol_can_be_benchmarked(path: Path) -> None:
    protocols = protocols_of(path.stem, "--Setup.recompute", "true", "--Setup.sampling", "balanced")
    assert protocols[OURS].setup.recompute
    # The baseline is of AudioCLIP's audio tower, not of a CLAP.
    assert ("bare-backbone" in protocols) != path.stem.startswith("clap-")
    bare = [each.setup for name, each in protocols.items() if name != OURS]
    assert not any(setup.recompute or setup.sampling != "each" for setup in bare)


def test_the_length_of_clips_can_be_set() -> None:
    without = ["--Transforms", "[]"]
    with pytest.raises(ProtocolError, match=r"Yardsticks\.bare-backbone: samples is needed: no transform"):
        protocols_of("audioclip-esc50", *without)
    said = ["--Yardsticks.bare-backbone.args.samples", "44100"]
    bare = protocols_of("audioclip-esc50", *without, *said)["bare-backbone"]
    assert bare.task.args["width"] == 77  # 1 + ceil((44100 - 1654) / 561)
    with pytest.raises(
        ProtocolError, match=r"Yardsticks\.bare-backbone\.args\.samples is 0; it must be positive"
    ):
        protocols_of("audioclip-esc50", "--Yardsticks.bare-backbone.args.samples", "0")


def test_every_step_uses_the_same_images() -> None:
    torch.manual_seed(0)
    model = Backbone().eval()
    task = BackboneOnNoise(height=32, width=48, images_per_sample=2)
    batch = NumberSample(torch.tensor([3, 5]))  # type: ignore[arg-type]
    with torch.inference_mode():
        task.evaluation_step(model, batch)
    first, second = (task.training_step(model, batch) for _ in range(2))
    assert first.y_pred.shape == (4, 1000)
    assert first.y.tolist() == [3, 3, 5, 5]
    assert torch.equal(first.y_pred, second.y_pred)
    assert first.loss is not None
    log_probability = first.y_pred.log_softmax(dim=1)[torch.arange(4), first.y]
    assert first.loss.item() == pytest.approx(-log_probability.mean().item(), rel=1e-5)
    assert model.network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_data_set_computes_nothing_and_fills_any_batch() -> None:
    data = ClassNumbers(train=False)
    assert len(data) == 16384
    assert data[1001] == NumberSample(1)
