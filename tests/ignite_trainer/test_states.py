"""Whole states of a run: what they hold, what damage they survive, which stay on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from toy_research.protocols import run_toy, toy
from toy_research.sameness import differences

from ignite_trainer.checkpoints import Checkpoints, Position
from ignite_trainer.durable import checksum_of, is_intact, write_durably
from ignite_trainer.errors import ProtocolError
from ignite_trainer.model_preparation import put_channels_last
from ignite_trainer.optimizer import build_optimizer
from ignite_trainer.validation import validate

ROOT = Path(__file__).parents[2]
# Writes a file anew, and is killed before a rename, when so many are done.
_CRASH = """
import os, sys
from pathlib import Path
from ignite_trainer.durable import checksum_of, is_intact, write_durably

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


def network(*, channels_last: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
    if channels_last:
        put_channels_last(model)
    return model


class Training:
    """A small model in training, and its checkpoints."""

    def __init__(self, folder: Path, *, channels_last: bool = False, kind: Any = torch.optim.AdamW) -> None:
        self.model = network(channels_last=channels_last)
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

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def at(epoch: int) -> Position:
    return Position(epoch=epoch, iteration=3 * epoch, complete=True)


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002


def names(folder: Path, pattern: str = "*.pt") -> set[str]:
    return {path.name for path in folder.glob(pattern)}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_restored_run_goes_on_as_one_that_was_not_interrupted(
    tmp_path: Path, kind: Any, channels_last: bool
) -> None:
    seed(1)
    first = Training(tmp_path, channels_last=channels_last, kind=kind)
    first.epoch()
    first.save(1, 0.5)
    losses = [first.epoch() for _ in range(3)]
    seed(2)
    second = Training(tmp_path, channels_last=channels_last, kind=kind)
    assert second.checkpoints.restore() == at(1)
    assert [second.epoch() for _ in range(3)] == losses
    assert all(torch.equal(value, first.weights()[name]) for name, value in second.weights().items())
    assert second.scheduler.get_last_lr() == first.scheduler.get_last_lr()
    assert [best.value for best in second.checkpoints.best] == [0.5]


def test_what_the_optimizer_keeps_has_the_layout_of_the_parameters(tmp_path: Path) -> None:
    first = Training(tmp_path, kind=torch.optim.SGD)
    first.epoch()
    first.checkpoints.save_state(at(1))
    second = Training(tmp_path, channels_last=True, kind=torch.optim.SGD)
    second.checkpoints.restore()
    weight, expected = second.model.get_parameter("0.weight"), first.model.get_parameter("0.weight")
    buffer = second.optimizer.state[weight]["momentum_buffer"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    assert buffer.stride() == weight.stride()
    # One step of each, with a gradient given: fused kernels would mix up what lies differently.
    gradient = torch.randn(weight.shape)
    for training, parameter in ((first, expected), (second, weight)):
        for other in training.model.parameters():
            other.grad = torch.zeros_like(other)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        training.optimizer.step()
    assert torch.equal(weight.contiguous(), expected)


def test_the_last_two_states_stay_with_all_the_best_files_they_name(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for epoch, accuracy in enumerate((0.1, 0.2, 0.3, 0.4), start=1):
        training.save(epoch, accuracy)
    best = {f"best_val-acc_epoch-{epoch}_0.{epoch}000.pt" for epoch in (1, 2, 3, 4)}
    assert names(tmp_path) == {"last_epoch-3.pt", "last_epoch-4.pt", *best}
    training.checkpoints.save_state(Position(epoch=5, iteration=13))
    assert names(tmp_path, "last*.pt") == {"last_epoch-4.pt", "last_epoch-5_step-13.pt"}
    assert names(tmp_path, "best*.pt") == best - {"best_val-acc_epoch-1_0.1000.pt"}
    training.checkpoints.finish()
    assert names(tmp_path, "last*") == {"last_epoch-5_step-13.pt", "last_epoch-5_step-13.pt.sha256"}


def test_going_back_removes_what_was_written_after(tmp_path: Path) -> None:
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
def test_any_damage_is_detected_and_the_state_before_is_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(tmp_path)
    training.epoch()
    training.save(1, 0.5)
    expected = training.weights()
    training.epoch()
    training.checkpoints.save_state(Position(epoch=2, iteration=4))
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
        assert f"The checkpoint {path} is damaged or incomplete" in caplog.text
        assert all(torch.equal(value, expected[name]) for name, value in again.weights().items())
    path.write_bytes(whole)
    path.with_name(path.name + ".sha256").write_bytes(checksum)
    assert Training(tmp_path).checkpoints.restore() == Position(epoch=2, iteration=4)


def test_without_an_intact_state_nothing_is_restored(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save(1, 0.5)
    (tmp_path / "last_epoch-1.pt.sha256").unlink()
    before = training.weights()
    assert training.checkpoints.restore() is None
    assert names(tmp_path, "last*") == {"last_epoch-1.pt"}
    assert all(torch.equal(value, before[name]) for name, value in training.weights().items())


@pytest.mark.parametrize("what", ["damaged", "removed", "other data", "more data", "other names"])
def test_a_finished_run_that_cannot_go_on_stays_as_it_is(tmp_path: Path, what: str) -> None:
    changes: dict[str, Any] = {"Setup__batch_train": 4, "Setup__epochs": 1}
    folder = run_toy(tmp_path, **changes).folder
    state = folder / "checkpoints/last_epoch-1.pt"
    if what == "damaged":
        state.write_bytes(state.read_bytes()[:-1])
    elif what == "removed":
        state.unlink()
    else:  # the file of samples is another, say
        args = {"other data": {"samples": 15}, "more data": {"samples": 31}}.get(what, {"folds": 3})
        kind = "toy_research.failing.FaultyTones" if what == "other names" else "toy_research.signals.Tones"
        changes["Dataset"] = {"class": kind, "args": {"fold": 1, **args}}
        raw = json.loads((folder / "protocol.json").read_text())
        (folder / "protocol.json").write_text(json.dumps({**raw, "Dataset": changes["Dataset"]}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    expected = {
        "damaged": "no state that is intact: last_epoch-1.pt. It cannot",
        "removed": "no state that is intact: none is there any more. It cannot",
        "other data": "the data set is another: batches of an epoch 5 then and 2 now; samples of the train ",
        "more data": "the data set is another: samples of the test split 10 then and 11 now",
        "other names": "the data set is another: digest of the train split's names and targets",
    }
    with pytest.raises(ProtocolError, match=expected[what]):
        run_toy(tmp_path, **{**changes, "Setup__epochs": 2, "Setup__resume": "auto"})
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


def test_a_run_killed_before_its_first_state_begins_anew(tmp_path: Path) -> None:
    folder = run_toy(tmp_path).folder
    shutil.rmtree(folder / "checkpoints")
    (folder / "result.json").unlink()
    assert run_toy(tmp_path, Setup__resume="auto").folder == folder
    assert (folder / "result.json").exists()


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    Training(tmp_path).checkpoints.save_state(at(1))
    other = Checkpoints(tmp_path, validate(toy(tmp_path)), model=nn.Linear(2, 2), state={})
    with pytest.raises(ProtocolError, match=r"last_epoch-1\.pt does not fit what the protocol describes: "):
        other.restore()


@pytest.mark.parametrize(
    ("place", "content", "problem"),
    [
        ("best", {"Val. Acc.": [{"value": -1.0, "epoch": 1, "file": "{outside}"}] * 3}, "no name of a file"),
        (
            "best",
            {"Val. Acc.": [{"value": -1.0, "epoch": 1, "file": "../victim.pt"}] * 3},
            "no name of a file",
        ),
        (
            "best",
            {"Val. Acc.": [{"value": -1.0, "epoch": 1, "file": "best_x/../../_epoch-1_0.5.pt"}]},
            "no name of a file",
        ),
        (
            "position",
            {"epoch": "1", "iteration": 3, "complete": True},
            "position.epoch: Input should be a valid",
        ),
        ("position", {"epoch": 9, "iteration": 3, "complete": True}, "it is that of last_epoch-9.pt"),
        ("faults", {"steps left out": -5}, "faults.steps left out: Input should be greater than"),
        ("optimizer", None, "optimizer: Field required"),
    ],
)
def test_a_crafted_state_is_refused_before_anything_of_it_is_used(
    tmp_path: Path, place: str, content: Any, problem: str
) -> None:
    outside = tmp_path / "victim.pt"
    outside.write_text("precious")
    folder = tmp_path / "checkpoints"
    Training(folder).save(1, 0.5)
    path = folder / "last_epoch-1.pt"
    saved = torch.load(path, weights_only=True)
    if content is None:
        del saved[place]
    else:
        saved[place] = json.loads(json.dumps(content).replace("{outside}", str(outside)))
    write_durably(path, lambda file: torch.save(saved, file))
    again = Training(folder)
    with pytest.raises(ProtocolError) as caught:
        again.checkpoints.restore()
        for epoch in (2, 3, 4):  # what is not among the best any more is removed
            again.save(epoch, 0.6)
    assert str(caught.value).startswith(f"The checkpoint {path} holds what no run of this version saves (")
    assert problem in str(caught.value)
    assert outside.read_text() == "precious"


def test_a_chosen_state_of_another_folder_is_left_there(tmp_path: Path) -> None:
    Training(tmp_path / "one").checkpoints.save_state(at(7))
    other = Training(tmp_path / "two")
    assert other.checkpoints.restore(tmp_path / "one/last_epoch-7.pt") == at(7)
    for epoch in (8, 9, 10):
        other.checkpoints.save_state(at(epoch))
    assert names(tmp_path / "one") == {"last_epoch-7.pt"}
    assert names(tmp_path / "two") == {"last_epoch-9.pt", "last_epoch-10.pt"}


def test_best_weights_lie_as_safetensors_beside_them_tied_ones_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    Checkpoints(tmp_path, validate(toy(tmp_path)), model=model, state={}).save(
        {"Val. Acc.": 0.5}, position=at(1)
    )
    saved = safetensors.torch.load_file(tmp_path / "best_val-acc_epoch-1_0.5000.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_samples_that_were_skipped_are_counted_over_all_parts_of_a_run(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "Dataset": {"class": "toy_research.failing.FaultyTones", "args": {"fold": 1, "gone": [1, 6]}},
        "Faults": {"unreadable": "skip", "unreadable_at_most": 0.1},
    }
    folder = run_toy(tmp_path, **changes, Setup__epochs=1).folder
    changes["Dataset"]["args"]["gone"] = []  # it can be read again
    raw = json.loads((folder / "protocol.json").read_text())
    (folder / "protocol.json").write_text(json.dumps({**raw, "Dataset": changes["Dataset"]}))
    again = run_toy(tmp_path, **changes, Setup__resume="auto")
    assert again.folder == folder
    assert again.record.faults == {"samples skipped": 2}


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_crash_between_any_two_renames_leaves_an_intact_file(tmp_path: Path, renames: int) -> None:
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


def test_runs_whose_safetensors_differ_are_told_apart(tmp_path: Path) -> None:
    first = run_toy(tmp_path / "one").folder
    second = tmp_path / "two"
    shutil.copytree(first, second)
    assert differences(first, second) == []
    path = next((second / "checkpoints").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert differences(first, second) == [path.name]
