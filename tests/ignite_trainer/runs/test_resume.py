"""Runs that are stopped or killed and resumed end like uninterrupted ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_research.protocols import TRUSTED, Command, run_toy, toy
from toy_research.records import differences, events, only_run
from toy_research.signals import Tone, Tones
from toy_research.watching import Notebook
from tqdm import tqdm

from ignite_trainer.api.reporter import Best, Evaluated
from ignite_trainer.checkpoints.state_validation import Position
from ignite_trainer.commands.sweeps import sweep
from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.validation import validate
from ignite_trainer.results import results_table, run_folder
from ignite_trainer.results.record import RunRecord
from ignite_trainer.runs import resuming
from ignite_trainer.runs.experiment import run
from ignite_trainer.runs.faults import explain_errors
from ignite_trainer.support.errors import ProtocolError, RunFailed, RunStopped
from ignite_trainer.support.progress import Progress
from ignite_trainer.support.signals import StopRequest, leave_signals_to_parent, stop_on_signals
from tests.ignite_trainer.data.loading import epoch, loader

EARLIER = Path(__file__).parent / "earlier_version"
SEEN = {"class": "ignite.metrics.Accuracy", "update_rate": "iteration", "line_label": "Seen"}
ACCURACY = {"class": "ignite.metrics.Accuracy", "is_checkpoint": True, "line_label": "Val. Acc."}
# Needs everything that a state can contain: momentum, dropout, a scheduler, averaged weights, accumulated
# gradients, sums over steps, frozen weights.
CHANGES: dict[str, Any] = {
    "Setup__epochs": 3,
    "Setup__batch_train": 4,
    "Setup__batch_test": 4,
    "Setup__accumulate": 2,
    "Setup__ema": 0.9,
    "Parameters": [{"match": r"right\.linear\..*", "train": False}, {"match": ".*"}],
    "Optimizer": {"class": "torch.optim.AdamW", "args": {"lr": 0.02}},
    "Scheduler": {"class": "torch.optim.lr_scheduler.MultiStepLR", "args": {"milestones": [1, 2]}},
    "Metrics": {"Performance": {"lines": [ACCURACY, SEEN]}},
    "Evaluations": {"Confidence": {"class": "toy_research.measuring.Confidence", "every": 2}},
}


def signalled(**args: Any) -> dict[str, Any]:
    return {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM", **args}}


def continue_run(root: Path, **changes: Any) -> Any:
    return run_toy(root, **{**CHANGES, "Setup__resume": "auto", **changes})


def resume(root: Path, folder: Path, **changes: Any) -> Any:
    """Resume the run in a folder by name."""
    raw = toy(root, **{**CHANGES, **changes})
    return run(draw(validate(raw), trusted=TRUSTED), folder=folder, resume=True)


def change(path: Path, **sections: Any) -> None:
    """Replace sections of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **sections}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    return run_toy(tmp_path_factory.mktemp("whole"), Task=signalled(), **CHANGES).folder


@pytest.fixture
def handlers_are_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def stopped(root: Path, *tasks: dict[str, Any], **changes: Any) -> None:
    """Start a run and resume it, stopped each time by the signal that the task sends."""
    for task in tasks:
        if list(root.glob("Toy/*")):  # the tasks differ only in when they send the signal
            change(only_run(root) / "protocol.json", Task=task)
        with pytest.raises(RunStopped):
            continue_run(root, Task=task, **changes)


def finish(root: Path, **changes: Any) -> Path:
    change(only_run(root) / "protocol.json", Task=signalled())
    return Path(continue_run(root, Task=signalled(), **changes).folder)


def compare(root: Path, whole: Path, **changes: Any) -> None:
    assert differences(whole, finish(root, **changes)) == []


@pytest.mark.usefixtures("handlers_are_restored")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("step", "saved"), [(1, 2), (5, 5), (6, 7)])
def test_a_run_stopped_within_an_epoch_continues_bit_identically(
    tmp_path: Path, whole: Path, step: int, saved: int, workers: int
) -> None:
    changes = {"Setup__workers_train": workers}
    stopped(tmp_path, signalled(step=step), **changes)
    (state,) = (only_run(tmp_path) / "checkpoints").glob("last_*_step-*.pt")
    assert state.stem.endswith(f"_step-{saved}"), "between two steps of the optimizer: 2, 4, 5 of an epoch"
    compare(tmp_path, whole, **changes)


