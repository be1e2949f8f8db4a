"""Train and evaluate AudioCLIP: `python main.py --config protocols/audioclip-esc50.json`."""

import sys
from pathlib import Path

from ignite_trainer.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], defaults=Path(__file__).parent / "protocols" / "defaults.json"))
