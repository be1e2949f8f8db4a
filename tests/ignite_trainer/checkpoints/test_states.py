"""States of a run: content, damage, and the files that stay on disk."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_research.protocols import run_toy, toy
from toy_research.records import differences, events

from ignite_trainer.checkpoints import checkpoint_files
from ignite_trainer.checkpoints.checkpoint_files import snapshot
from ignite_trainer.checkpoints.checkpoints import Checkpoints
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.model_preparation import convert_to_channels_last
from ignite_trainer.support import files
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import checksum_of, is_intact, write_durably
from ignite_trainer.support.formatting import EPOCH_0
from ignite_trainer.training.optimization import build_optimizer
from model.weights.loading import read_state_dict
from model.weights.releases import WeightsError
from model.weights.run_folders import best_checkpoint

ROOT = Path(__file__).parents[3]
FREEZE_RIGHT: dict[str, Any] = {"Parameters": [{"match": "left\\..*|scale"}, {"match": ".*", "train": False}]}
# A script that overwrites a file and is killed after a given number of renames.
_CRASH = """
import os, sys
from pathlib import Path
from ignite_trainer.support.files import checksum_of, is_intact, write_durably

left = int(sys.argv[2])

def look(event, args):
    global left
    if event == "os.rename":
        if not left:
            os._exit(9)
        left -= 1

