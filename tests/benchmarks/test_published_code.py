"""The published code as a speed baseline: its protocol, its augmentation, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_trainer.commands.benchmark import OURS, contenders
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from ignite_trainer.protocol.sections import ClassSpec, Protocol
from tests.benchmarks import published_code
from tests.benchmarks.published_code import YARDSTICKS, OneAtATime
from tests.ignite_trainer.data.loading import loader
from utils.transforms import RandomCrop, RandomNoise, RandomScale, ToTensor1D

PROTOCOLS = Path(__file__).parents[2] / "protocols"


def protocols_of(name: str, *words: str) -> dict[str, Protocol]:
    _, overrides = split_overrides([*YARDSTICKS, *words])
    protocol = load(PROTOCOLS / f"{name}.json", overrides, defaults=PROTOCOLS / "defaults.json")
    return {name: each.protocol for name, each in contenders(protocol, trusted=["tests"]).items()}


def test_the_published_code_is_float32_eager_and_reads_every_loss() -> None:
    protocols = protocols_of("audioclip-us8k", "--Setup.precision", "bf16", "-b", "8")
    published, ours = protocols["published-code"], protocols[OURS]
    changed = {"precision": "fp32", "channels_last": False, "compile": False, "keep_memory": False}
    assert published.setup == ours.setup.model_copy(update={**changed, "log_interval": 1})
    assert published.model.args == ours.model.args
    assert published.task.args == ours.task.args
    assert published.dataset == ours.dataset
    assert published.optimizer is not None
    assert ours.optimizer is not None
    assert published.optimizer.args == {**ours.optimizer.args, "foreach": False, "fused": False}
    assert published.transforms[:-1] == ours.transforms


def test_an_optimizer_gets_only_arguments_that_it_accepts() -> None:
    protocols = protocols_of("quickstart", "--Optimizer", '{"class": "torch.optim.RMSprop"}')
    assert protocols["published-code"].optimizer == ClassSpec(
        path="torch.optim.RMSprop", args={"foreach": False}
    )


class Noises(torch.utils.data.Dataset[tuple[Any]]):
    """Clips of unequal length."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Any]:
        return ((1000 * np.random.default_rng(index).standard_normal((1, 900 + 40 * index))),)


def test_clips_augmented_one_at_a_time_equal_those_augmented_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
        batches.append(list(loader(Noises(), *transforms, drop_last=True)))
        seen.append(list(sizes))
    assert seen == [[4, 4], [1] * 8]
    for ours, published in zip(*batches, strict=True):
        assert torch.equal(ours.indices, published.indices)
        torch.testing.assert_close(published.sample[0], ours.sample[0], rtol=1e-6, atol=1e-3)


@pytest.mark.slow
def test_the_quickstart_is_compared_with_both_baselines(tmp_path: Path) -> None:
    words = f"""-c {PROTOCOLS}/quickstart.json -M {tmp_path}/results -b 4 --benchmark 2
        --Dataset.args.seconds 0.3 --Dataset.args.clips_per_class_and_fold 1""".split()
    command = [sys.executable, published_code.__file__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "published-code" in done.stdout
    content = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    for name in ("training", "evaluation"):
        activity = content["activities"][name]
        assert list(activity["speeds"]) == [OURS, "bare-backbone", "published-code"]
        beside = " (alongside the step)"  # where a thread prepares the next batch
        phases = {phase.removesuffix(beside) for phase in activity["shares"]}
        assert {"data wait", "augmentation", "wavelets", "audio tower"} <= phases
        in_step = [share for phase, share in activity["shares"].items() if not phase.endswith(beside)]
        assert sum(in_step) == pytest.approx(1)
    training = content["activities"]["training"]["shares"]
    assert {"loss", "backward", "optimizer"} <= set(training)
