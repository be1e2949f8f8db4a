"""Several processes compute the loss, gradients and weights of a single one, and exchange messages."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_research.joint import (
    AUDIOCLIPS,
    PARTS,
    TOYS,
    Reached,
    all_of_it,
    take_lonely_steps,
    train_audioclip,
    train_three_modalities,
    train_toy,
)
from toy_research.learning import Matching
from toy_research.ranks import on_ranks
from toy_research.signals import Tone

from ignite_trainer.api.task import StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.support import distributed
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training import forward

Results = list[dict[str, Any]]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# every process embeds all classes, so these statistics count them several times
SEVERAL_TIMES: dict[str, tuple[str, ...]] = {"matching": ("right.norm.running_var",), "pairing": ()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return on_ranks(2, tmp_path_factory.mktemp("ranks"), all_of_it)


def assert_same(
    found: Reached,
    alone: Reached,
    *,
    tolerance: float,
    but: tuple[str, ...] = (),
    statistics: float | None = None,
) -> None:
    """Compare relative to the largest value of each tensor, with `statistics` as tolerance of batch norm."""
    assert len(found.losses) == len(alone.losses) > 0
    assert found.losses == pytest.approx(alone.losses, rel=tolerance)
    assert found.gradients.keys() == alone.gradients.keys()
    for kind in ("gradients", "weights"):
        for name, expected in getattr(alone, kind).items():
            if name in but:
                continue
            got = getattr(found, kind)[name]
            scale = float(expected.double().abs().max()) if expected.numel() else 1.0
            allowed = (statistics or tolerance) if "running" in name else tolerance
            assert torch.allclose(got, expected, rtol=0, atol=allowed * max(scale, 0.1)), (kind, name)


@pytest.mark.parametrize("case", TOYS)
def test_two_processes_train_as_one(ranks: Results, case: tuple[str, torch.dtype, int, int | None]) -> None:
    alone = train_toy(*case)
    for results in ranks:
        assert_same(results[str(case)], alone, tolerance=TOLERANCE[case[1]], but=SEVERAL_TIMES[case[0]])


@pytest.mark.parametrize("name", AUDIOCLIPS)
def test_two_processes_train_an_audioclip_as_one(ranks: Results, name: str) -> None:
    alone = train_audioclip(torch.float64, 5, **AUDIOCLIPS[name])
    for results in ranks:
        assert_same(results[name], alone, tolerance=1e-10)
    assert any("visual" in weight for weight in alone.weights)
    assert not any("visual" in weight for weight in alone.gradients)
    assert ("audio.fbsp.m" in alone.gradients) == (name == "a step")


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("chunk", PARTS)
def test_two_processes_train_three_incomplete_modalities_as_one(
    ranks: Results, chunk: int | None, taught: bool
) -> None:
    alone = train_three_modalities(torch.float64, 7, chunk=chunk, taught=taught)
    for results in ranks:
        assert_same(results[f"three {chunk} {taught}"], alone, tolerance=1e-10)
    for tower in ("audio.conv1.weight", "visual.conv1.weight", "text_projection"):
        assert alone.gradients[tower].any()


def test_two_processes_train_as_one_when_few_samples_have_a_sound(ranks: Results) -> None:
    """No process waits for one without a sound; a sound alone in the global batch is dropped."""
    alone = take_lonely_steps()
    sound = 'steps without "sound" (only one sample in the batch had it)'
    assert alone["counts"] == {sound: 1}
    for results in ranks:
        found = results["lonely"]
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-10)
        for step, expected in enumerate(alone["gradients"]):
            for name, gradient in expected.items():
                got = found["gradients"][step][name]
                assert (got is None) == (gradient is None) == (step == 2 and name.startswith("sound."))
                assert got is None or torch.allclose(got, gradient, rtol=0, atol=1e-10)
        unsynchronised = "steps with unsynchronised batch norm"
        assert found["counts"] == {sound: 1, unsynchronised: 2}


IN_PARTS = {"norms": "eval", "chunk": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "batch", "options"),
    # With norms in train mode, float32 losses of a single process already depend on its number of threads: by
    # 3e-5 in the first step, by 6 % in the third.
    [(torch.float64, 7, {"size": 64}), (torch.float64, 8, IN_PARTS), (torch.float32, 8, IN_PARTS)],
)
def test_steps_of_an_audioclip_with_batch_norm(
    tmp_path: Path, dtype: torch.dtype, batch: int, options: dict[str, Any]
) -> None:
    train = functools.partial(train_audioclip, dtype, batch, **options)
    alone = train()
    for found in on_ranks(2, tmp_path, train):
        # Fifty norms in a row amplify rounding errors sevenfold in every step.
        assert_same(found, alone, tolerance=TOLERANCE[dtype], statistics=10 * TOLERANCE[dtype])


def test_the_comparison_notices_different_steps(ranks: Results) -> None:
    with pytest.raises(AssertionError):
        assert_same(ranks[0][str(TOYS[0])], ranks[0][str(TOYS[1])], tolerance=1e-3)


def test_fewer_gpus_than_processes_are_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    distributed._take_device()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ProtocolError) as caught:
        distributed._take_device()
    assert taken == [0]
    assert str(caught.value) == (
        "2 processes on this machine, 1 GPU: start torchrun with --nproc-per-node 1, or hide the GPU with "
        "CUDA_VISIBLE_DEVICES=''."
    )


def test_rows_are_gathered_on_the_device_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a sample has no tensor that shows the device."""

    class Careless(Matching):
        def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:  # noqa: ARG002
            return StepOutput(torch.zeros(2, 3, device="meta"), torch.zeros(2))

    devices: list[str] = []

    def gather(rows: Tensor, _: list[int]) -> Tensor:
        devices.append(rows.device.type)
        return rows

    monkeypatch.setattr(forward, "world_size", lambda: 2)
    monkeypatch.setattr(forward, "gather_rows", gather)
    tone = Tone(torch.zeros(2, 1, 8), None, 0.0, "", torch.zeros(2, dtype=torch.int64))
    meta = torch.device("meta")
    forward.evaluation_step(Careless(), nn.Identity(), Batch(torch.arange(2), tone), device=meta)
    assert devices == ["meta"] * 3  # scores, targets, and a field of the samples