sys.addaudithook(look)
write_durably(Path(sys.argv[1]), lambda file: file.write(b"new"))
"""


class Training:
    """A small model in training, and its checkpoints; `frozen` freezes the convolution."""

    def __init__(
        self,
        folder: Path,
        *,
        channels_last: bool = False,
        kind: Any = torch.optim.AdamW,
        frozen: bool = False,
    ) -> None:
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
        self.model[0].requires_grad_(not frozen)
        if channels_last:
            convert_to_channels_last(self.model)
        args = {"lr": 0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
        self.optimizer = build_optimizer(kind, args, [{"params": list(self.model.parameters())}])
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [1, 3], gamma=0.5)
        self.checkpoints = Checkpoints(
            folder,
            validate(toy(folder)),
            model=self.model,
            state={"optimizer": self.optimizer, "scheduler": self.scheduler},
        )

    def epoch(self) -> float:
        for _ in range(3):
            loss = self.model(torch.randn(2, 3, 5, 5)).square().mean() + random.random() * np.random.rand()  # noqa: NPY002
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.scheduler.step()
        return float(loss.detach())

    def save(self, epoch: int, accuracy: float) -> None:
        self.checkpoints.save({"Val. Acc.": accuracy}, position=at(epoch))
        self.checkpoints.wait()

    def save_state(self, position: Position) -> None:
        self.checkpoints.save_state(position)
        self.checkpoints.wait()

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def has(self, weights: Mapping[str, Tensor]) -> bool:
        own = self.model.state_dict()
        return own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)


def at(epoch: int) -> Position:
    return Position(epoch=epoch, iteration=3 * epoch, complete=True)


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path, pattern: str = "*.pt") -> set[str]:
    return {path.name for path in folder.glob(pattern)}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_restored_training_is_bit_identical(tmp_path: Path, kind: Any) -> None:
    seed(1)
    first = Training(tmp_path, kind=kind)
    first.epoch()
    first.save(1, 0.5)
    losses = [first.epoch() for _ in range(3)]
    seed(2)
    second = Training(tmp_path, kind=kind)
    assert second.checkpoints.restore() == at(1)
    assert [second.epoch() for _ in range(3)] == losses
    assert second.has(first.weights())
    assert second.scheduler.get_last_lr() == first.scheduler.get_last_lr()
    assert [best.value for best in second.checkpoints.best] == [0.5]


def test_the_optimizers_tensors_get_the_layout_of_their_parameters(tmp_path: Path) -> None:
    first = Training(tmp_path, kind=torch.optim.SGD)
    first.epoch()
    first.save_state(at(1))
    second = Training(tmp_path, channels_last=True, kind=torch.optim.SGD)
    second.checkpoints.restore()
    weight, expected = second.model.get_parameter("0.weight"), first.model.get_parameter("0.weight")
    buffer = second.optimizer.state[weight]["momentum_buffer"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    assert buffer.stride() == weight.stride()
    # One step of each with the same gradient: fused kernels would mix up different layouts.
    gradient = torch.randn(weight.shape)
    for training, parameter in ((first, expected), (second, weight)):
        for other in training.model.parameters():
            other.grad = torch.zeros_like(other)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        training.optimizer.step()
    assert torch.equal(weight.contiguous(), expected)


def test_the_last_two_states_and_the_best_files_that_they_name_are_kept(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for epoch, accuracy in enumerate((0.1, 0.2, 0.3, 0.4), start=1):
        training.save(epoch, accuracy)
    best = {f"best_val-acc_epoch-{epoch}_0.{epoch}000.pt" for epoch in (1, 2, 3, 4)}
    assert names(tmp_path) == {"last_epoch-3.pt", "last_epoch-4.pt", *best}
    training.save_state(Position(epoch=5, iteration=13))
    assert names(tmp_path, "last*.pt") == {"last_epoch-4.pt", "last_epoch-5_step-13.pt"}
    assert names(tmp_path, "best*.pt") == best - {"best_val-acc_epoch-1_0.1000.pt"}
    training.checkpoints.finish()
    assert names(tmp_path, "last*") == {"last_epoch-5_step-13.pt", "last_epoch-5_step-13.pt.sha256"}


def test_restoring_removes_everything_written_later(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for epoch, accuracy in enumerate((0.1, 0.2, 0.3, 0.4), start=1):
        training.save(epoch, accuracy)
    for remains in ("last_epoch-5.pt.part", "last_epoch-5.pt.sha256"):
        (tmp_path / remains).touch()
    (tmp_path / "last_epoch-4.pt").write_bytes(b"")
    again = Training(tmp_path)
    assert again.checkpoints.restore() == at(3)
    assert names(tmp_path, "*") & {"last_epoch-4.pt", *names(tmp_path, "last_epoch-5*")} == set()
    assert names(tmp_path, "best*.pt") == {f"best_val-acc_epoch-{n}_0.{n}000.pt" for n in (1, 2, 3)}
    again.save(4, 0.5)
    assert names(tmp_path, "best*.pt") == {
        *(f"best_val-acc_epoch-{n}_0.{n}000.pt" for n in (1, 2, 3)),
        "best_val-acc_epoch-4_0.5000.pt",
    }
    again.checkpoints.finish()
    assert len(names(tmp_path, "best*.pt")) == 3


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_is_detected_and_the_previous_state_is_restored(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(tmp_path)
    training.epoch()
    training.save(1, 0.5)
    expected = training.weights()
    training.epoch()
    training.save_state(Position(epoch=2, iteration=4))
    path = tmp_path / "last_epoch-2_step-4.pt"
    whole, checksum = path.read_bytes(), path.with_name(path.name + ".sha256").read_bytes()
    for offset in np.random.default_rng(0).choice(len(whole), size=50, replace=False):
        flipped = bytes([whole[offset] ^ (1 << offset % 8)])
        path.write_bytes(whole[:offset] + (b"" if damage == "cut" else flipped + whole[offset + 1 :]))
        path.with_name(path.name + ".sha256").write_bytes(checksum)
        caplog.clear()
        again = Training(tmp_path)
        with caplog.at_level(logging.WARNING):
            assert again.checkpoints.restore() == at(1)
        assert f"{path} is damaged or incomplete, so {path.name} cannot be restored" in caplog.text
        assert again.has(expected)
    path.write_bytes(whole)
    path.with_name(path.name + ".sha256").write_bytes(checksum)
    assert Training(tmp_path).checkpoints.restore() == Position(epoch=2, iteration=4)


@pytest.mark.parametrize("what", ["damaged", "removed", "other data", "more data", "other names"])
def test_a_finished_run_that_cannot_be_resumed_is_left_unchanged(tmp_path: Path, what: str) -> None:
    changes: dict[str, Any] = {"Setup__batch_train": 4, "Setup__epochs": 1}
    folder = run_toy(tmp_path, **changes).folder
    state = folder / "checkpoints/last_epoch-1.pt"
    if what == "damaged":
        state.write_bytes(state.read_bytes()[:-1])
    elif what == "removed":
        state.unlink()
    else:
        args = {"other data": {"samples": 15}, "more data": {"samples": 31}}.get(what, {"folds": 3})
        kind = "toy_research.failing.FaultyTones" if what == "other names" else "toy_research.signals.Tones"
        changes["Dataset"] = {"class": kind, "args": {"fold": 1, **args}}
        raw = json.loads((folder / "protocol.json").read_text())
        (folder / "protocol.json").write_text(json.dumps({**raw, "Dataset": changes["Dataset"]}))
    before = contents(folder.parent)
    expected = {
        "damaged": "no intact state (damaged: last_epoch-1.pt). It cannot",
        "removed": "no intact state (all are missing). It cannot",
        "other data": "the data set has changed: batches of an epoch: 5 then, 2 now; samples of the train ",
        "more data": "the data set has changed: samples of the test split: 10 then, 11 now",
        "other names": "the data set has changed: digest of the train split's names and targets",
    }
    with pytest.raises(ProtocolError, match=re.escape(expected[what])):
        run_toy(tmp_path, **{**changes, "Setup__epochs": 2, "Setup__resume": "auto"})
    assert contents(folder.parent) == before


def test_a_run_killed_before_its_first_state_starts_over(tmp_path: Path) -> None:
    folder = run_toy(tmp_path).folder
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    assert run_toy(tmp_path, Setup__resume="auto").folder == folder
    assert (folder / "result.json").exists()


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    Training(tmp_path).save_state(at(1))
    other = Checkpoints(tmp_path, validate(toy(tmp_path)), model=nn.Linear(2, 2), state={})
    with pytest.raises(ProtocolError, match=r"last_epoch-1\.pt does not match the protocol: "):
        other.restore()


def with_best(file: str) -> dict[str, Any]:
    return {"best": {"Val. Acc.": [{"value": -1.0, "epoch": 1, "file": file}] * 3}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (with_best("{outside}"), "is not a valid name for a file"),
        (with_best("../victim.pt"), "is not a valid name for a file"),
        (with_best("best_x/../../_epoch-1_0.5.pt"), "is not a valid name for a file"),
        ({"position": {"epoch": "1", "iteration": 3}}, "position.epoch: Input should be a valid"),
        ({"position": {"epoch": 9, "iteration": 3, "complete": True}}, "must be named last_epoch-9.pt"),
        ({"optimizer": None}, "optimizer: Field required"),
    ],
)
def test_an_invalid_state_is_refused_before_it_is_used(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    outside = tmp_path / "victim.pt"
    outside.write_text("precious")
    folder = tmp_path / "checkpoints"
    Training(folder).save(1, 0.5)
    path = folder / "last_epoch-1.pt"
    saved = torch.load(path, weights_only=True)
    saved |= json.loads(json.dumps(change).replace("{outside}", str(outside)))
    saved = {name: content for name, content in saved.items() if content is not None}
    write_durably(path, lambda file: torch.save(saved, file))
    again = Training(folder)
    with pytest.raises(ProtocolError) as caught:
        again.checkpoints.restore()
        for epoch in (2, 3, 4):  # saving removes the files that are no longer among the best
            again.save(epoch, 0.6)
    assert str(caught.value).startswith(f"State {path} is not a valid state of this version (")
    assert problem in str(caught.value)
    assert outside.read_text() == "precious"


def test_epoch_0_is_the_best_until_a_trained_epoch_equals_it(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    weight = model.weight.detach().clone()
    kept = Checkpoints(tmp_path, validate(toy(tmp_path)), model=model, state={})
    kept.save_untrained({"Val. Acc.": 0.5})
    with torch.no_grad():
        model.weight.add_(1.0)
    for epoch, value in enumerate((0.4, 0.3), start=1):
        kept.save({"Val. Acc.": value}, position=at(epoch))
    assert [(best.value, best.epoch) for best in kept.best] == [(0.5, 0)]
    kept.finish()
    assert kept.best[0].checkpoint == tmp_path / "best_val-acc_epoch-0_0.5000.pt"
    assert torch.equal(torch.load(kept.best[0].checkpoint, weights_only=True)["weight"], weight)
    again = Checkpoints(tmp_path, validate(toy(tmp_path)), model=nn.Linear(2, 2), state={})
    again.restore()
    assert again.best == kept.best
    for epoch in (3, 4, 5):
        again.save({"Val. Acc.": 0.5}, position=at(epoch))
    again.finish()
    # The earliest of equal trained epochs is the best.
    assert [(best.value, best.epoch) for best in again.best] == [(0.5, 3)]
    assert names(tmp_path, "best_*.pt") == {f"best_val-acc_epoch-{epoch}_0.5000.pt" for epoch in (3, 4, 5)}


def test_all_reports_explain_a_best_epoch_of_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporters = [{"class": f"ignite_trainer.reporters.{name}"} for name in ("Console", "JsonLines", "Report")]
    line = {
        "class": "ignite.metrics.Accuracy",
        "line_label": "Val. Acc.",
        "is_checkpoint": True,
        "best": "min",
    }
    metrics = {"Performance": {"lines": [line]}}
    result = run_toy(tmp_path, Setup__epochs=2, Metrics=metrics, Reporters=reporters)
    (best,) = result.record.best
    evaluated = events(result.folder)
    assert (best.epoch, best.value) == (0, evaluated[0]["metrics"]["Val. Acc."])
    assert best.checkpoint is not None
    checkpoints = result.folder / "checkpoints"
    assert is_intact(checkpoints / best.checkpoint)
    assert best_checkpoint(result.folder) == checkpoints / best.checkpoint
    assert "(epoch 0)" in (result.folder / "report.html").read_text()
    assert EPOCH_0 in capsys.readouterr().out.splitlines()
    for page in (result.folder / "report.html", tmp_path / "table.md"):
        assert EPOCH_0 in page.read_text(), page
    assert run_toy(tmp_path, Setup__epochs=0).record.best == ()  # nothing is trained, so no epoch is chosen


def test_skipped_samples_are_counted_across_resumes(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "Dataset": {"class": "toy_research.failing.FaultyTones", "args": {"fold": 1, "gone": [1, 6]}},
        "Faults": {"unreadable": "skip", "unreadable_at_most": 0.1},
    }
    folder = run_toy(tmp_path, **changes, Setup__epochs=1).folder
    changes["Dataset"]["args"]["gone"] = []  # the sample is readable again
    raw = json.loads((folder / "protocol.json").read_text())
    (folder / "protocol.json").write_text(json.dumps({**raw, "Dataset": changes["Dataset"]}))
    again = run_toy(tmp_path, **changes, Setup__resume="auto")
    assert again.folder == folder
    assert again.record.faults == {"samples skipped": 2}


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_crash_between_renames_leaves_an_intact_file(tmp_path: Path, renames: int) -> None:
    path = tmp_path / "state.pt"
    write_durably(path, lambda file: file.write(b"old"))
    crashed = subprocess.run([sys.executable, "-c", _CRASH, str(path), str(renames)], cwd=ROOT, check=False)
    assert crashed.returncode == (9 if renames < 3 else 0)
    assert path.read_bytes() == (b"old" if renames < 2 else b"new")
    assert is_intact(path)
    write_durably(path, lambda file: file.write(b"newer"))
    assert is_intact(path)
    assert checksum_of(path).read_text() == f"{hashlib.sha256(b'newer').hexdigest()}  state.pt\n"
    assert names(tmp_path, "*.part") <= {"state.pt.part"}


# On the CPU


def test_a_snapshot_copies_nested_tensors_and_keeps_container_types() -> None:
    weight = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    tied = {"one": weight, "other": weight.detach()}
    state: dict[str, Any] = {
        "tied": tied,
        "lists": [[weight.detach()], (weight.detach(), 1.5)],
        "steps": Counter({3: 2}),
    }
    taken = snapshot(state)
    copies = [*taken["tied"].values(), taken["lists"][0][0], taken["lists"][1][0]]
    expected = weight.detach().clone()
    with torch.no_grad():
        weight.zero_()
    state["steps"][3] = 9
    state["lists"][0].append("later")
    assert len({copy.data_ptr() for copy in copies}) == 4
    for copy in copies:
        assert (type(copy), copy.device.type, copy.requires_grad) == (Tensor, "cpu", False)
        assert copy.is_contiguous()
        assert torch.equal(copy, expected)
    assert taken["steps"] == Counter({3: 2})
    assert type(taken["steps"]) is Counter
    assert len(taken["lists"][0]) == 1


def test_states_are_always_read_onto_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes reads for verification, as a full device has no room for the tensors."""
    loaded: list[tuple[str, Any]] = []
    load = torch.load

    def note(path: Path, **options: Any) -> Any:
        loaded.append((path.name, options.get("map_location")))
        return load(path, **options)

    monkeypatch.setattr(torch, "load", note)
    training = Training(tmp_path, frozen=True)
    training.save(1, 0.5)
    assert training.checkpoints.restore() == at(1)
    assert {name for name, _ in loaded} == {"last_epoch-1.pt", "frozen_weights.pt"}
    assert {place for _, place in loaded} == {"cpu"}


