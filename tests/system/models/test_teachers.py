"""The quickstart with a teacher: results name its weights, states leave it out, and runs resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ignite_trainer.results.leakage import CHOSEN
from ignite_trainer.support.files import sha256_of
from model.weights.loading import read_state_dict
from tests.small_clap import SMALL_CLAP
from tests.system.conftest import QUIET, Command
from tests.system.test_protocols import SMALL

BRIEF = ["-S", "-b", "6", "--Dataset.args.seconds", "0.3", "--Dataset.args.clips_per_class_and_fold", "1"]
CLAP = json.dumps({"class": "model.clap.Clap", "args": {"pretrained": False, "config": SMALL_CLAP}})


def only_run(root: Path) -> tuple[Path, dict[str, Any]]:
    (folder,) = root.glob("*/*/")
    return folder, json.loads((folder / "result.json").read_text())


def test_a_run_learns_from_an_earlier_run_and_resumes_bit_identically(
    command: Command, tmp_path: Path
) -> None:
    roots = {name: tmp_path / name for name in ("teacher", "whole", "resumed")}
    assert command("quickstart", *BRIEF, *SMALL, *QUIET, "-e", "1", "-M", roots["teacher"]).status == 0
    taught = [*BRIEF, *SMALL, *QUIET, "-R", "3", "--Task.args.teacher", roots["teacher"]]
    taught += ["--Task.args.distillation", '{"similarities": 1.0, "embeddings": 4.0}']
    assert command("quickstart", *taught, "-M", roots["whole"], "-e", "2").status == 0
    assert command("quickstart", *taught, "-M", roots["resumed"], "-e", "1").status == 0
    assert command("quickstart", *taught, "-M", roots["resumed"], "-e", "2", "--resume").status == 0
    (of_teacher, before), (_, record) = only_run(roots["teacher"]), only_run(roots["whole"])
    best = of_teacher / "checkpoints" / before["best"][0]["checkpoint"]
    assert record["task_weights"] == [{"name": best.name, "sha256": sha256_of(best)}]
    assert record["weights"] == before["task_weights"] == []
    assert record["caution"] == CHOSEN  # the same fold is held out
    states = [next(root.rglob("last_epoch-2.pt")) for root in (roots["whole"], roots["resumed"])]
    weights, again = map(read_state_dict, states)
    assert weights.keys() == again.keys() == read_state_dict(best).keys()
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
    saved = torch.load(states[0], weights_only=True)
    alone = torch.load(next(roots["teacher"].rglob("last_epoch-1.pt")), weights_only=True)
    assert saved.keys() == alone.keys()


def test_a_protocol_with_a_clap_as_teacher_is_checked_explained_and_timed(command: Command) -> None:
    words = [*BRIEF, *SMALL, *QUIET, "-e", "1", "--Task.args.teacher", CLAP]
    checked = command("quickstart", *words, "--check")
    assert checked.status == 0 and "0 errors, 0 warnings" in checked.out + checked.err, checked.err
    assert command("quickstart", *words, "--explain").status == 0
    timed = command("quickstart", *words, "--benchmark", "1", "--Yardsticks", "{}")
    assert timed.status == 0 and "teacher" in timed.out


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"class": "os.PathLike"}, 'Task.args.teacher.class is os.PathLike; "os" is not trusted'),
        (
            {"class": "torch.optim.SGD", "args": {"lr": 1}},
            "Task.args.teacher.class is torch.optim.SGD, which",
        ),
        (
            {"class": "model.clap.Clap", "args": {"pretrain": False}},
            "Task.args.teacher.args.pretrain is not an",
        ),
        (
            {"class": "model.clap.Clap", "args": {"pretrained": False, "config": {"projection_dim": "x"}}},
            "Task.args.teacher.args.config does not describe",
        ),
        ("nowhere/weights.pt", "Task.args.teacher: nowhere/weights.pt"),
    ],
)
def test_a_wrong_teacher_is_reported_before_training(command: Command, teacher: Any, message: str) -> None:
    word = teacher if isinstance(teacher, str) else json.dumps(teacher)
    done = command("quickstart", *BRIEF, *SMALL, *QUIET, "-e", "1", "--Task.args.teacher", word)
    assert done.status != 0 and message in " ".join(done.err.split())
