"""What `--explain` foretells, beside what the run then takes: its time, and its largest memory.

By hand, alone on the machine, minutes for each protocol; words after `--` are overrides for all of them:

    python tests/benchmarks/explaining.py protocols/quickstart.json -- -e 1
    python tests/benchmarks/explaining.py protocols/audioclip-*.json -- -e 1 --Model.args.pretrained false

Exit status 1 if an estimate is off by more than 30 %. Memory is the largest resident one of the process. Time
runs from the first file of the run's folder to the last: data are decoded and the model is built before.
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
    """Compare, print a line for each protocol, and return the exit status."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    protocols, overrides = argv[:at], argv[at + 1 :]
    off = 0
    print(f"{'protocol':32} {'seconds':>9} {'foretold':>9} {'':>6} {'GB':>6} {'foretold':>9}")
    for protocol in protocols:
        words = ["-c", protocol, *overrides]
        said = subprocess.run(
            [sys.executable, "main.py", *words, "--explain"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        foretold = seconds_of(said), gigabytes_of(said)
        measured = run(words)
        ratios = [a / b - 1 for a, b in zip(foretold, measured, strict=True)]
        off += any(abs(ratio) > ALLOWED for ratio in ratios)
        print(
            f"{Path(protocol).stem:32} {measured[0]:9.1f} {foretold[0]:9.1f} {ratios[0]:+6.0%} "
            f"{measured[1]:6.2f} {foretold[1]:9.2f} {ratios[1]:+6.0%}",
            flush=True,
        )
    return int(off > 0)


def run(words: Sequence[str]) -> tuple[float, float]:
    """Carry a protocol out; return seconds and GB."""
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


def seconds_of(said: str) -> float:
    """The time of the whole run, of words such as "about 3 min 2 s"."""
    words = found(r"Whole run\s+about ([\d.hmins ]+)", said)
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (h|min|s)", words))


def gigabytes_of(said: str) -> float:
    """The memory, of words such as "about 1.23 GB needed"."""
    needed = r"Memory\s+about ([\d.]+ [kMG]B) needed"
    number, unit = found(needed, said).split()
    return float(number) * {"kB": 1e-6, "MB": 1e-3, "GB": 1.0}[unit]


def found(pattern: str, said: str) -> str:
    """What a pattern finds in what `--explain` printed."""
    match = re.search(pattern, said)
    if match is None:
        raise SystemExit(f"--explain did not say it: {pattern}\n{said[-2000:]}")
    return match[1]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