@pytest.mark.gpu
def test_checkpoints_from_a_gpu_load_without_one(tmp_path: Path) -> None:
    folder = run_toy(tmp_path, **FREEZE_RIGHT).folder / "checkpoints"
    script = "import sys, torch; [torch.load(path, weights_only=True) for path in sys.argv[1:]]"
    files = [str(path) for path in folder.glob("*.pt")]
    assert len(files) == 4
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", script, *files], check=True, env=environment)


# Frozen weights


def saved_names(path: Path) -> set[str]:
    return set(torch.load(path, weights_only=True)["model"])


def test_frozen_weights_are_written_once_and_are_not_in_states(tmp_path: Path) -> None:
    training = Training(tmp_path, frozen=True)
    frozen = tmp_path / "frozen_weights.pt"
    others = training.weights().keys() - {"0.weight", "0.bias"}
    written = set()
    for epoch in (1, 2, 3):
        training.epoch()
        training.save(epoch, epoch / 10)
        written.add(frozen.stat().st_ino)
        assert saved_names(tmp_path / f"last_epoch-{epoch}.pt") == others
        best = torch.load(tmp_path / f"best_val-acc_epoch-{epoch}_0.{epoch}000.pt", weights_only=True)
        assert best.keys() == training.weights().keys()
    training.checkpoints.finish()
    assert torch.load(frozen, weights_only=True).keys() == {"0.weight", "0.bias"}
    assert is_intact(frozen)
    again = Training(tmp_path, frozen=True)
    assert again.checkpoints.restore() == at(3)
    assert again.has(training.weights())
    again.epoch()
    again.save(4, 0.4)
    assert saved_names(tmp_path / "last_epoch-4.pt") == others
    assert {*written, frozen.stat().st_ino} == written
    assert len(written) == 1


