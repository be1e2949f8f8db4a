"""Limits for every mutated input: time and memory, without imports or commands that the input names."""

from __future__ import annotations

import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TryCases: TypeAlias = Callable[[int, Callable[[random.Random], bool]], None]

CASE_SECONDS = 10
CASE_BYTES = 1 << 30
# Audit events that Python raises before it runs a command or connects to another machine.
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}

_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event in FORBIDDEN:
        _seen.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_watch)  # stays until Python ends: audit hooks cannot be removed


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Put a package where Python finds it, and check that it is not imported."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "canary").mkdir()
    (folder / "canary/__init__.py").write_text("class Model: ...\n")
    sys.path.insert(0, str(folder))
    yield "canary.Model"
    sys.path.remove(str(folder))
    assert "canary" not in sys.modules


@pytest.fixture(scope="module")
def try_cases(canary: str) -> TryCases:  # noqa: ARG001 - nobody may import it
    """Return a function that runs a case with many generators, within limits; both outcomes must occur."""

    def try_all(cases: int, case: Callable[[random.Random], bool]) -> None:
        outcomes = {True: 0, False: 0}

        @settings(
            max_examples=cases,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.randoms(use_true_random=False))
        def run(rng: random.Random) -> None:
            with _limited():
                outcome = case(rng)
            outcomes[outcome] += 1

        run()
        assert min(outcomes.values()) > cases / 20

    return try_all


@contextmanager
def _limited() -> Iterator[None]:
    """Fail if the block needs too much time or memory, runs commands or imports the canary."""
    global _seen  # noqa: PLW0603 - the hook has no other way to know
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + CASE_BYTES, before[1]))
    handler = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    _seen = []
    try:
        yield
    finally:
        found, _seen = _seen, None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not found
    assert "canary" not in sys.modules


def _too_long(*_: object) -> NoReturn:
    pytest.fail(f"takes more than {CASE_SECONDS} s")
