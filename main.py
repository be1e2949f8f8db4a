"""Train and evaluate AudioCLIP: `python main.py --config protocols/audioclip-esc50.json`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    from ignite_trainer.commands.cli import main

    if not find_spec("torch"):  # the command imports it late, as that takes seconds
        raise ModuleNotFoundError("No module named 'torch'")
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error} for the Python {sys.executable}. Activate the environment that `make run` creates, "
        "`. .venv/bin/activate`, or install requirements.txt as the README describes."
    )

if __name__ == "__main__":
    # torch's CPU threads spin while they wait. On cores shared with other programs, libgomp's default made
    # training 6 times slower than this value; on idle cores, both are equally fast.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(main(sys.argv[1:], defaults=Path(__file__).parent / "protocols" / "defaults.json"))
