"""The protocols that yardsticks make of the shipped ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_trainer import cli
from ignite_trainer.benchmark import OURS, make_plan
from ignite_trainer.data import FieldTransform, SplitLoader
from ignite_trainer.errors import ProtocolError
from ignite_trainer.overrides import split_overrides
from ignite_trainer.protocol import ClassSpec, Protocol
from ignite_trainer.results import describe_environment
from utils.benchmarks import Backbone, BackboneOnNoise, ClassNumbers, OneAtATime
from utils.benchmarks.bare_backbone import NumberSample
from utils.transforms import RandomCrop, RandomNoise, RandomScale, ToTensor1D

PROTOCOLS = Path(__file__).parents[3] / "protocols"


def protocols_of(name: str, *words: str) -> dict[str, Protocol]:
    _, overrides = split_overrides(words)
    protocol = cli.load(PROTOCOLS / f"{name}.json", overrides, defaults=PROTOCOLS / "defaults.json")
    return make_plan(protocol, rounds=7).protocols


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("audioclip-esc50", {"height": 341, "width": 392, "images_per_sample": 1}),
        ("audioclip-us8k", {"height": 341, "width": 313, "images_per_sample": 2}),
        ("esresnextfbsp-esc50", {"height": 341, "width": 392, "images_per_sample": 1}),
        ("quickstart", {"height": 64, "width": 64, "images_per_sample": 1}),
    ],
)
def test_the_bare_backbone_sees_images_as_large_as_the_tower(name: str, size: dict[str, int]) -> None:
    protocols = protocols_of(name, "--Setup.precision", "bf16")
    bare, ours = protocols["bare-backbone"], protocols[OURS]
    assert bare.task.args == size
    assert bare.setup == ours.setup
    assert bare.optimizer == ours.optimizer
    assert bare.transforms == []


@pytest.mark.parametrize("path", sorted(PROTOCOLS.glob("*-*.json")), ids=lambda path: path.stem)
def test_every_shipped_protocol_can_be_benchmarked(path: Path) -> None:
    protocols = protocols_of(path.stem, "--Setup.recompute", "true")
    assert protocols[OURS].setup.recompute
    assert set(protocols) >= {OURS, "bare-backbone"}
    assert not any(each.setup.recompute for name, each in protocols.items() if name != OURS)


def test_the_length_of_clips_can_be_said() -> None:
    without = ["--Transforms", "[]"]
    with pytest.raises(ProtocolError, match=r"Yardsticks\.bare-backbone: samples is needed: no transform"):
        protocols_of("audioclip-esc50", *without)
    said = ["--Yardsticks.bare-backbone.args.samples", "44100"]
    bare = protocols_of("audioclip-esc50", *without, *said)["bare-backbone"]
    assert bare.task.args["width"] == 77  # 1 + ceil((44100 - 1654) / 561)
    with pytest.raises(ProtocolError, match=r"Yardsticks\.bare-backbone\.args\.samples is 0; a clip has"):
        protocols_of("audioclip-esc50", "--Yardsticks.bare-backbone.args.samples", "0")


def test_the_published_way_is_float32_eager_and_reads_every_loss() -> None:
    protocols = protocols_of("audioclip-us8k", "--Setup.precision", "bf16", "-b", "8")
    published, ours = protocols["published-way"], protocols[OURS]
    changed = {"precision": "fp32", "channels_last": False, "compile": False, "keep_memory": False}
    assert published.setup == ours.setup.model_copy(update={**changed, "log_interval": 1})
    assert published.model.args == ours.model.args
    assert published.task.args == ours.task.args
    assert published.dataset == ours.dataset
    assert published.optimizer is not None
    assert ours.optimizer is not None
    assert published.optimizer.args == {**ours.optimizer.args, "foreach": False, "fused": False}
    assert published.transforms[:-1] == ours.transforms


def test_an_optimizer_is_told_what_it_takes() -> None:
    protocols = protocols_of("quickstart", "--Optimizer", '{"class": "torch.optim.RMSprop"}')
    assert protocols["published-way"].optimizer == ClassSpec(
        path="torch.optim.RMSprop", args={"foreach": False}
    )


class Noises(torch.utils.data.Dataset[tuple[Any]]):
    """Clips of unequal length."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Any]:
        return ((1000 * np.random.default_rng(index).standard_normal((1, 900 + 40 * index))),)


def test_clips_augmented_one_at_a_time_are_those_augmented_together(monkeypatch: pytest.MonkeyPatch) -> None:
    together = [ToTensor1D(), RandomScale(1.5), RandomCrop(500), RandomNoise(p=0.5)]
    sizes: list[int] = []
    scale = RandomScale.batch

    def count(self: RandomScale, batch: Any, random: Any) -> Any:
        sizes.append(len(batch.values))
        return scale(self, batch, random)

    monkeypatch.setattr(RandomScale, "batch", count)
    batches, seen = [], []
    for transforms in (together, [*together, OneAtATime()]):
        sizes.clear()
        loader = SplitLoader(
            Noises(),
            [FieldTransform(apply=transform) for transform in transforms],  # type: ignore[arg-type]
            batch_size=4,
            workers=0,
            shuffle=True,
            drop_last=True,
            seed=1,
            device=torch.device("cpu"),
        )
        batches.append(list(loader))
        seen.append(list(sizes))
    assert seen == [[4, 4], [1] * 8]
    for ours, published in zip(*batches, strict=True):
        assert torch.equal(ours.indices, published.indices)
        torch.testing.assert_close(published.sample[0], ours.sample[0], rtol=1e-6, atol=1e-3)


def test_the_bare_step_is_that_of_the_backbone_on_images_that_stay() -> None:
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


def test_the_data_set_of_the_bare_backbone_costs_nothing_and_fills_any_batch() -> None:
    data = ClassNumbers(train=False)
    assert len(data) == 16384
    assert data[1001] == NumberSample(1)


@pytest.mark.slow
def test_the_quickstart_is_benchmarked_beside_both_yardsticks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIOCLIP_CACHE", str(tmp_path / "cache"))
    words = f"""-c {PROTOCOLS}/quickstart.json -M {tmp_path}/results -b 4 --benchmark 2
        --Dataset.args.seconds 0.3 --Dataset.args.clips_per_class_and_fold 1""".split()
    assert cli.main(words, defaults=PROTOCOLS / "defaults.json") == 0
    content = json.loads(Path(capsys.readouterr().out.splitlines()[-1]).read_text())
    for name in ("training", "evaluation"):
        activity = content["activities"][name]
        assert list(activity["speeds"]) == [OURS, "bare-backbone", "published-way"]
        beside = " (beside the step)"  # where a thread prepares the next batch
        phases = {phase.removesuffix(beside) for phase in activity["shares"]}
        assert {"data wait", "augmentation", "wavelets", "audio tower"} <= phases
        in_step = [share for phase, share in activity["shares"].items() if not phase.endswith(beside)]
        assert sum(in_step) == pytest.approx(1)
    training = content["activities"]["training"]["shares"]
    assert {"loss", "backward", "optimizer"} <= set(training)
    expected = describe_environment(seed=1, device=torch.device("cpu"))
    assert content["environment"]["packages"] == expected["packages"]
