"""The folder of a run, and what was true of the machine when it ran."""

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
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.files import whole_file

_RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pytorch-ignite",
    "open_clip_torch",
    "soundfile",
)


def root_of(protocol: Protocol) -> Path:
    """Root of all results."""
    return Path(protocol.setup.saved_models_path).expanduser()


def runs_of(protocol: Protocol) -> Path:
    """The folder of all runs of that name, under the root of results."""
    return root_of(protocol) / slug(protocol.setup.name)


def check_writable(protocol: Protocol) -> None:
    """Raise a ProtocolError unless results can be written; their root is made if it is absent."""
    root = root_of(protocol)
    for folder in (root, runs_of(protocol)):
        try:
            if folder != root and not folder.exists():  # which fails where the name cannot be one
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))  # on a full disk a file can be made, and nothing written to it
                file.flush()
        except OSError as error:
            place = f"in {folder.name[:50]} " if folder != root else ""
            raise ProtocolError(
                f'Setup.saved_models_path is "{root}", where {place}nothing can be written '
                f"({error.strerror}); choose another folder with -M."
            ) from error


def make_run_folder(protocol: Protocol, *, seed: int) -> Path:
    """Make `<saved_models_path>/<name>/<time>[_<suffix>][_fold-<fold>]_seed-<seed>`, new for every run."""
    parts = [
        datetime.now().strftime("%Y%m%d-%H%M%S"),  # local time is what people look for
        protocol.setup.suffix,
        _fold_part(protocol),
        f"seed-{seed}",
    ]
    name = slug("_".join(part for part in parts if part))
    parent = runs_of(protocol)
    for attempt in range(1, 1000):
        folder = parent / (name if attempt == 1 else f"{name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run of the same second
            continue
        except OSError as error:  # its name is longer than the file system takes, say
            raise ProtocolError(
                f"The folder of the run, {folder}, cannot be made ({error.strerror}); choose another "
                "Setup.name, Setup.suffix or, with -M, another root."
            ) from error
        return folder
    raise ProtocolError(f"{parent / name} and 999 more like it are taken; choose another Setup.suffix.")


def slug(text: str) -> str:
    """A folder name: what a file system may not take becomes a hyphen."""
    return re.sub(r"[^\w.\-]+", "-", text).strip(".-") or "run"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, in UTF-8; a RunFailed says why that cannot be."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def describe_environment(*, seed: int, device: torch.device) -> dict[str, Any]:
    """Versions, machine, seed and source revision, as JSON types."""
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
    """What `environment.json` of a run says of the times it ran before, the first one first."""
    try:
        last = json.loads((folder / file_names.ENVIRONMENT).read_text(encoding="utf-8"))
        return [*last.pop("earlier", []), last]
    except (OSError, ValueError):  # not there, or cut off
        return []


def _fold_part(protocol: Protocol) -> str | None:
    """The held-out fold of cross-validation, so that folds never share a folder's name."""
    fold = protocol.dataset.args.get("fold")
    if fold is None:
        return None
    return "fold-" + "-".join(str(number) for number in (fold if isinstance(fold, list) else [fold]))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Commit of the source, with "+changes" if the tree differs from it; None outside a repository."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
