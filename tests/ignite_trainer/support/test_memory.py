"""Freed host memory: kept within the block, given back after it."""

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
    """What a new process found: `later()` gives the MiB that its later steps of 64 MiB had to get anew."""
    script = """
        import json, resource
        import torch
        from ignite_trainer.support.memory import freed_memory

        def step():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(64 * 2**20, dtype=torch.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def later():
            for _ in range(20):  # until the C library has found places for all pieces
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


def test_within_the_block_steps_use_the_memory_of_earlier_ones_and_after_it_the_system_has_it() -> None:
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
def test_a_block_that_keeps_nothing_is_as_the_system_is() -> None:
    found = measured(
        """
        with freed_memory(kept=False):
            found["alone"] = later()
        with freed_memory(kept=True), freed_memory(kept=False):
            found["within one that keeps"] = later()
        """
    )
    assert found["alone"] > 60
    assert found["within one that keeps"] > 60


@pytest.mark.processes
def test_the_environment_decides_if_it_says_anything() -> None:
    block = """
        with freed_memory(kept=True):
            found["kept"] = later()
        """
    assert measured(block, MALLOC_TRIM_THRESHOLD_="131072")["kept"] > 60
    assert measured(block)["kept"] < 1
