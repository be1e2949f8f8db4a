"""Problems with the machine: a full disk, a killed process, too little memory, two runs in one folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import Timeout
from torch import nn
from toy_research.failing import HungryOnDevice
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy, sweep_toy
from toy_research.records import events, only_run
from toy_research.signals import Tone

from ignite_trainer.api.task import StepOutput
from ignite_trainer.data.loader import Batch
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import ProtocolError, RunFailed
from ignite_trainer.support.files import alone_in
from ignite_trainer.support.memory import is_out_of_memory
from ignite_trainer.training.engines import make_trainer
from ignite_trainer.training.out_of_memory import largest_that_fits, training_memory_error
from ignite_trainer.training.parameters import apply_rules
from tests.ignite_trainer.training.stepping import setup

NOTEBOOK = {"class": "toy_research.watching.Notebook"}
JSON_LINES = {"class": "ignite_trainer.reporters.JsonLines"}
FILLING = {"class": "toy_research.failing.FillsTheDisk"}
ROOT = Path(__file__).parents[3]


def python(code: str, *words: str) -> subprocess.Popen[str]:
    """Start a Python process that can import the tests' packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", code, *words]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    # Unmount lazily, because torch leaves a file open if writing it fails.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(
    ("reporters", "missed"),
    [([JSON_LINES, FILLING], r"metrics\.jsonl"), ([FILLING], r"checkpoints/(best|last)_.*epoch-2.*\.pt")],
)
def test_a_full_disk_keeps_all_finished_results(
    small_disk: Path, reporters: list[dict[str, Any]], missed: str
) -> None:
    with pytest.raises(RunFailed) as caught:
        # enough steps that the log needs another page of the disk
        args = {"fold": 1, "samples": 120}
        run_toy(small_disk, Setup__epochs=3, Setup__batch_train=2, Dataset__args=args, Reporters=reporters)
    folder = only_run(small_disk)
    assert re.match(rf"{re.escape(str(folder))}/{missed} cannot be written \(", str(caught.value))
    assert "Free space on that disk and repeat the command with --resume" in str(caught.value)
    state = torch.load(folder / "checkpoints" / "last_epoch-1.pt", weights_only=True)
    assert {"model", "optimizer"} <= state.keys()
    assert len(list(folder.glob("checkpoints/best*.pt"))) == 2  # from epochs 0 and 1
    assert not list(folder.rglob("*.part"))
    if JSON_LINES in reporters:
        assert events(folder)[-1]["epoch"] == 2  # every line of the log is complete
    (small_disk / "filling").unlink()
    assert run_toy(small_disk).end.last_epoch == 2


def test_a_full_disk_is_found_before_training(small_disk: Path) -> None:
    (small_disk / "filling").write_bytes(bytes(2 * 2**20))
    with pytest.raises(ProtocolError, match=r"files cannot be written there \(No space left on device\)"):
        run_toy(small_disk)


LIMITED = """
import resource, sys
from ignite_trainer.support.errors import RunFailed
from toy_research.failing import HungryOnDevice
from toy_research.network import TwoTowers
from toy_research.protocols import run_toy
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (6500, 6500))
try:
    run_toy(Path(sys.argv[1]))
except RunFailed as error:
    print(error)
"""


def test_a_file_over_the_size_limit_is_named_and_removed(tmp_path: Path) -> None:
    output, errors = python(LIMITED, str(tmp_path)).communicate(timeout=120)
    folder = only_run(tmp_path)
    assert output.startswith(f"{folder / 'checkpoints' / 'last_epoch-1.pt'} cannot be written ("), errors
    kept = {path.suffix for path in (folder / "checkpoints").iterdir()}
    assert kept <= {".pt", ".sha256"}
    for path in folder.glob("checkpoints/*.pt"):  # best files are below the limit
        torch.load(path, weights_only=True)
    kinds = [event["event"] for event in events(folder)]
    # The state is written during the next epoch, which may have taken some steps by then.
    assert kinds[:5] == ["evaluation", "iteration", "iteration", "evaluation", "evaluation"]


def test_a_results_folder_on_a_read_only_disk_is_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ProtocolError, match=r"files cannot be written there \(Read-only file system\)"):
        run_toy(small_disk)


