"""Trains with a batch that does not fit in memory, and checks that the error's advice works.

    python tests/gpu/too_large.py --json too-large.json -M results -c PROTOCOL -b 4096

The run must end with exit status 1 and advise a smaller batch; a run that follows the advice must succeed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def advised_flags(message: str) -> list[str]:
    """Return the flags that an out-of-memory error advises.

    >>> advised_flags("Start a new run with -b 8 --Setup.accumulate 4, which keeps 32 samples")
    ['-b', '8', '--Setup.accumulate', '4']
    """
    found = re.search(r"new run with ((?:-b \d+ )?--Setup\.\w+ \d+)", message)
    return found[1].split() if found else []


def run(words: Sequence[str]) -> tuple[int, str, float]:
    """Run the program for one epoch; return its exit status, its output and its duration in seconds."""
    start = time.perf_counter()
    command = [sys.executable, "main.py", *words, "-e", "1", "-S"]
    done = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    print(done.stdout, flush=True)
    return done.returncode, done.stdout, time.perf_counter() - start


def main(argv: Sequence[str]) -> int:
    """Run both; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("-M", type=Path, required=True, help="root of the results")
    flags, words = parser.parse_known_args(argv)
    status, output, seconds = run([*words, "-M", str(flags.M / "too-large")])
    advice = advised_flags(output)
    content = {
        "exit_status": status,
        "message": next((line for line in output.splitlines() if line.startswith("error: ")), None),
        "seconds": seconds,
        "advice": " ".join(advice),
        "found_by_trying": " fits.)" in output,
        "passed": False,
    }
    if status == 1 and advice:
        content["advised_exit_status"], _, content["advised_seconds"] = run(
            [*words, *advice, "-M", str(flags.M / "advised")]
        )
        content["passed"] = content["advised_exit_status"] == 0
    flags.json.write_text(json.dumps(content, indent=2) + "\n")
    return int(not content["passed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