@pytest.mark.usefixtures("handlers_are_restored")
@pytest.mark.parametrize("batch", [1, 5, 25])
def test_a_run_stopped_in_an_evaluation_continues_bit_identically(
    tmp_path: Path, whole: Path, batch: int
) -> None:
    stopped(tmp_path, signalled(batch=batch))
    compare(tmp_path, whole)


def test_a_run_stopped_several_times_continues_bit_identically(tmp_path: Path, whole: Path) -> None:
    stopped(tmp_path, *[signalled(step=3), signalled(batch=6), signalled(step=1)])
    compare(tmp_path, whole)


def test_the_comparison_distinguishes_two_seeds(tmp_path: Path, whole: Path) -> None:
    found = differences(whole, run_toy(tmp_path, **CHANGES, Setup__seed=8).folder)
    assert {"metrics.jsonl", "predictions.csv"} <= set(found)
    assert any("last_epoch-3.pt: .optimizer.state" in one for one in found)


def _child(root: Path) -> None:
    task = {"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": 0.02}}
    continue_run(root, Task=task, Setup__save_every_steps=2, Setup__epochs=5)


def _killed_child(root: Path) -> None:
    # Forked processes share tqdm's lock, and one killed while it draws would never release it.
    for bar in (tqdm, Progress):
        bar.set_lock(threading.RLock())
    _child(root)


def test_a_run_killed_at_random_moments_continues_bit_identically(tmp_path: Path) -> None:
    context, draw = multiprocessing.get_context("fork"), random.Random(3)
    _child(tmp_path / "whole")
    for _ in range(3):
        process = context.Process(target=_killed_child, args=(tmp_path / "killed",))
        process.start()
        time.sleep(draw.uniform(0.3, 1.2))
        process.kill()
        process.join()
    _child(tmp_path / "killed")
    assert differences(only_run(tmp_path / "whole"), only_run(tmp_path / "killed")) == []