def test_a_killed_worker_is_explained(tmp_path: Path) -> None:
    faulty = {"class": "toy_research.failing.FaultyTones", "args": {"fold": 1, "fatal": [4]}}
    with pytest.raises(RunFailed) as caught:
        run_toy(tmp_path, Dataset=faulty, Setup__workers_train=1, Setup__skip_train_evaluation=True)
    folder = only_run(tmp_path)
    assert re.fullmatch(
        r"Data-loading worker \(pid [\d, ]+\) was killed, probably by the operating system because memory "
        rf"ran out\. Lower Setup\.workers_train .* kept in {re.escape(str(folder))}\.",
        str(caught.value),
    )
    assert [event["event"] for event in events(folder)] == ["evaluation"]


# Memory


def test_after_a_training_step_runs_out_of_memory_a_smaller_batch_with_an_equal_step_is_suggested(
    tmp_path: Path,
) -> None:
    task = {"class": "toy_research.failing.Greedy", "args": {"most": 4}}
    with pytest.raises(RunFailed) as caught:
        run_toy(tmp_path, Task=task)
    message = str(caught.value)
    assert message.startswith("Not enough memory for a training step of 8 samples (")
    assert "allocate" in message
    assert "Start a new run with -b 4 --Setup.accumulate 2, which keeps 8 samples per step" in message
    advised = run_toy(
        tmp_path,
        Task={"class": "toy_research.failing.Greedy", "args": {"most": 4}},
        Setup__batch_train=4,
        Setup__accumulate=2,
    )
    assert advised.end.last_epoch == 2


def test_after_an_evaluation_step_runs_out_of_memory_a_smaller_batch_is_suggested(tmp_path: Path) -> None:
    task = {"class": "toy_research.failing.Greedy", "args": {"most": 4, "evaluating": True}}
    with pytest.raises(
        RunFailed, match=r"an evaluation step of 8 samples .* -B 4; you can change it and --resume"
    ):
        run_toy(tmp_path, Task=task)


@pytest.mark.parametrize(
    ("batch", "accumulate", "fits", "advice"),
    [
        (
            64,
            1,
            16,
            "with -b 16 --Setup.accumulate 4, which keeps 64 samples per step, or with --Setup.precision "
            "bf16. (A batch of 16 fits.)",
        ),
        (50, 1, 12, "with -b 10 --Setup.accumulate 5, which keeps 50 samples"),
        (48, 2, 24, "with -b 24 --Setup.accumulate 4, which keeps 96 samples"),
        (
            7,
            1,
            None,
            "with -b 1 --Setup.accumulate 7, which keeps 7 samples per step, or with --Setup.precision bf16. "
            "The",
        ),
        (1, 4, None, "The batch is already a single sample; start a new run with a smaller model or"),
    ],
)
def test_the_advice_keeps_the_number_of_samples_per_step(
    batch: int, accumulate: int, fits: int | None, advice: str
) -> None:
    settings = setup(batch_train=batch, accumulate=accumulate)
    assert advice in str(training_memory_error("no memory", settings, fits=fits))


@pytest.mark.parametrize(
    ("chunk", "fits", "advice"),
    [
        (
            None,
            None,
            "step of 64 samples (no memory). Start a new run with --Setup.chunk 32, which embeds 32 samples "
            "at a",
        ),
        (
            None,
            16,
            "16 samples at a time and still compares all 64, or with --Setup.precision bf16. (A batch of 16 "
            "fits.)",
        ),
        (64, None, "Start a new run with --Setup.chunk 32"),
        (8, None, "step of 64 samples, 8 at a time, (no memory). Start a new run with --Setup.chunk 4"),
        (1, None, "The batch is already a single sample; start a new run with a smaller model or"),
    ],
)
def test_the_advice_keeps_a_batch_that_can_be_embedded_in_parts(
    chunk: int | None, fits: int | None, advice: str
) -> None:
    settings = setup(batch_train=64, chunk=chunk)
    assert advice in str(training_memory_error("no memory", settings, fits=fits, can_chunk=True))


def test_the_largest_size_that_fits_is_found_by_halving() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 5:
            torch.empty(2**50, dtype=torch.uint8)

    assert largest_that_fits(attempt, 50) == 3
    assert tried == [25, 12, 6, 3]
    assert largest_that_fits(lambda size: attempt(size + 5), 8) is None