def test_no_file_is_written_for_a_model_without_frozen_weights(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1, 0.5)
    assert not (tmp_path / "frozen_weights.pt").exists()
    assert saved_names(tmp_path / "last_epoch-1.pt") == training.weights().keys()


@pytest.mark.parametrize("value", [0.25, -0.0, torch.nan])
def test_a_frozen_weight_that_changed_is_in_the_state(tmp_path: Path, value: float) -> None:
    training = Training(tmp_path, frozen=True)
    with torch.no_grad():
        training.model.get_parameter("0.bias").zero_()
    training.save(1, 0.5)
    with torch.no_grad():
        training.model.get_parameter("0.bias")[1] = value  # as a task with a moving teacher does
    training.save(2, 0.5)
    assert "0.bias" in saved_names(tmp_path / "last_epoch-2.pt")
    assert "0.weight" not in saved_names(tmp_path / "last_epoch-2.pt")
    again = Training(tmp_path, frozen=True)
    again.checkpoints.restore()
    bias = again.weights()["0.bias"]
    assert torch.equal(bias.view(torch.int32), training.weights()["0.bias"].view(torch.int32))


def test_a_frozen_weight_may_be_nan(tmp_path: Path) -> None:
    training = Training(tmp_path, frozen=True)
    with torch.no_grad():
        training.model.get_parameter("0.bias")[1] = torch.nan
    training.save(1, 0.5)
    assert "0.bias" not in saved_names(tmp_path / "last_epoch-1.pt")