def test_a_run_with_a_damaged_last_state_resumes_from_the_one_before(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped(tmp_path, signalled(step=9))
    (state,) = (only_run(tmp_path) / "checkpoints").glob("last_*_step-9.pt")
    state.write_bytes(state.read_bytes()[:-1])
    compare(tmp_path, whole)
    assert f"{state} is damaged or incomplete, so {state.name} cannot be restored" in caplog.text


def test_reporters_get_each_earlier_event_once(tmp_path: Path) -> None:
    reporters = [{"class": "toy_research.watching.Notebook"}, *toy(tmp_path)["Reporters"][1:]]
    stopped(tmp_path, signalled(step=7), Reporters=reporters)
    finish(tmp_path, Reporters=reporters)
    steps = [step.iteration for step in Notebook.last.of("iteration")]
    assert steps == list(range(1, 16))
    (start,) = Notebook.last.of("start")
    assert start.facts["Resumed from"] == "epoch 2, iteration 7"
    assert [found.epoch for found in Notebook.last.of("evaluation")] == [0, 1, 1, 2, 2, 3, 3]
    environment = json.loads((only_run(tmp_path) / "environment.json").read_text())
    assert len(environment["earlier"]) == 1


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("Setup__save_every_steps", 3, "last_epoch-2_step-9.pt"),
        ("Setup__save_every_minutes", 1e-9, "last_epoch-2_step-9.pt"),
        ("Setup__save_every_minutes", None, "last_epoch-1.pt"),
    ],
)
def test_states_are_saved_by_steps_and_by_time(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    task = {"class": "toy_research.learning.Matching", "args": {"explode_at": 10}}
    with pytest.raises(RunFailed, match="The loss is inf"):
        run_toy(tmp_path, **{**CHANGES, "Task": task, key: value})
    assert max(path.name for path in only_run(tmp_path).glob("checkpoints/last_*.pt")) == expected


# The log

SCORES = {"event": "evaluation", "time": "", "iteration": 5, "split": "test", "seconds": 1.0}


def write_log(folder: Path, *lines: dict[str, Any] | bytes) -> Path:
    path = folder / "metrics.jsonl"
    encoded = [
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines
    ]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


def test_the_log_may_contain_unusual_line_ends_and_an_incomplete_last_line(tmp_path: Path) -> None:
    names = [f"Val.{mark}Acc." for mark in ("\u2028", "\u0085", "\u000b")]
    whole = [{**SCORES, "epoch": epoch, "metrics": {name: 0.5}} for epoch, name in enumerate(names, start=1)]
    path = write_log(tmp_path, *whole, b'{"event": "evalu')
    events = resuming.truncate_log(tmp_path, Position(epoch=9, iteration=45))
    assert [event.metrics for event in events if isinstance(event, Evaluated)] == [
        {name: 0.5} for name in names
    ]
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == whole


@pytest.mark.parametrize("line", [b'{"event": "evalu', b"5", b'{"epoch": 1}', b"\xff", b"[]", b"null"])
def test_a_line_of_the_log_that_is_not_an_event_is_named(line: bytes, tmp_path: Path) -> None:
    scores = {**SCORES, "epoch": 1, "metrics": {}}
    path = write_log(tmp_path, scores, line, scores)
    before = path.read_bytes()
    with pytest.raises(ProtocolError, match=re.escape(f"{path}, line 2 is not an event of a run (")):
        resuming.truncate_log(tmp_path, Position(epoch=9, iteration=45))
    assert path.read_bytes() == before


def test_a_truncated_environment_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"started": "20')
    assert run_folder.earlier_environments(tmp_path) == []


def test_faults_of_the_current_epoch_are_kept(tmp_path: Path) -> None:
    fault = {"event": "fault", "time": "", "epoch": 2, "what": "The loss is nan", "done": "", "samples": []}
    path = write_log(tmp_path, *[{**fault, "iteration": iteration} for iteration in (6, 7, 8)])
    resuming.truncate_log(tmp_path, Position(epoch=2, iteration=7))
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [6, 7]


# Which run is resumed


def test_a_finished_run_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = continue_run(tmp_path)
    assert "There is no run of Toy to resume; starting a new run." in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = continue_run(tmp_path)
    output = capsys.readouterr().out.replace("\n", "")
    assert f"The run is finished; its results are in {first.folder}" in output
    assert (again.folder, again.end.best) == (first.folder, first.end.best)
    assert again.end.last == first.end.last
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def test_a_finished_run_can_continue_for_more_epochs(tmp_path: Path, whole: Path) -> None:
    continue_run(tmp_path, Setup__epochs=2, Task=signalled())
    finished = continue_run(tmp_path, Task=signalled())
    assert only_run(tmp_path) == finished.folder
    assert differences(whole, finished.folder) == []


def test_a_drawn_seed_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        continue_run(tmp_path, Task=signalled(step=13), Setup__seed=None)
    drawn = json.loads((only_run(tmp_path) / "protocol.json").read_text())["Setup"]["seed"]
    assert (
        continue_run(tmp_path, Task=signalled(step=13), Setup__seed=None, Setup__epochs=3).record.seed
        == drawn
    )


def test_a_run_of_a_different_protocol_is_not_resumed(tmp_path: Path) -> None:
    first = continue_run(tmp_path)
    other = {"Optimizer": {"class": "torch.optim.SGD", "args": {"lr": 0.3}}}
    assert continue_run(tmp_path, **other).folder != first.folder
    with pytest.raises(ProtocolError) as caught:
        resume(tmp_path, first.folder, **other)
    assert str(caught.value) == (
        f'The run in {first.folder} has a different protocol: Optimizer.class is "torch.optim.SGD", but '
        '"torch.optim.AdamW" in that run; Optimizer.args.lr is 0.3, but 0.02 in that run. '
        "Resume it with its own protocol, or start a new run without --resume."
    )
    with pytest.raises(ProtocolError, match=r"is not the folder of a run: it has no protocol\.json"):
        resume(tmp_path, tmp_path)


def test_a_run_without_a_seed_is_refused(tmp_path: Path) -> None:
    folder = continue_run(tmp_path).folder
    (folder / "result.json").unlink()
    setup = json.loads((folder / "protocol.json").read_text())["Setup"]
    change(folder / "protocol.json", Setup={**setup, "seed": None})
    with pytest.raises(ProtocolError, match=r"protocol\.json has no Setup\.seed"):
        resume(tmp_path, folder, Setup__seed=None)


def test_an_unfinished_run_of_a_different_protocol_is_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunStopped):
        continue_run(tmp_path, Task=signalled(step=3))
    folder = only_run(tmp_path)
    capsys.readouterr()
    continue_run(tmp_path, Task=signalled(step=3, name="SIGURG"), Setup__batch_train=5)
    output = " ".join(capsys.readouterr().out.split())
    assert (
        f"The unfinished run in {folder} has a different protocol: Setup.batch_train is 5, but 4 in that "
        "run; " in output
    )
    assert 'Task.args.name is "SIGURG", but "SIGTERM" in that run.' in output
    assert f"--resume {folder} without -c resumes it unchanged." in output


