"""Compares the time and memory that `--explain` estimates with those of the actual run.

Run by hand on an idle machine; takes minutes per protocol. Words after `--` are overrides for all protocols:

    python tests/benchmarks/explaining.py protocols/quickstart.json -- -e 1
    python tests/benchmarks/explaining.py protocols/audioclip-*.json -- -e 1 --Model.args.pretrained false

The exit status is 1 if an estimate is off by more than 30 %. Memory is the peak resident memory of the
process. Time is measured from the first to the last file in the run folder, after data decoding and model
building.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = 0.30
UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}


def main(argv: Sequence[str]) -> int:
    """Print a line for each protocol; return the exit status."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    protocols, overrides = argv[:at], argv[at + 1 :]
    off = 0
    print(f"{'protocol':32} {'seconds':>9} {'estimate':>9} {'':>6} {'GB':>6} {'estimate':>9}")
    for protocol in protocols:
        words = ["-c", protocol, *overrides]
        output = subprocess.run(
            [sys.executable, "main.py", *words, "--explain"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        estimated = seconds_of(output), gigabytes_of(output)
        measured = run(words)
        ratios = [a / b - 1 for a, b in zip(estimated, measured, strict=True)]
        off += any(abs(ratio) > ALLOWED for ratio in ratios)
        print(
            f"{Path(protocol).stem:32} {measured[0]:9.1f} {estimated[0]:9.1f} {ratios[0]:+6.0%} "
            f"{measured[1]:6.2f} {estimated[1]:9.2f} {ratios[1]:+6.0%}",
            flush=True,
        )
    return int(off > 0)


def run(words: Sequence[str]) -> tuple[float, float]:
    """Run a protocol; return its seconds and GB."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "main.py", *words, "-M", folder],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}.")
        [result] = Path(folder).glob("*/*/result.json")
        seconds = result.stat().st_mtime - (result.parent / "protocol.json").stat().st_mtime
        return seconds, usage.ru_maxrss * 1024 / 1e9


def seconds_of(output: str) -> float:
    """Return the estimated duration, in seconds."""
    words = found(r"Whole run\s+about ([\d.hmins ]+)", output)
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (h|min|s)", words))


def gigabytes_of(output: str) -> float:
    """Return the estimated memory, in GB."""
    needed = r"Memory\s+about ([\d.]+ [kMG]B) needed"
    number, unit = found(needed, output).split()
    return float(number) * {"kB": 1e-6, "MB": 1e-3, "GB": 1.0}[unit]


def found(pattern: str, output: str) -> str:
    """Return the first group of a pattern in the output of `--explain`."""
    match = re.search(pattern, output)
    if match is None:
        raise SystemExit(f"--explain printed no match for {pattern}\n{output[-2000:]}")
    return match[1]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