def test_an_older_state_with_all_weights_can_be_restored(tmp_path: Path) -> None:
    training = Training(tmp_path, frozen=True)
    training.save(1, 0.5)
    path, frozen = tmp_path / "last_epoch-1.pt", tmp_path / "frozen_weights.pt"
    state = torch.load(path, weights_only=True)
    del state["frozen_weights"]
    write_durably(path, lambda file: torch.save({**state, "model": training.weights()}, file))
    frozen.unlink()
    again = Training(tmp_path, frozen=True)
    assert again.checkpoints.restore() == at(1)
    assert again.has(training.weights())
    again.save(2, 0.5)
    assert "0.weight" not in saved_names(tmp_path / "last_epoch-2.pt")
    assert Training(tmp_path, frozen=True).checkpoints.restore() == at(2)


@pytest.mark.parametrize("damage", ["removed", "damaged", "of another run"])
def test_a_run_without_its_frozen_weights_is_refused_by_their_file_name(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_toy(tmp_path, **FREEZE_RIGHT).folder
    path = folder / "checkpoints/frozen_weights.pt"
    if damage == "removed":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        write_durably(path, lambda file: torch.save({}, file))
    before = contents(folder)
    with pytest.raises(ProtocolError, match=r"no intact state \(damaged: frozen_weights\.pt\)\. It cannot"):
        run_toy(tmp_path, **FREEZE_RIGHT, Setup__epochs=3, Setup__resume="auto")
    assert f"{path} is damaged or incomplete, so last_epoch-2.pt cannot be restored" in caplog.text
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"", " (an empty file)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", " (a Git LFS pointer; run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", " (an HTML page)"),
        (b"PK", ""),
    ],
)
def test_common_contents_in_place_of_a_state_are_recognised(
    tmp_path: Path, content: bytes, description: str
) -> None:
    path = tmp_path / "last_epoch-2.pt"
    path.write_bytes(content)
    assert checkpoint_files.DamagedError(path).name.startswith(f"last_epoch-2.pt{description}")


