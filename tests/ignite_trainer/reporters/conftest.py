"""Fixtures: a run whose labels would break careless markup, predictions, and visdom servers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ignite_trainer.api.predictions import Predictions
from ignite_trainer.api.reporter import Line, RunStart, Window
from ignite_trainer.reporters import visdom

Predict = Callable[..., Predictions]

OFFLINE_BOOTSTRAP = visdom.BOOTSTRAP.replace(
    "runpy.run_module",
    "import visdom.server.run_server as run_server\n"
    "run_server.download_scripts = lambda: None\n"
    "runpy.run_module",
)


@pytest.fixture
def run(tmp_path: Path) -> RunStart:
    windows = (
        Window(
            name="Performance",
            x_label="#Epochs",
            y_label="Accuracy",
            width=1890,
            height=416,
            lines=(
                Line(key="Val. Acc.", label="Val. Acc. Train.", split="train"),
                Line(key="Val. Acc.", label="Val. Acc. Eval.", split="test"),
            ),
        ),
        Window(
            name="Cost in $",
            x_label="#Iterations",
            y_label="$x_{",
            width=900,
            height=300,
            lines=(Line(key="Cost", label="Cost Train.", split="train", by_iteration=True),),
        ),
    )
    return RunStart(
        folder=tmp_path,
        name="Experiment-CV1 <first>",
        protocol={
            "Metrics": {
                "Performance": {"lines": [{"line_label": "Val. Acc.", "is_checkpoint": True}]},
                "Cost in $": {"lines": [{"line_label": "Cost", "update_rate": "iteration"}]},
            },
            "Dataset": {"args": {"root": "/data/<script>alert('x')</script>"}},
        },
        environment={},
        facts={"device": "cpu", "rule [a-z]": "<b>12 & 3</b>", "output": str(tmp_path)},
        windows=windows,
        epochs=2,
        iterations_per_epoch=10,
    )


@pytest.fixture
def predict() -> Predict:
    """Make predictions from scores `[N, K]` and one target, or a list of targets, for each sample."""

    def make(
        scores: Any, targets: Sequence[int | list[int]], names: Sequence[str] | None = None
    ) -> Predictions:
        scores = np.asarray(scores, dtype=np.float32)
        chosen = np.zeros(scores.shape, dtype=bool)
        for row, target in zip(chosen, targets, strict=True):
            row[target] = True
        return Predictions(
            scores=scores,
            targets=chosen,
            class_names=tuple(names or (f"class {number}" for number in range(scores.shape[1]))),
            records=tuple({"sample": index} for index in range(len(scores))),
            multilabel=any(isinstance(target, list) for target in targets),
        )

    return make


@pytest.fixture
def guesses(predict: Predict) -> Callable[..., Predictions]:
    """Make predictions from pairs (true class, predicted class), each with a confidence of 0.6."""

    def make(pairs: Sequence[tuple[int, int]], *, classes: int, **more: Any) -> Predictions:
        scores = np.full((len(pairs), classes), 0.4 / max(1, classes - 1))
        scores[range(len(pairs)), [predicted for _, predicted in pairs]] = 0.6
        return predict(scores, [target for target, _ in pairs], **more)

    return make


@pytest.fixture
def free_port() -> int:
    return find_free_port()


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def offline_bootstrap(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let visdom's server start without its front-end scripts, which it would fetch from the network."""
    monkeypatch.setattr(visdom, "BOOTSTRAP", OFFLINE_BOOTSTRAP)
    return OFFLINE_BOOTSTRAP


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run a visdom server for the tests of a module; yield its port."""
    port, folder = find_free_port(), tmp_path_factory.mktemp("visdom")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visdom, "BOOTSTRAP", OFFLINE_BOOTSTRAP)
        started = visdom.start_server(port, environments=folder, log=folder / "visdom.log")
    yield port
    started.kill()
    started.communicate()


def children_of_this_process() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Return a function that finds the running processes which the test has started."""
    before = children_of_this_process()
    return lambda: children_of_this_process() - before


@pytest.fixture
def nothing_left(children: Callable[[], set[int]]) -> Iterator[None]:
    """Fail a test that leaves a process or a thread behind."""
    threads = set(threading.enumerate())
    yield
    assert children() == set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)  # it may have been waiting for a port that is now closed
    assert set(threading.enumerate()) - threads == set()
