"""The best weights of a folder of runs, so that they are found without naming a file.

The folder is relative to the working directory, as any path; it does not follow `Setup.saved_models_path`.

```text
results/AudioSet-1-Audio/                 what is named
    20260504-101112_seed-1/               the newest finished run that kept weights
        result.json                       says which of its checkpoints is best
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
    """Return the best checkpoint of a run: of the newest finished one that kept weights.

    The best is that by the first metric that the run kept checkpoints by. If it kept none, the state after
    the last epoch is returned.

    Args:
        folder: of a run or of its checkpoints, of a sweep, or of all runs of a protocol.

    Raises:
        ValueError: no run has finished there, it has no checkpoint, or its `result.json` is none.
    """
    folder = folder.parent if folder.name == "checkpoints" else folder
    if (folder / _RESULT).is_file():
        results = [folder / _RESULT]
    else:
        results = [*folder.glob(f"*/{_RESULT}"), *folder.glob(f"*/*/{_RESULT}")]  # the latter of a sweep
    if not results:
        kept = sorted(folder.rglob("checkpoints/best_*.pt"), key=lambda path: path.stat().st_mtime)
        such = f", such as {kept[-1]}" if kept else ""
        raise ValueError(
            f"{folder}: no run in this folder has finished, as its {_RESULT} would show. Carry out the "
            f"protocol that these weights are to come from first, or name a file{such}."
        )
    trained = [run for run in map(_read, results) if run.names]
    if not trained:
        raise ValueError(
            f"{folder}: what has finished in this folder was evaluated only, and kept no weights. Carry out "
            "the protocol with its epochs, or name a file."
        )
    newest = max(trained, key=lambda run: run.finished)
    checkpoints = newest.folder / "checkpoints"
    # A name, never a path: a result may come from elsewhere.
    there = [checkpoints / Path(name).name for name in newest.names]
    found = next((path for path in there if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"{checkpoints}: the run that finished {newest.finished} has none of the checkpoints that its "
            f"{_RESULT} names. Put them back, or name a file."
        )
    return found


def is_before_training(file: Path) -> bool:
    """Return whether a checkpoint is, by its name, that of epoch 0: the weights that a run began with."""
    return _BEFORE_TRAINING.fullmatch(file.resolve().name) is not None


class _Run(NamedTuple):
    """When a run finished, in which folder, and the names of its checkpoints, the best first."""

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
    best, last = record.get("best"), record.get("checkpoint")
    names = (
        [entry.get("checkpoint") for entry in best if isinstance(entry, dict)]
        if isinstance(best, list)
        else []
    )
    if isinstance(last, dict):
        names.append(last.get("name"))
    return _Run(record["finished"], result.parent, [name for name in names if isinstance(name, str) and name])
