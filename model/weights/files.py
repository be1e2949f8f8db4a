"""Files of weights: what kind they are, and the tensors in them."""

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..file_kinds import is_safetensors, name_other_kind
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
"""sha256 of the TorchScript archives whose code is known: those of CLIP that OpenAI publishes."""

_HOLDERS = ("model", "state_dict", "model_state_dict", "module", "network", "net", "weights", "params")
"""Entries of a training checkpoint that hold the weights, or a dictionary in which one of these does."""
_DEEPEST = 4  # such dictionaries inside each other
_FROZEN = "frozen_weights"  # entry of a run's state: sha256 of the file of that name beside it
_SHOWN = 5  # names that a message spells out


def read_state_dict(path: str | Path) -> StateDict:
    """Read the tensors of a file onto the CPU.

    Understood are safetensors; pickles of a state dict, or of a training checkpoint that holds one in
    dictionaries called "model", "state_dict", "model_state_dict" and the like, which are read without running
    code of theirs (`weights_only`); and the TorchScript archives of `KNOWN_ARCHIVES`. Any other such archive
    is refused: loading one runs its code, which can write files. The state of a run is read with the file of
    frozen weights beside it. Names are those of the file; `load_weights` takes off what wrappers added. The
    checkpoint of a run's epoch 0, of which nothing was learned, is read with a warning.

    Raises:
        WeightsError: the file is missing, not of these kinds, or holds something else than tensors; or the
            frozen weights that a state goes with are not beside it.
    """
    path = Path(path)
    if is_before_training(path):
        logger.warning("%s: the weights before the first step (epoch 0). Nothing was learned.", path)
    entries = read_entries(path)
    state = _find_state_dict(entries)
    if state is None:
        raise WeightsError(f"{path}: {_what_is_there(entries)}")
    return {**_read_frozen(path, entries), **state}


def read_entries(path: Path, *, mapped: bool = False) -> Any:
    """Read what a file of weights holds, on the CPU, whatever it is called.

    Args:
        path: the file.
        mapped: map the tensors into memory, where the format can, instead of reading them.

    Raises:
        WeightsError: the file is missing, or of another kind; the message says of which, and what to do.
    """
    if not path.is_file():
        gone = f", but a link to {path.readlink()}, which is not there" if path.is_symlink() else ""
        raise WeightsError(f"{path}: no such file{gone}.")
    try:
        if (other := name_other_kind(path)) is not None:
            raise WeightsError(f"{path} is {other}")
        if is_safetensors(path):
            return _read_safetensors(path)
        if _is_torchscript(path):
            return _read_torchscript(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).") from None
    return _read_pickle(path, mapped=mapped and zipfile.is_zipfile(path))


def _find_state_dict(entries: Any, *, deepest: int = _DEEPEST) -> Mapping[str, Tensor] | None:
    """Find the state dict in dictionaries that hold it; None if there is none."""
    if not isinstance(entries, Mapping) or not entries:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries.items()):
        return entries
    inner = (entries.get(name) for name in _HOLDERS if deepest)
    found = (_find_state_dict(value, deepest=deepest - 1) for value in inner)
    return next((state for state in found if state is not None), None)


def _what_is_there(entries: Any) -> str:
    """Say what a file holds in place of a state dict."""
    if not isinstance(entries, Mapping) or not entries:
        return f"holds no state dict, but {'an empty' if entries == {} else 'a'} {type(entries).__name__}."
    strangers = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    listed = ", ".join(strangers[:_SHOWN]) + (", ..." if len(strangers) > _SHOWN else "")
    if len(strangers) < len(entries):
        return f"not a state dict; not tensors: {listed}."
    return (
        f"holds no state dict where one is looked for ({', '.join(_HOLDERS)}), but {listed}. If one of these "
        'holds the weights, save it alone: torch.save(torch.load(path)["NAME"], new_path).'
    )


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError  # noqa: PLC0415 - only for files of its kind
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        state: StateDict = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}).") from None
    return state


def _is_torchscript(path: Path) -> bool:
    """Tell TorchScript archives by the folder `code/`, which pickles of `torch.save` lack.

    Raises:
        WeightsError: a damaged archive, or one that would become far larger, since torch compresses none.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise WeightsError(f"{path}: a damaged archive ({error}).") from None
    if sum(entry.file_size for entry in entries) > 2 * path.stat().st_size:
        raise WeightsError(f"{path}: an archive that is compressed; weights are not.")
    return any("/code/" in entry.filename for entry in entries)


def _read_torchscript(path: Path) -> StateDict:
    sha256 = _sha256(path)
    if sha256 not in KNOWN_ARCHIVES:
        raise WeightsError(
            f"{path}: a TorchScript archive, which is code, and none that is known (sha256 {sha256}). If you "
            "trust it, make a file of weights of it: torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    with warnings.catch_warnings():
        # Deprecated, yet the only reader of the archives that are out there.
        warnings.filterwarnings("ignore", message=".*torch.jit.load", category=DeprecationWarning)
        try:
            archive = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise WeightsError(f"{path}: a damaged TorchScript archive.") from error
    state: StateDict = archive.state_dict()
    return state


def _read_pickle(path: Path, *, mapped: bool = False) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # of any kind, where the file is of another
        other = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        asks = f" It asks for {other[1]}." if other else ""
        raise WeightsError(
            f"{path}: not a file of weights, or damaged, or with more than tensors in it, whose code is not "
            f"run.{asks} If you trust it, make a file of its weights alone: "
            "torch.save(torch.load(path, weights_only=False)[...], new_path)."
        ) from error


def _read_frozen(path: Path, state: Any) -> StateDict:
    """Read the frozen weights beside the state of a run; {} for any other file."""
    sha256 = state.get(_FROZEN) if isinstance(state, Mapping) else None
    if not isinstance(sha256, str):
        return {}
    beside = path.with_name(f"{_FROZEN}.pt")
    if beside.is_file() and (other := name_other_kind(beside)) is not None:
        raise WeightsError(
            f"{path}: a state of a run, whose frozen weights are in {beside.name}. That is {other}"
        )
    if not beside.is_file() or _sha256(beside) != sha256:
        raise WeightsError(
            f"{path}: a state of a run, whose frozen weights are in {beside.name} beside it; that file is "
            f"{'damaged or of another run' if beside.is_file() else 'missing'}. Put it back, or name one of "
            "the run's best_*.pt, which are complete."
        )
    frozen: StateDict = _read_pickle(beside)
    return frozen


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
