"""The best weights of a folder of runs, so that one training can start from another without naming a file.

```text
results/AudioSet-1-Audio/                 what is named
    2026-05-04T10-11-12_seed-1/           the newest run that has finished
        result.json                       says which of its checkpoints is best
        checkpoints/best_mAP_epoch-29_0.3514.pt
```
"""

import json
from pathlib import Path
from typing import Any

_RESULT = "result.json"


def best_checkpoint(folder: Path) -> Path:
    """Of the newest finished run in a folder, or of the folder if it is a run, return the best checkpoint.

    The best is that by the first metric that the run kept checkpoints by; of a run that kept none it is the
    state after the last epoch.

    Raises:
        ValueError: no run has finished there, it has no checkpoint, or its `result.json` is none.
    """
    results = [folder / _RESULT] if (folder / _RESULT).is_file() else list(folder.glob(f"*/{_RESULT}"))
    if not results:
        raise ValueError(
            f"{folder}: no run in this folder has finished, as its {_RESULT} would show. Carry out the "
            "protocol that these weights are to come from first, or name a file."
        )
    finished, result = max(((_read(path)["finished"], path) for path in results), key=lambda found: found[0])
    record, checkpoints = _read(result), result.parent / "checkpoints"
    names = [best.get("checkpoint") for best in record["best"] if isinstance(best, dict)]
    last = record["checkpoint"]
    if isinstance(last, dict):
        names.append(last.get("name"))
    # A name, never a path: a result may come from elsewhere.
    there = [checkpoints / Path(name).name for name in names if isinstance(name, str) and name]
    found = next((path for path in there if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"{checkpoints}: the run that finished {finished} has none of the checkpoints that its {_RESULT} "
            "names. Put them back, or name a file."
        )
    return found


def _read(result: Path) -> dict[str, Any]:
    """What is needed of a result: `finished`, `best` and `checkpoint`."""
    try:
        record = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{result} is not the result of a run: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("best"), list):
        raise ValueError(f"{result} is not the result of a run: it does not say what was best.")
    return {
        "finished": str(record.get("finished")),
        "best": record["best"],
        "checkpoint": record.get("checkpoint"),
    }
