"""Finds models of the transformers library: a folder, or a repository on the Hugging Face Hub."""

import json
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from .fetch import through_proxy
from .releases import RANDOM_INSTEAD, WeightsError

_HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of the installed huggingface_hub: requests, httpx or httpx2
_INVALID_URL: type[Exception] = import_module(_HTTP_ERROR.__module__).InvalidURL
HUB_ERRORS: tuple[type[Exception], ...] = (_HTTP_ERROR, _INVALID_URL, OSError)
"""Errors of a download: OSError, and those of the HTTP library of the installed huggingface_hub."""
_HUB_OR_NAME_ERRORS: tuple[type[Exception], ...] = (*HUB_ERRORS, ValueError)

_DESCRIPTIONS = ("*.json", "merges.txt")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # by preference; a repository can hold both


class HubFolder(NamedTuple):
    """A model's folder: its config, weights and preprocessing."""

    path: Path
    name: str
    """Name to show: `owner/name` on the hub, or the folder's name."""
    files: tuple[Path, ...]
    """Files that contain the weights."""


def find_hub_folder(source: str | Path, *, model_type: str) -> HubFolder:
    """Find a model's folder; a repository on the hub is downloaded once, to the hub's cache.

    Args:
        source: path of the folder, or `owner/name` on the hub.
        model_type: expected `model_type` in the config.

    Raises:
        WeightsError: There is no such folder or repository, it cannot be fetched, it lacks the config or the
            weights, or it holds another type of model.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        name, files = path.resolve().name, _weights_in(path)
    else:
        name, files = str(source), ()
        for pattern in _WEIGHTS:
            if not files:
                path = _fetch(name, (*_DESCRIPTIONS, pattern))
                files = _weights_in(path)
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        raise WeightsError(
            f"{source} has no config.json; a folder of a {model_type} model has one."
        ) from None
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{source}: its config.json is not valid ({error}). Fetch it again.") from None
    if found != model_type:
        raise WeightsError(f'{source} is a model of type "{found}"; expected "{model_type}".')
    if not files:
        raise WeightsError(f"{source} has no weights; expected {' or '.join(_WEIGHTS)}.")
    return HubFolder(path, name, files)


def reason(error: Exception) -> str:
    """Return the message of one of `HUB_ERRORS`, without a password or a final full stop."""
    return "an address is not valid" if isinstance(error, _INVALID_URL) else str(error).rstrip(".")


def _weights_in(folder: Path) -> tuple[Path, ...]:
    found = (tuple(sorted(folder.glob(pattern))) for pattern in _WEIGHTS)
    return next(filter(None, found), ())


def _fetch(name: str, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except _HUB_OR_NAME_ERRORS as error:
        raise WeightsError(
            f"{name}: no such folder, and cannot be fetched from the Hugging Face Hub"
            f"{through_proxy(constants.ENDPOINT)}: {reason(error)}. On a machine without a network, "
            f"name a folder with the repository's files. {RANDOM_INSTEAD}"
        ) from None
