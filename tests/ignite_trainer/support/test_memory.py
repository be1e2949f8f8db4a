"""Freed host memory: kept within a block, returned to the system after it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="needs Linux with glibc",
)


def measured(block: str, **environment: str) -> dict[str, Any]:
    """Run `block` in a new process; `later()` returns the MiB that a step of 64 MiB gets from the system."""
    script = """
        import json, resource
        import torch
        from ignite_trainer.support.memory import freed_memory

        def step():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(64 * 2**20, dtype=torch.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def later():
            for _ in range(20):  # until the C library has adapted
                step()
            return min(step() for _ in range(3)) * resource.getpagesize() / 2**20

        def resident():
            lines = open("/proc/self/status").read().splitlines()
            return [int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmRSS:")][0]

        found = {}
    """
    code = textwrap.dedent(script) + textwrap.dedent(block) + "\nprint(json.dumps(found))"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_a_block_keeps_memory_for_later_steps_and_returns_it_at_its_end() -> None:
    found = measured(
        """
        found["before"] = later()
        with freed_memory(kept=True):
            found["kept"] = later()
            with freed_memory(kept=True):
                pass
            found["kept after an inner block"] = later()
            found["resident in it"] = resident()
        found["resident after it"] = resident()
        """
    )
    assert found["before"] > 60
    assert found["kept"] < 1
    assert found["kept after an inner block"] < 1
    assert found["resident after it"] < found["resident in it"] - 60


@pytest.mark.processes
def test_an_inner_block_may_return_memory() -> None:
    block = """
        with freed_memory(kept=True), freed_memory(kept=False):
            found["returned"] = later()
        """
    assert measured(block)["returned"] > 60


@pytest.mark.processes
def test_environment_variables_have_priority() -> None:
    block = """
        with freed_memory(kept=True):
            found["kept"] = later()
        """
    assert measured(block, MALLOC_TRIM_THRESHOLD_="131072")["kept"] > 60