@pytest.fixture(params=["communicated", "communicated beside nccl"])
def from_all(request: pytest.FixtureRequest, ranks: Results) -> Results:
    """Return the results of each process, with and without a default group that refuses CPU tensors."""
    return [results[request.param] for results in ranks]


def test_messages_and_errors_reach_all_processes(from_all: Results) -> None:
    for number, result in enumerate(from_all):
        assert result["ranks"] == (number, 2, number == 0)
        assert result["all"] == ["rank 0", "rank 1"]
        assert result["main"] == "rank 0"
        assert result["any"] == (True, False)
        assert result["main fails"] == "of rank 0"
        assert result["one fails"] == "of rank 1"


def test_exactly_one_process_reports_first(ranks: Results) -> None:
    assert sorted(results["first"] for results in ranks) == [False, True]


def test_gathered_rows_have_the_gradient_of_one_loss(from_all: Results) -> None:
    gathered = torch.tensor([[0.0], [1.0], [0.0], [1.0], [2.0]])
    for result, rows in zip(from_all, (gathered[:2], gathered[2:]), strict=True):
        assert torch.equal(result["gathered"], gathered)
        # The loss is half the sum of squares, so its gradient by a row x is x, times two processes.
        assert torch.equal(result["row gradient"], 2 * rows)


def test_sums_and_the_state_of_the_main_process_are_shared(from_all: Results) -> None:
    for result in from_all:
        assert result["sum"] == 3.0
        assert torch.equal(result["shared"], torch.zeros(2))


def test_gradients_are_averaged_if_any_process_has_one(from_all: Results) -> None:
    for result in from_all:
        ours, alone, unused = result["averaged"]
        assert torch.equal(ours, torch.full((2,), 0.5))
        assert torch.equal(alone, torch.full((3,), 0.5))
        assert unused is None


@pytest.mark.slow
def test_four_processes_train_as_one(tmp_path: Path) -> None:
    for kind, batch in (("matching", 10), ("pairing", 11)):
        alone = train_toy(kind, torch.float64, batch)
        for found in on_ranks(4, tmp_path, train_toy, kind, torch.float64, batch):
            assert_same(found, alone, tolerance=1e-10, but=SEVERAL_TIMES[kind])
    train = functools.partial(train_audioclip, torch.float64, 6, norms="eval")
    alone = train()
    for found in on_ranks(4, tmp_path, train):
        assert_same(found, alone, tolerance=1e-10)
