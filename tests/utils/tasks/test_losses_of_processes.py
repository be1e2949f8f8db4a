"""Each of several processes compares its own samples: losses, gradients and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_research.joint import Reached
from toy_research.ranks import on_ranks

from tests.utils.tasks.contrasts import loss_memory, measured, take_steps

pytestmark = pytest.mark.processes

SIZES = (512, 1024, 2048)
KINDS = ("softmax", "sigmoid")
MATRIX = 4 * 512**2
"""Bytes of the similarities of 512 samples."""

Results = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def alone() -> dict[str, Reached]:
    return take_steps()


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of each of 2 and of 4 processes, and the memory of one."""
    several = {count: on_ranks(count, tmp_path_factory.mktemp("ranks"), measured, SIZES) for count in (2, 4)}
    return {1: [{"memory": loss_memory(SIZES)}], **several}


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_have_the_loss_gradients_and_scores_of_one(
    by_ranks: Results, alone: dict[str, Reached], count: int
) -> None:
    for results in by_ranks[count]:
        steps: dict[str, Reached] = results["steps"]
        assert steps.keys() == alone.keys()
        for name, found in steps.items():
            expected = alone[name]
            assert found.losses == pytest.approx(expected.losses, rel=1e-12), name
            assert found.gradients.keys() == expected.gradients.keys()
            for kind in ("gradients", "weights"):
                for of, value in getattr(expected, kind).items():
                    scale = max(1.0, float(value.abs().max()) if value.numel() else 0.0)
                    got = getattr(found, kind)[of]
                    torch.testing.assert_close(got, value, rtol=0, atol=1e-10 * scale, msg=f"{name}: {of}")


def test_steps_differ_between_tasks_and_reach_their_parameters(alone: dict[str, Reached]) -> None:
    whole = {name: step for name, step in alone.items() if name.endswith("None") and "block" not in name}
    losses = [step.losses[0] for step in whole.values()]
    assert len({round(loss, 6) for loss in losses}) == len(losses)
    for name, step in alone.items():
        reached = {of for of, gradient in step.gradients.items() if gradient.abs().sum() > 1e-9}
        scenes = {"logit_scale", "logit_scale_ai", "visual.conv1.weight"} if "scenes" in name else set()
        assert reached >= {"logit_scale_at", "audio.conv1.weight", "text_projection"} | scenes
        assert ("logit_bias_at" in reached) == ("sigmoid" in name)
        assert (
            ("logit_bias_ai" in reached) == ("logit_bias" in reached) == ("sigmoid" in name and bool(scenes))
        )


def test_memory_falls_with_the_number_of_processes(by_ranks: Results) -> None:
    """In matrices of 512 x 512 float32 at the peak of a forward and backward pass:

    ```text
                        softmax             sigmoid
    processes         1     2     4       1     2     4
    2048 samples     80    40    20      64    16     4
    512 on each       5    10    20       4     4     4
    ```
    """
    most = {
        (count, *key): max(results["memory"][key] for results in by_ranks[count]) / MATRIX
        for count in (1, 2, 4)
        for key in by_ranks[1][0]["memory"]
    }
    for count in (1, 2, 4):
        found = {kind: (most[count, kind, 2048], most[count, kind, 512 * count]) for kind in KINDS}
        assert found["softmax"] == pytest.approx((80 / count, 5 * count), rel=0.03)
        assert found["sigmoid"] == pytest.approx((64 / count**2, 4), rel=0.03)