def test_faults_and_the_evaluation_batch_may_change(tmp_path: Path) -> None:
    stopped(tmp_path, signalled(step=9))
    others = {"Setup__batch_test": 3, "Faults": {"not_finite": "skip", "unreadable": "skip"}}
    assert finish(tmp_path, **others) == only_run(tmp_path)
    assert (only_run(tmp_path) / "result.json").exists()


def test_a_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """`earlier_version` was written by commit 041d3f9; its protocol gets a key of older versions."""
    folder = tmp_path / "Toy/unfinished"
    shutil.copytree(EARLIER / "unfinished", folder)
    change(folder / "protocol.json", Faults={"rollback_rate": 0.5})
    before = (folder / "metrics.jsonl").read_text()
    resumed = continue_run(tmp_path, Task=signalled())
    assert resumed.folder == folder
    assert (folder / "metrics.jsonl").read_text().startswith(before)
    assert [one["iteration"] for one in events(folder) if one["event"] == "iteration"] == list(range(1, 16))
    best = {path.name for path in folder.glob("checkpoints/best_*.pt")}
    assert best >= {"best_val-acc_epoch-1_0.5000.pt"} and len(best) == 3
    assert resumed.record.epochs == 3


def test_results_of_an_earlier_version_are_in_the_table(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "finished", tmp_path / "Toy/finished")
    record = RunRecord.read(tmp_path / "Toy/finished/result.json")
    assert record.best == (
        Best(label="Val. Acc.", value=0.3, epoch=1, checkpoint=Path("best_val-acc_epoch-1_0.3000.pt")),
    )
    results_table.update(tmp_path)
    assert (
        "| TwoTowers, random weights | 30.0 (fold 1 of 3, last epoch) |"
        in (tmp_path / "table.md").read_text()
    )
    again = continue_run(tmp_path, Task=signalled(), Setup__epochs=1, Setup__seed=8)
    assert again.folder == tmp_path / "Toy/finished"
    assert again.record == record


def test_a_protocol_with_a_removed_option_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "Toy/unfinished"
    shutil.copytree(EARLIER / "unfinished", folder)
    change(folder / "protocol.json", Faults={"not_finite": "rollback"})
    message = r"its protocol\.json cannot be read \(Faults\.not_finite is \"rollback\"; .*'stop' or 'skip'"
    with pytest.raises(ProtocolError, match=message):
        resume(tmp_path, folder, Task=signalled())


def test_an_unfinished_run_is_preferred_to_a_newer_finished_one(tmp_path: Path) -> None:
    with pytest.raises(RunStopped):
        continue_run(tmp_path, Task=signalled(step=15))
    unfinished = only_run(tmp_path)
    finished = run_toy(tmp_path, **{**CHANGES, "Task": signalled(step=15, name="SIGURG")}).folder
    (finished / "protocol.json").write_text((unfinished / "protocol.json").read_text())
    assert continue_run(tmp_path, Task=signalled(step=15)).folder == unfinished


# Signals


@pytest.mark.usefixtures("handlers_are_restored")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_after_a_signal_the_command_exits_with_75_and_says_how_to_resume(name: str, command: Command) -> None:
    path = command.write(**{**CHANGES, "Task": signalled(name=name, step=9)})
    stopped = command("-c", path)
    assert stopped.status == 75
    folder = only_run(command.results)
    assert f"stopped by {name}; progress is saved in {folder}\n" in stopped.err
    assert stopped.err.endswith(f"-c {path} --trust toy_research --resume {folder}\n")
    # Too few steps are left for the task to send its signal again.
    assert command("-c", path, "--resume", folder).status == 0
    assert (folder / "result.json").exists()
    assert command("--resume", folder).status == 0


def test_a_run_needs_no_yardstick_and_resumes_without_a_removed_one(command: Command) -> None:
    path = command.write(**CHANGES, Yardsticks={"old": {"class": "utils.benchmarks.PublishedWay"}})
    assert command("-c", path).status == 0
    folder = only_run(command.results)
    (folder / "result.json").unlink()
    assert command("--resume", folder).status == 0
    assert 'no "PublishedWay"' in command("-c", path, "--benchmark", "1").err


