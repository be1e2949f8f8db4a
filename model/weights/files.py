"""Recognises weights files and reads the tensors in them."""

import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..inputs import is_safetensors, name_other_kind
from .fetch import hash_of
from .releases import WeightsError
from .run_folders import is_before_training

logger = logging.getLogger(__name__)

StateDict: TypeAlias = dict[str, Tensor]

KNOWN_ARCHIVES = frozenset(
    {
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",  # RN50.pt
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",  # RN101.pt
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",  # RN50x4.pt
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",  # RN50x16.pt
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",  # RN50x64.pt
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",  # ViT-B-32.pt
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",  # ViT-B-16.pt
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",  # ViT-L-14.pt
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",  # ViT-L-14-336px.pt
    }
)
"""sha256 of OpenAI's published TorchScript archives of CLIP, the only archives whose code is run."""

_HOLDERS = ("model", "state_dict", "model_state_dict", "module", "network", "net", "weights", "params")
"""Keys under which training checkpoints hold the weights, possibly nested."""
_MAX_DEPTH = 4  # levels of nesting
_FROZEN = "frozen_weights"  # entry of a run's state with the sha256 of frozen_weights.pt alongside it
_SHOWN = 5  # maximum names in a message


def read_state_dict(path: str | Path) -> StateDict:
    """Read a file's tensors onto the CPU.

    Supported formats are safetensors, pickles from `torch.save`, and the TorchScript archives in
    `KNOWN_ARCHIVES`. Pickles are read without running their code (`weights_only`). They contain a state dict,
    or a training checkpoint with a state dict under "model", "state_dict", "model_state_dict" or the like.
    Other TorchScript archives are refused because loading an archive runs its code. If a run's state
    lacks the frozen weights, they are read from the file alongside it. A checkpoint of epoch 0, saved before
    any training, causes a warning.

    Returns:
        Tensors keyed by their names in the file; `load_weights` removes wrappers' prefixes.

    Raises:
        WeightsError: The file is missing, has another format or contains no state dict, or a run's state
            lacks its file of frozen weights.
    """
    path = Path(path)
    if is_before_training(path):
        logger.warning(
            "%s holds the weights from before the first step (epoch 0); they have learned nothing.", path
        )
    entries = read_entries(path)
    state = _find_state_dict(entries)
    if state is None:
        raise WeightsError(f"{path}: {_describe(entries)}")
    return {**_read_frozen(path, entries), **state}


def read_entries(path: Path, *, mapped: bool = False) -> Any:
    """Read a weights file onto the CPU, with all entries of a checkpoint.

    If `mapped`, tensors are mapped into memory instead of being read, where the format allows it.

    Raises:
        WeightsError: The file is missing or has another format; the message names it and says what to do.
    """
    if not path.is_file():
        gone = f": it is a link to {path.readlink()}, which does not exist" if path.is_symlink() else ""
        raise WeightsError(f"{path}: no such file{gone}.")
    try:
        if (other := name_other_kind(path)) is not None:
            raise WeightsError(f"{path} is {other}")
        if is_safetensors(path):
            return _read_safetensors(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).") from None
    return _read_pickle(path, mapped=mapped and zipfile.is_zipfile(path))


def _find_state_dict(entries: Any, *, depth: int = _MAX_DEPTH) -> Mapping[str, Tensor] | None:
    """Return the state dict in a possibly nested checkpoint, or None."""
    if not isinstance(entries, Mapping) or not entries:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries.items()):
        return entries
    inner = (entries.get(name) for name in _HOLDERS if depth)
    found = (_find_state_dict(value, depth=depth - 1) for value in inner)
    return next((state for state in found if state is not None), None)


def _describe(entries: Any) -> str:
    """Describe content that is not a state dict, to complete the message "FILE: ..."."""
    if not isinstance(entries, Mapping) or not entries:
        return f"contains {'an empty' if entries == {} else 'a'} {type(entries).__name__}, not a state dict."
    others = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    listed = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
    return (
        f"contains no state dict, even under {', '.join(_HOLDERS)}; it has {listed}. If one of these holds "
        'the weights, save only that: torch.save(torch.load(path)["NAME"], new_path).'
    )


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError  # noqa: PLC0415 - only needed for such files
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}).") from None


def _read_torchscript(path: Path) -> StateDict:
    sha256 = hash_of(path)
    if sha256 not in KNOWN_ARCHIVES:
        raise WeightsError(
            f"{path}: an unknown TorchScript archive (sha256 {sha256}); loading it would run its code. If "
            "you trust it, save its weights alone: torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    with warnings.catch_warnings():
        # torch.jit.load is deprecated, but nothing else reads the published archives.
        warnings.filterwarnings("ignore", message=".*torch.jit.load")
        try:
            archive = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise WeightsError(f"{path}: a damaged TorchScript archive.") from error
    return archive.state_dict()  # type: ignore[no-any-return]


def _read_pickle(path: Path, *, mapped: bool = False) -> Any:
    try:
        # By its path, torch 2.15 reads such a file as safetensors only; an open file has no name.
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of any type, if the file is not a pickle
        if "TorchScript" in str(error):  # torch refuses TorchScript with weights_only
            return _read_torchscript(path)
        other = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        needs = f" It needs {other[1]}." if other else ""
        raise WeightsError(
            f"{path}: not a weights file, or damaged, or it contains objects other than tensors, which are "
            f"not loaded because that would run code.{needs} If you trust it, save its weights alone: "
            "torch.save(torch.load(path, weights_only=False)[...], new_path)."
        ) from error


def _read_frozen(path: Path, state: Any) -> StateDict:
    """Read the frozen weights alongside a run's state; return {} for any other file."""
    sha256 = state.get(_FROZEN) if isinstance(state, Mapping) else None
    if not isinstance(sha256, str):
        return {}
    file = path.with_name(f"{_FROZEN}.pt")
    if file.is_file() and (other := name_other_kind(file)) is not None:
        raise WeightsError(
            f"{path} is a run's saved state, and its frozen weights are in {file.name}. That file is {other}"
        )
    if not file.is_file() or hash_of(file) != sha256:
        raise WeightsError(
            f"{path} is a run's saved state, and its frozen weights are in {file.name} beside it; that file "
            f"is {'damaged or from another run' if file.is_file() else 'missing'}. Restore it, or use one of "
            "the run's best_*.pt files, which are complete."
        )
    return _read_pickle(file)  # type: ignore[no-any-return]
