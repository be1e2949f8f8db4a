"""`--check` finds and reports problems without a run, and writes no results."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.network import TwoTowers
from toy_research.protocols import Command

from ignite_trainer.commands import check_room

Check = Callable[..., tuple[int, str]]
RULES = [{"match": "left.*"}, {"match": "middle.*"}, {"match": ".*", "train": False}]


@pytest.fixture
def check(command: Command) -> Check:
    """Return a function that checks a toy protocol with changes, and returns status and report."""

    def check(**changes: Any) -> tuple[int, str]:
        done = command("-c", command.write(**changes), "--check")
        assert done.err == ""
        assert not command.results.exists()
        return done.status, done.out

    return check


def doubtful(**args: Any) -> dict[str, Any]:
    return {"class": "toy_research.signals.Doubtful", "args": {"told": args}}


def test_a_protocol_that_can_run_passes(check: Check) -> None:
    status, report = check()
    assert status == 0
    assert "0 errors, 0 warnings" in report and " free; needs about " in report


def test_errors_are_shown_first_and_findings_of_a_kind_are_counted(check: Check) -> None:
    status, report = check(Dataset=doubtful(bad=7, odd=2))
    assert status == 1
    lines = report.split("error: ", 1)[1].splitlines()
    assert lines[:9] == [
        "It is [red]broken\\x1b[0m. (7 times)",
        *(f"    tone\\r{number}" for number in range(5)),
        "    and 2 more",
        "  Mend it.",
        "warning: It is odd. (2 times)",
    ]
    assert ": 7 errors, 2 warnings (" in lines[-1]
    assert "\x1b" not in report and "some tones" in report


@pytest.mark.parametrize("epochs", [(2, 0), (0, 2)])
def test_only_protocols_that_train_must_hold_something_out(epochs: tuple[int, int], command: Command) -> None:
    points = {"class": "toy_research.embedding.Points", "args": {"fold": None}}
    paths = [
        command.write(f"{number}.json", Dataset=points, Setup__epochs=count)
        for number, count in enumerate(epochs)
    ]
    done = command("-c", *paths, "--check")
    assert done.status == 1
    reports = re.split(r"(?m)^Check results for ", done.out)[1:]
    assert ["hold nothing out" in report for report in reports] == [count > 0 for count in epochs]


GONE = {"y": {"class": "utils.benchmarks.Gone"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Parameters": RULES}, 'Parameters[1].match is "middle.*"; it matches no parameter of the model.'),
        ({"Optimizer__args": {"lr": -1.0}}, "Optimizer: Invalid learning rate: -1.0"),
        ({"Optimizer__args": {"momentun": 1}}, "Optimizer.args.momentun is not an argument"),
        ({"Setup__batch_train": 21}, "Setup.batch_train is 21, but the training split has 20 samples"),
        ({"Dataset__args": {"fold": 9}}, "Dataset.args.fold is 9; there are folds 1 to 3."),
        ({"Dataset": doubtful(raises="a tone of wood")}, "Dataset: RuntimeError: a tone of wood"),
        ({"Dataset": doubtful(room=10**18)}, "About 1,000,000,000 GB of disk space is needed; "),
        ({"Dataset": doubtful(folder="/dev/null")}, "The run cannot write to a folder that it needs."),
        ({"Sweep": {"Dataset.args.fold": [1, 9]}}, "Dataset.args.fold is 9; there are folds 1 to 3."),
        ({"Sweep": {"Setup.batch_train": [8, 21]}}, "Setup.batch_train is 21, but the training split"),
        ({"Sweep": {"Optimizer.args.lr": [0.1, -2]}}, "Optimizer: Invalid learning rate: -2"),
        ({"Sweep": {"Optimizer.args.speed": [1]}}, "Optimizer.args.speed is not an argument"),
        (
            {"Dataset": doubtful(bad=1), "Sweep": {"Dataset.args.fold": [1, 9]}},
            "Dataset.args.fold is 9; there are folds 1 to 3.",
        ),
        (
            {"Dataset": doubtful(bad=1), "Sweep": {"Setup.nmae": ["a"]}},
            "It is [red]broken",
        ),
        ({"Yardsticks": GONE}, 'Yardsticks.y.class is utils.benchmarks.Gone; utils.benchmarks has no "Gone"'),
        (
            {"Yardsticks": GONE, "Sweep": {"Setup.seed": [1, 2]}},
            'Yardsticks.y.class is utils.benchmarks.Gone; utils.benchmarks has no "Gone"',
        ),
    ],
)
def test_problems_that_would_end_a_run_are_found(check: Check, changes: dict[str, Any], said: str) -> None:
    status, report = check(**changes)
    assert status == 1
    assert report.count(f"error: {said}") == 1, report


def test_a_disk_that_becomes_nearly_full_is_a_warning(check: Check, tmp_path: Path) -> None:
    room = int(0.95 * shutil.disk_usage(tmp_path).free)
    status, report = check(Dataset=doubtful(room=room, folder=str(tmp_path)))
    assert (status, "warning: About " in report, "0 errors, 1 warning (" in report) == (0, True, True)


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


FROZEN = [{"match": r"right\..*", "train": False}, {"match": ".*"}]


@pytest.mark.parametrize(
    ("epochs", "best", "rules"), [(2, 3, None), (50, 4, None), (2, 3, FROZEN)], ids=["few", "many", "frozen"]
)
def test_the_space_for_checkpoints_covers_best_epochs_and_last_states(
    check: Check, epochs: int, best: int, rules: list[dict[str, Any]] | None
) -> None:
    model = TwoTowers()
    whole = size_of(model.state_dict().values())
    frozen = size_of(model.right.parameters()) if rules else 0
    trained = size_of(model.parameters()) - frozen
    _, report = check(Setup__epochs=epochs, **({"Parameters": rules} if rules else {}))
    # Two states with Adam's values and a third being written; frozen weights are stored once.
    size = best * whole + 3 * (whole - frozen + 2 * trained) + frozen
    assert f"needs about {size / 1000:.3g} kB for checkpoints" in " ".join(report.split())


def test_an_evaluation_needs_no_space_for_checkpoints(check: Check) -> None:
    assert "for checkpoints" not in check(Setup__epochs=0)[1]


def test_weights_are_checked_against_their_expected_hash(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "toy.pt"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    model = {"class": "toy_research.network.Loaded", "args": {"file": str(file), "sha256": right}}
    status, report = check(Model=model)
    assert (status, f"toy.pt (sha256 {right[:12]}...)" in report) == (0, True)
    file.write_bytes(b"weighty")
    status, report = check(Model=model)
    assert status == 1
    assert f"it is damaged or a different file.\n    {file}" in report


def test_an_unreadable_protocol_does_not_stop_the_check_of_others(command: Command) -> None:
    broken, invalid, valid = (
        command.write(f"{name}.json", Setup__epochs=count)
        for name, count in zip("abc", (1, -1, 1), strict=True)
    )
    broken.write_text("{")
    status, report, _ = command("-c", broken, invalid, valid, "--check")
    assert status == 2
    assert "error: line 1, column 2: " in report
    assert "error: Setup.epochs is -1;" in report
    assert f"{valid}: 0 errors, 0 warnings" in report


def test_too_little_memory_is_a_warning(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = TwoTowers()
    # Weights, their gradients, and two numbers for each by the optimizer.
    needed = size_of(model.state_dict().values()) + 3 * size_of(model.parameters())
    _, report = check(Setup__epochs=2)
    said = " ".join(report.split())
    assert f"at least {needed / 1000:.3g} kB needed for weights, gradients and optimizer (--explain" in said
    assert "of memory" not in report
    (tmp_path / "limit").write_text(f"{needed // 2}\n")  # in bytes; the limit of a container
    monkeypatch.setattr(check_room, "_LIMIT", tmp_path / "limit")
    status, report = check(Setup__epochs=2)
    sizes = [f"{size / 1000:.3g} kB" for size in (needed, needed // 2)]
    said = f"warning: The run needs at least {sizes[0]} of memory; {sizes[1]} is free."
    assert (status, said in " ".join(report.split())) == (0, True)


def test_a_model_that_cannot_be_built_is_tried_once_and_its_memory_is_unknown(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[str]()

    def fail(_self: TwoTowers, **_: Any) -> None:
        tries.append("")
        raise ValueError("no weights")

    monkeypatch.setattr(TwoTowers, "__init__", fail)
    status, report = check()
    assert (status, len(tries)) == (1, 1)
    said = " ".join(report.split())
    assert "Memory unknown until the errors are fixed" in said
    assert re.search(r"Disk [\d.,]+ GB free; unknown size of checkpoints in ", said)
    assert "0 B" not in said


def test_the_memory_limit_max_means_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limit").write_text("max\n")
    (tmp_path / "memory").write_text("MemTotal: 2000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\n")
    (tmp_path / "own").write_text("9 2 1 1 0 1 0\n")  # pages
    for name, file in (("_LIMIT", "limit"), ("_MEMORY", "memory"), ("_OWN", "own")):
        monkeypatch.setattr(check_room, name, tmp_path / file)
    free = 1_024_000 + 2 * os.sysconf("SC_PAGE_SIZE")
    facts: dict[str, str] = {}
    assert not check_room.memory_findings(int(0.9 * free), torch.device("cpu"), facts)
    assert check_room.memory_findings(int(0.9 * free) + 1, torch.device("cpu"), facts)
    monkeypatch.setattr(check_room, "_MEMORY", tmp_path / "none")  # as on another operating system
    assert not check_room.memory_findings(10**18, torch.device("cpu"), facts)


def test_a_missing_base_protocol_is_named(check: Check, tmp_path: Path) -> None:
    status, report = check(extends="elsewhere.json")
    assert status == 2
    assert f"{tmp_path / 'toy.json'} extends {tmp_path / 'elsewhere.json'}" in report.replace("\n", "")