@pytest.mark.usefixtures("handlers_are_restored")
def test_a_signal_during_data_preparation_ends_the_command_the_same_way(
    tmp_path: Path, command: Command
) -> None:
    made = tmp_path / "made"
    args = {"folder": str(made), "signal": "SIGUSR1"}
    dataset = {"class": "toy_research.failing.Prepared", "args": args}
    path = command.write(Setup__epochs=1, Dataset=dataset)
    stopped = command("-c", path)
    assert stopped.status == 75
    assert "stopped by SIGUSR1; no run was in progress\n" in stopped.err
    assert stopped.err.endswith(f"-c {path} --trust toy_research --resume\n")
    assert not made.exists() and not list(tmp_path.glob("*.partial"))
    assert command("-c", path, "--resume").status == 0
    assert made.exists()


@pytest.mark.usefixtures("handlers_are_restored")
def test_a_signal_between_runs_of_a_sweep_ends_the_command_the_same_way(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_summary = sweep._write_summary

    def signalled_then_written(*args: Any) -> Any:
        monkeypatch.setattr(sweep, "_write_summary", write_summary)
        signal.raise_signal(signal.SIGTERM)
        return write_summary(*args)

    monkeypatch.setattr(sweep, "_write_summary", signalled_then_written)
    path = command.write(Sweep={"Dataset.args.fold": [1, 2]})
    stopped = command("-c", path)
    assert stopped.status == 75
    assert stopped.err.endswith(f"-c {path} --trust toy_research --resume\n")
    resumed = command("-c", path, "--resume")
    assert resumed.status == 0
    assert "1 of 2 runs are already finished; skipping fold-1" in resumed.out


@pytest.mark.usefixtures("handlers_are_restored")
def test_a_second_interrupt_ends_the_run_immediately() -> None:
    with stop_on_signals() as request, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        assert request.signal == "SIGINT"
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers_are_restored")
def test_only_the_main_thread_handles_signals() -> None:
    seen: list[Any] = []

    def look() -> None:
        with stop_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


# Batches


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_batches_are_not_loaded(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Tones(samples=30, spread=0)
    batches = loader(data, torch.as_tensor, workers=workers, drop_last=True)
    everything = [batch.indices.tolist() for batch in epoch(batches, 3)]
    assert len(batches) == len(everything) == 5
    asked: list[int] = []
    get = Tones.__getitem__

    def note(self: Tones, position: int) -> Tone:
        asked.append(position)
        return get(self, position)

    monkeypatch.setattr(Tones, "__getitem__", note)
    assert [batch.indices.tolist() for batch in epoch(batches, 3, start=3)] == everything[3:]
    assert len(batches) == 5
    if not workers:
        assert asked == [index for batch in everything[3:] for index in batch]
    assert len(epoch(batches, 4)) == 5
    batches.close()


# Signals to all processes


def _child_of_its_own_group(root: Path, changes: dict[str, Any]) -> None:
    os.setsid()
    try:
        continue_run(root, **changes)
    except RunStopped:
        os._exit(75)


def test_workers_survive_a_signal_to_the_process_group_until_the_run_stops_them(tmp_path: Path) -> None:
    task = {"class": "toy_research.measuring.SleepyMatching", "args": {"seconds": 0.05}}
    changes = {"Task": task, "Setup__workers_train": 2, "Setup__workers_test": 1, "Setup__epochs": 2}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = multiprocessing.get_context("fork").Process(
        target=_child_of_its_own_group, args=(killed, changes)
    )
    process.start()
    deadline = time.monotonic() + 60
    while not any(path.read_text().count('"iteration", ') > 5 for path in killed.glob("Toy/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 75
    with pytest.raises(ProcessLookupError):  # no process of the group remains
        os.killpg(process.pid, 0)
    assert list((only_run(killed) / "checkpoints").glob("last_*_step-*.pt"))
    assert differences(continue_run(whole, **changes).folder, continue_run(killed, **changes).folder) == []


def test_a_worker_killed_by_a_signal_that_the_run_received_stops_the_run(tmp_path: Path) -> None:
    request, killed = (
        StopRequest(),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. "),
    )
    with pytest.raises(RunFailed, match="was killed"), explain_errors(tmp_path, request):
        raise killed
    request.signal = "SIGTERM"
    with pytest.raises(RunStopped, match="SIGTERM"), explain_errors(tmp_path, request):
        raise killed


def test_a_worker_ends_only_when_its_parent_terminates_it(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def work() -> None:
        leave_signals_to_parent(0)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.raise_signal(number)
        started.touch()
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    while not started.exists() and process.is_alive():
        time.sleep(0.01)
    # Sent by a process that is not the parent.
    subprocess.run(["sh", "-c", f"kill {process.pid}"], check=True)
    process.join(0.3)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == 0
