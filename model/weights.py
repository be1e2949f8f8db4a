"""Weights from files into modules: read, compare, load; nothing missing or left over in silence."""

import hashlib
import logging
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.releases import WeightsError

StateDict = dict[str, Tensor]

logger = logging.getLogger(__name__)

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

_IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of CLIP archives
_NOTHING_LEARNED = r"(.*\.)?(window|fbsp\.bias|num_batches_tracked)"  # a missing one keeps its right value
_WRAPPED = ("model", "state_dict")  # entries of a training checkpoint that hold the weights
_FROZEN = "frozen_weights"  # entry of a run's state: sha256 of the file of that name beside it
_SHOWN = 5  # names that a report spells out of each kind


@dataclass(frozen=True)
class LoadReport:
    """How a file's entries and a module's compare."""

    source: str
    loaded: tuple[str, ...]
    """Entries found in both, with one shape."""
    missing: tuple[str, ...]
    """Entries of the module that the file lacks."""
    unexpected: tuple[str, ...]
    """Entries of the file that the module lacks."""
    misshapen: tuple[str, ...]
    """Entries of both with different shapes, both shapes spelt out."""

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misshapen)
        lines = [f"{self.source}: {len(self.loaded)} of the model's {total} entries match"]
        for kind in ("missing", "unexpected", "misshapen"):
            names: tuple[str, ...] = getattr(self, kind)
            if names:
                more = f", ... and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"  {len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}")
        return "\n".join(lines)


class MisfitError(WeightsError):
    """Weights of another model; `gaps` names every entry that does not fit, the message the first few."""

    def __init__(self, message: str, gaps: LoadReport) -> None:
        super().__init__(message)
        self.gaps = gaps


def read_state_dict(path: str | Path) -> StateDict:
    """Read the tensors of a file onto the CPU.

    Understood are `.safetensors`; pickles of a plain state dict, or of a training checkpoint with a "model"
    (or "state_dict") entry, which are read without running code of theirs (`weights_only`); and the
    TorchScript archives of `KNOWN_ARCHIVES`. Any other such archive is refused: loading one runs its code,
    which can write files. The state of a run is read with the file of frozen weights beside it. A `module.`
    prefix is taken off.

    Raises:
        WeightsError: the file is missing, not of these kinds, or holds something else than tensors; or the
            frozen weights that a state goes with are not beside it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    if path.suffix == ".safetensors":
        entries: Any = _read_safetensors(path)
    elif _is_torchscript(path):
        entries = _read_torchscript(path)
    else:
        entries = _read_pickle(path)
    frozen = _read_frozen(path, entries)
    for name in _WRAPPED:
        if isinstance(entries, Mapping) and isinstance(entries.get(name), Mapping):
            entries = {**frozen, **entries[name]}
            break
    if not isinstance(entries, Mapping) or not entries:
        raise WeightsError(f"{path}: holds no state dict, but a {type(entries).__name__}.")
    strangers = [str(name) for name, value in entries.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(f"{path}: not a state dict; not tensors: {', '.join(strangers[:_SHOWN])}.")
    return without_prefix({str(name): value for name, value in entries.items()}, "module.")


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> StateDict:
    """Take a prefix off all names, if all names have it."""
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> LoadReport:
    """Copy a state dict into a module, cast to the module's types; all that fits, or nothing.

    Args:
        module: filled in place.
        state: tensors by name.
        source: where they are from, for messages.
        allow_missing: regular expressions, each for full names: entries of the module that may keep their
            values, because the file lacks them or has them in another shape.
        allow_unexpected: likewise, entries of the file that the module may lack. The numbers that CLIP
            archives carry (`input_resolution`, `context_length`, `vocab_size`) always may.

    Returns:
        What was loaded and what not, every name of it.

    Raises:
        WeightsError: a gap that was not allowed; the module is as before.
    """
    target = module.state_dict()
    given = {name: tensor for name, tensor in state.items() if name in target or name not in _IGNORED}
    fitting = {name for name in given if name in target and given[name].shape == target[name].shape}
    missing = [name for name in target if name not in given]
    unexpected = [name for name in given if name not in target]
    misshapen = {
        name: f"{name} {list(given[name].shape)} for {list(target[name].shape)}"
        for name in given
        if name in target and name not in fitting
    }
    report = LoadReport(
        str(source), tuple(sorted(fitting)), tuple(missing), tuple(unexpected), tuple(misshapen.values())
    )
    gaps = LoadReport(
        str(source),
        report.loaded,
        missing=tuple(_unmatched(missing, (*allow_missing, _NOTHING_LEARNED))),
        unexpected=tuple(_unmatched(unexpected, allow_unexpected)),
        misshapen=tuple(misshapen[name] for name in _unmatched(misshapen, allow_missing)),
    )
    if gaps.missing or gaps.unexpected or gaps.misshapen:
        raise MisfitError(f"Weights do not fit {type(module).__name__}. {gaps}", gaps)
    if report.misshapen:
        logger.warning("%s: not taken, as allowed: %s.", source, "; ".join(report.misshapen))
    module.load_state_dict({name: given[name] for name in fitting}, strict=False)
    return report


def _unmatched(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    compiled = [re.compile(pattern) for pattern in patterns]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in compiled)]


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError  # noqa: PLC0415 - only for files of its kind
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        state: StateDict = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}).") from error
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
        raise WeightsError(f"{path}: a damaged archive ({error}).") from error
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


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, where the file is of another
        raise WeightsError(
            f"{path}: not a file of weights, or damaged, or with more than tensors in it, "
            "whose code is not run."
        ) from error


def _read_frozen(path: Path, state: Any) -> StateDict:
    """Read the frozen weights beside the state of a run; {} for any other file."""
    sha256 = state.get(_FROZEN) if isinstance(state, Mapping) else None
    if not isinstance(sha256, str):
        return {}
    beside = path.with_name(f"{_FROZEN}.pt")
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
