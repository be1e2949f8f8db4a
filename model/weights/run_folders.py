"""Finds the best checkpoint in a folder of runs, for a user who names the folder instead of a file.

Like any path, the folder is relative to the working directory; `Setup.saved_models_path` is not used.

```text
results/AudioSet-1-Audio/                 the folder that the user names
    20260504-101112_seed-1/               the newest finished run that kept weights
        result.json                       the names of the run's best checkpoints
        checkpoints/best_map_epoch-29_0.3514.pt
```
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

_BEFORE_TRAINING = re.compile(r"best_.*_epoch-0_.*")
_RESULT = "result.json"
_REMOVE = "Remove that run, or name a file."


def best_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of the newest finished run that kept weights.

    The first metric for which the run kept checkpoints decides. A run that kept no best checkpoint supplies
    its state after the last epoch.

    Args:
        folder: folder of a run, of a run's checkpoints, of a sweep, or of all of a protocol's runs.

    Raises:
        ValueError: No run in the folder has finished, no finished run kept weights, the newest run's
            checkpoints are gone, or a `result.json` is not valid.
    """
    folder = folder.parent if folder.name == "checkpoints" else folder
    if (folder / _RESULT).is_file():
        results = [folder / _RESULT]
    else:
        results = [*folder.glob(f"*/{_RESULT}"), *folder.glob(f"*/*/{_RESULT}")]  # the second for a sweep
    if not results:
        kept = sorted(folder.rglob("checkpoints/best_*.pt"), key=lambda path: path.stat().st_mtime)
        such = f", such as {kept[-1]}" if kept else ""
        raise ValueError(
            f"{folder}: no run in this folder has finished; a finished one has a {_RESULT}. Run the protocol "
            f"that these weights should come from first, or name a file{such}."
        )
    trained = [run for run in map(_read, results) if run.names]
    if not trained:
        raise ValueError(
            f"{folder}: the finished runs in this folder only evaluated, and kept no weights. Run the "
            "protocol with its epochs, or name a file."
        )
    newest = max(trained, key=lambda run: run.finished)
    checkpoints = newest.folder / "checkpoints"
    # Only the names are used, never paths, because a result may come from elsewhere.
    paths = [checkpoints / Path(name).name for name in newest.names]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"{checkpoints}: the run that finished {newest.finished} has none of the checkpoints that its "
            f"{_RESULT} names. Put them back, or name a file."
        )
    return found


def is_before_training(file: Path) -> bool:
    """Return whether a checkpoint's name says epoch 0, before the first step."""
    return _BEFORE_TRAINING.fullmatch(file.resolve().name) is not None


class _Run(NamedTuple):
    """A finished run: the time when it finished, its folder, and its checkpoints' names, best first."""

    finished: str
    folder: Path
    names: list[str]


def _read(result: Path) -> _Run:
    try:
        record = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{result} is not the result of a run: {error}. {_REMOVE}") from None
    if not isinstance(record, dict) or not isinstance(record.get("finished"), str):
        raise ValueError(f"{result} is not the result of a run: it does not say when it finished. {_REMOVE}")
    entries = [*(record.get("best") or []), {"checkpoint": (record.get("checkpoint") or {}).get("name")}]
    names = [entry.get("checkpoint") for entry in entries]
    return _Run(record["finished"], result.parent, [name for name in names if isinstance(name, str) and name])
