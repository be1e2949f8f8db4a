"""Run folders, and descriptions of the machines that runs use."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ignite_trainer.api import file_names
from ignite_trainer.protocol.sections import Protocol, Setup
from ignite_trainer.support.errors import ProtocolError

_RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pytorch-ignite",
    "open_clip_torch",
    "soundfile",
)


def root_of(setup: Setup) -> Path:
    """Return the root folder of all results."""
    return Path(setup.saved_models_path).expanduser()


def runs_of(setup: Setup) -> Path:
    """Return the folder of all runs with the protocol's name, which is below the root."""
    return root_of(setup) / slug(setup.name)


def check_writable(setup: Setup) -> None:
    """Raise a ProtocolError unless results can be written; create the root folder if needed."""
    root = root_of(setup)
    for folder in (root, runs_of(setup)):
        try:
            if folder != root and not folder.exists():  # raises an OSError if the name is too long
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))  # a full disk is only noticed when writing
                file.flush()
        except OSError as error:
            place = f" in its folder {folder.name[:50]}" if folder != root else ""
            raise ProtocolError(
                f'Setup.saved_models_path is "{root}", but files cannot be written{place or " there"} '
                f"({error.strerror}); choose another folder with -M."
            ) from error


def make_run_folder(protocol: Protocol, *, seed: int, folder: Path | None = None) -> Path:
    """Create a new folder for a run: `folder`, or by default a name with time, suffix, fold and seed."""
    if folder is not None:
        folder.mkdir(parents=True)
        return folder
    fold = protocol.dataset.args.get("fold")
    folds = fold if isinstance(fold, list) else [fold]
    parts = [
        datetime.now().strftime("%Y%m%d-%H%M%S"),  # local time, which users search by
        protocol.setup.suffix,
        None if fold is None else f"fold-{'-'.join(map(str, folds))}",
        f"seed-{seed}",
    ]
    name = slug("_".join(filter(None, parts)))
    parent = runs_of(protocol.setup)
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run started in the same second
            continue
        except OSError as error:  # such as a name too long for the file system
            raise ProtocolError(
                f"The run's folder {folder} cannot be created ({error.strerror}); choose another Setup.name "
                "or Setup.suffix, or another root with -M."
            ) from error
        return folder
    raise ProtocolError(f"{parent / name} and all its numbered variants exist; choose another Setup.suffix.")


def slug(text: str) -> str:
    """Turn text into a folder name, with hyphens for characters that a file system may refuse."""
    return re.sub(r"[^\w.\-]+", "-", text).strip(".-") or "run"


def describe_environment(*, seed: int, device: torch.device) -> dict[str, Any]:
    """Return versions, machine, seed and source revision as JSON types."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cuda = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": sys.argv,
        "seed": seed,
        "device": str(device),
        "accelerator": accelerator,
        "cuda": cuda if accelerator else None,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _RECORDED_PACKAGES},
        "revision": _revision(),
    }


def earlier_environments(folder: Path) -> list[dict[str, Any]]:
    """Read the environments of a run's earlier sessions, in chronological order."""
    try:
        last = json.loads((folder / file_names.ENVIRONMENT).read_text(encoding="utf-8"))
        return [*last.pop("earlier", []), last]
    except (OSError, ValueError):  # missing or truncated
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Return the source's commit, with "+changes" if files differ from it; None outside a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).resolve().parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
