"""Train and evaluate AudioCLIP: `python main.py --config protocols/audioclip-esc50.json`."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    from ignite_trainer.commands.cli import main

    if not find_spec("torch"):  # imported late, because it takes seconds
        raise ModuleNotFoundError("No module named 'torch'")
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error} in the environment of {sys.executable}. Activate the environment that `make run` "
        "creates (`. .venv/bin/activate`), or install requirements.txt as described in the README."
    )

if __name__ == "__main__":
    # torch's CPU threads spin while they wait. On cores shared with other programs, training was 6 times
    # slower with libgomp's default spin count than with this one; on idle cores, both are equally fast.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sys.exit(main(sys.argv[1:], defaults=Path(__file__).parent / "protocols" / "defaults.json"))
