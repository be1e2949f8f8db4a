"""Writes device, driver, versions and date of a measurement as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from datetime import date
from pathlib import Path

import torch


def describe() -> dict[str, str | int | None]:
    """Describe the machine's accelerator, if any, and the versions that affect its speed."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "driver": _driver() if cuda else None,
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    text = json.dumps(describe(), indent=2)
    parser.parse_args().json.write_text(text + "\n")
    print(text)