@pytest.mark.gpu
def test_after_a_gpu_runs_out_of_memory_a_batch_that_fits_is_suggested() -> None:
    device = torch.device("cuda")
    model = TwoTowers(dropout=0.0).to(device)
    plan = apply_rules(model, [ParameterRule(match=".*")])
    optimizer = torch.optim.SGD(plan.groups, lr=0.1)
    settings = setup(batch_train=32)
    trainer = make_trainer(HungryOnDevice(share=1 / 12), model, optimizer, plan, settings, device=device)
    signal, target = torch.randn(32, 1, 16, device=device), torch.zeros(32, dtype=torch.int64, device=device)
    with pytest.raises(RunFailed, match=r"-b 8 --Setup\.accumulate 4, .* \(A batch of 8 fits\.\)"):
        trainer.run([Batch(torch.arange(32), Tone(signal, None, 0.0, "", target))], max_epochs=1)


@pytest.mark.gpu
def test_the_suggested_batch_leaves_memory_for_the_optimizers_state() -> None:
    class Heavy(HungryOnDevice):
        def training_step(self, model: nn.Module, batch: Tone) -> StepOutput:
            output = super().training_step(model, batch)
            assert output.loss is not None
            weights = model.get_submodule("memory").parameters()
            return output._replace(loss=output.loss + 0 * sum(weight.sum() for weight in weights))

    device = torch.device("cuda")
    model = TwoTowers(dropout=0.0).to(device)
    hundredth = torch.cuda.get_device_properties(0).total_memory // 400  # in float32
    model.add_module("memory", nn.ParameterList(torch.zeros(hundredth, device=device) for _ in range(20)))
    plan = apply_rules(model, [ParameterRule(match=".*")])
    optimizer = torch.optim.SGD(plan.groups, lr=0.1, momentum=0.9)
    settings = setup(batch_train=16)
    trainer = make_trainer(Heavy(share=1 / 12), model, optimizer, plan, settings, device=device)
    signal, target = torch.randn(16, 1, 16, device=device), torch.zeros(16, dtype=torch.int64, device=device)
    # 8 samples take 8/12. The weights' 0.2 still fit, but not the momentum's 0.2 as well.
    with pytest.raises(RunFailed, match=r"-b 4 --Setup\.accumulate 4, .* \(A batch of 4 fits\.\)"):
        trainer.run([Batch(torch.arange(16), Tone(signal, None, 0.0, "", target))], max_epochs=1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


# Two runs at a time

HOLDING = """
import sys, time
from pathlib import Path
from ignite_trainer.support.files import alone_in
with alone_in(Path(sys.argv[1]), name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite_trainer.support.files._PATIENCE_SECONDS", 0.2)


def test_a_folder_in_use_is_refused_until_its_process_is_killed(
    tmp_path: Path,
    impatient: None,  # noqa: ARG001
) -> None:
    holder = python(HOLDING, str(tmp_path), "run")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ProtocolError) as caught, alone_in(tmp_path, name="run"):
        pytest.fail("both have the lock")
    place = f"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()}: two processes would"
    assert str(caught.value).startswith(place)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with alone_in(tmp_path, name="run"):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {"run.lock"}


def test_a_sweep_in_progress_elsewhere_is_refused(tmp_path: Path, impatient: None) -> None:  # noqa: ARG001
    folds = {"Dataset.args.fold": [1, 2]}
    sweep_toy(tmp_path, folds, Setup__epochs=1)
    folder = only_run(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    holder = python(HOLDING, str(folder), "sweep")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(ProtocolError, match=rf"in use by process {holder.pid} on "):
            sweep_toy(tmp_path, folds, Setup__epochs=1)
    finally:
        holder.kill()
        holder.communicate()
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_with_a_sweep_of_a_different_protocol_is_refused(tmp_path: Path) -> None:
    folds = {"Dataset.args.fold": [1, 2]}
    sweep_toy(tmp_path, folds, Setup__epochs=1)
    folder = only_run(tmp_path)
    content = json.loads((folder / "sweep.json").read_text())
    content["protocol"]["Optimizer"]["args"]["lr"] = 0.7
    (folder / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(ProtocolError) as caught:
        sweep_toy(tmp_path, folds, Setup__epochs=1)
    assert str(caught.value).startswith(f"{folder} already holds a sweep of a different protocol")
    assert json.loads((folder / "sweep.json").read_text()) == content


def test_a_timeout_inside_a_locked_folder_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(Timeout), alone_in(tmp_path, name="run"):
        raise Timeout("some other lock")
    with alone_in(tmp_path, name="run"):  # the lock was released
        pass
