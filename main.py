"""Train and evaluate AudioCLIP: `python main.py --config protocols/audioclip-esc50.json`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    from ignite_trainer.commands.cli import main

    if not find_spec("torch"):  # which the command imports later than the rest, as it takes seconds
        raise ModuleNotFoundError("No module named 'torch'")
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error}; this Python is {sys.executable}. Activate the environment that `make run` sets up, "
        "`. .venv/bin/activate`, or install requirements.txt as the README says."
    )

if __name__ == "__main__":
    # Threads of torch on the CPU spin while they wait. On cores that other programs use, too, the default of
    # libgomp made training 6 times slower than this does; on idle ones both are as fast.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(main(sys.argv[1:], defaults=Path(__file__).parent / "protocols" / "defaults.json"))