def test_a_deleted_file_of_frozen_weights_is_rewritten(tmp_path: Path) -> None:
    training = Training(tmp_path, frozen=True)
    training.save(1, 0.5)
    (tmp_path / "frozen_weights.pt").unlink()
    training.save(2, 0.5)
    assert Training(tmp_path, frozen=True).checkpoints.restore() == at(2)


def test_read_state_dict_joins_a_state_and_its_frozen_weights(tmp_path: Path) -> None:
    training = Training(tmp_path, frozen=True)
    training.save(1, 0.5)
    path = tmp_path / "last_epoch-1.pt"
    assert training.has(read_state_dict(path))
    (tmp_path / "frozen_weights.pt").rename(tmp_path / "elsewhere.pt")
    with pytest.raises(
        WeightsError, match=r"frozen weights are in frozen_weights\.pt .* is missing\. Restore it"
    ):
        read_state_dict(path)
    torch.save({}, tmp_path / "frozen_weights.pt")
    with pytest.raises(WeightsError, match=r"that file is damaged or from another run\. .* best_\*\.pt"):
        read_state_dict(path)


# Writing during training


@contextmanager
def delayed_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Delay all writes until the event is set."""
    go, write = threading.Event(), files.write_durably

    def waiting(*args: Any) -> str:
        assert go.wait(60)
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "write_durably", waiting)
        yield go
        go.set()


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.2) -> None:
    """Delay every write."""
    write = files.write_durably

    def slowly(*args: Any) -> str:
        time.sleep(seconds)
        return write(*args)

    monkeypatch.setattr(checkpoint_files, "write_durably", slowly)


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every write fail."""

    def fail(*_: Any) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fail)


def test_training_during_a_write_does_not_change_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(1)
    training = Training(tmp_path)
    training.epoch()
    with delayed_writes(monkeypatch) as go:
        training.checkpoints.save({"Val. Acc.": 0.5}, position=at(1))
        losses = [training.epoch() for _ in range(3)]
        assert not names(tmp_path)
        go.set()
        training.checkpoints.wait()
    seed(2)
    again = Training(tmp_path)
    assert again.checkpoints.restore() == at(1)
    assert [again.epoch() for _ in range(3)] == losses


def test_a_save_waits_for_the_previous_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path)
    with delayed_writes(monkeypatch) as go:
        training.checkpoints.save_state(at(1))
        opened = threading.Timer(0.3, go.set)
        opened.start()
        training.checkpoints.save_state(at(2))
        assert go.is_set()
        assert names(tmp_path) >= {"last_epoch-1.pt"}
        training.checkpoints.wait()
        opened.join()
    assert names(tmp_path) == {"last_epoch-1.pt", "last_epoch-2.pt"}


@pytest.mark.parametrize("then", ["save_state", "finish", "wait"])
def test_a_failed_write_is_raised_by_the_next_call_and_keeps_older_states(
    tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    for epoch in (1, 2):
        training.save(epoch, 0.5)
    before = names(tmp_path, "*")
    full(monkeypatch)
    training.checkpoints.save_state(at(3))
    following = getattr(training.checkpoints, then)
    with pytest.raises(RunFailed, match=r"last_epoch-3\.pt cannot be written \(no space left"):
        following(*[at(4)] * (then == "save_state"))
    training.checkpoints.wait()  # the error is raised only once
    assert names(tmp_path, "*") == before


def test_a_failed_write_is_known_before_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    full(monkeypatch)
    training.checkpoints.save_state(at(1))
    assert training.checkpoints._pending is not None
    concurrent.futures.wait([training.checkpoints._pending], timeout=30)
    assert training.checkpoints.failed
    with pytest.raises(RunFailed, match=r"last_epoch-1\.pt cannot be written"):
        training.checkpoints.wait()
    assert not training.checkpoints.failed


def test_a_state_with_values_that_are_not_plain_is_refused_and_removed(tmp_path: Path) -> None:
    class Part:
        def state_dict(self) -> dict[str, Any]:
            return {"path": tmp_path}

    kept = Checkpoints(tmp_path, validate(toy(tmp_path)), model=nn.Linear(2, 2), state={"part": Part()})
    kept.save_state(at(1))
    with pytest.raises(
        RunFailed,
        match=r"^Cannot save the state of the run: it must contain only plain values and tensors \(",
    ):
        kept.wait()
    assert not names(tmp_path, "*")


@pytest.mark.parametrize("kind", ["Interrupted", "Matching"])
def test_pending_checkpoints_are_written_even_after_an_error(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task: dict[str, Any] = {"class": f"toy_research.learning.{kind}"}
    if kind == "Matching":
        task["args"] = {"explode_at": 3}
    slow(monkeypatch)
    with pytest.raises(KeyboardInterrupt if kind == "Interrupted" else RunFailed):
        run_toy(tmp_path, Task=task)
    (state,) = tmp_path.glob("Toy/*/checkpoints/last_*.pt")
    assert state.name == "last_epoch-1.pt"
    assert is_intact(state)


def test_a_stopped_run_that_cannot_write_its_state_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", "step": 1}}
    full(monkeypatch)
    with pytest.raises(RunFailed, match=r"last_epoch-1_step-1\.pt cannot be written"):
        run_toy(tmp_path, Task=task, Metrics={})


def test_slow_writes_do_not_change_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders fork while a checkpoint is being written."""
    changes: dict[str, Any] = {
        "Setup__epochs": 3,
        "Setup__workers_train": 2,
        "Setup__workers_test": 1,
        **FREEZE_RIGHT,
    }
    quick = run_toy(tmp_path / "quick", **changes).folder
    slow(monkeypatch, seconds=0.1)
    assert differences(quick, run_toy(tmp_path / "slow", **changes).folder) == []
