"""Loads weights into modules; missing, unexpected and misshapen entries are errors unless allowed."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from .files import StateDict, read_state_dict
from .releases import WeightsError

__all__ = ["LoadReport", "MisfitError", "load_weights", "read_state_dict", "rename_to_fit"]

logger = logging.getLogger(__name__)

_IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's archives of CLIP
_NOTHING_LEARNED = r"(.*\.)?(window|fbsp\.bias|num_batches_tracked)"  # correct without the file
# These may wrap any submodule.
_TORCH_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_OUTER_WRAPPERS = ("module", "model", "net", "network", "_forward_module", *_TORCH_WRAPPERS)
"""Prefixes that wrappers of whole models add, such as data parallelism, weight averaging or Lightning."""
_ADDED_BY_WRAPPERS = {"n_averaged"}  # from AveragedModel
_SHOWN = 5  # maximum names of each kind in a report


class LoadReport(NamedTuple):
    """Comparison of a file's entries with a module's."""

    source: str
    loaded: tuple[str, ...]
    """Entries in both, with equal shapes."""
    missing: tuple[str, ...] = ()
    """Entries only in the module."""
    unexpected: tuple[str, ...] = ()
    """Entries only in the file."""
    misshapen: tuple[str, ...] = ()
    """Entries in both with different shapes; each name is followed by the two shapes."""

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
    """Weights do not fit the model; `gaps` lists all entries that do not fit, the message only a few."""

    def __init__(self, message: str, gaps: LoadReport) -> None:
        super().__init__(message)
        self.gaps = gaps


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> LoadReport:
    """Copy a state dict into a module, cast to the module's dtypes; load either all that fits or nothing.

    Args:
        module: module to load into, in place.
        state: tensors keyed by name, with or without wrappers' prefixes (see `rename_to_fit`).
        source: origin of the tensors, for messages.
        allow_missing: regular expressions that match the full names of module entries which may keep their
            values if the file lacks them or has them in another shape.
        allow_unexpected: regular expressions that match the full names of file entries which the module may
            lack. The numbers in CLIP archives (`input_resolution`, `context_length`, `vocab_size`) are always
            allowed.

    Returns:
        Report of all entries that were loaded, missing, unexpected or misshapen.

    Raises:
        WeightsError: An entry is missing, unexpected or misshapen and not allowed to be; the module is
            unchanged.
    """
    target = module.state_dict()
    given = rename_to_fit(state, target, source=source)
    for name in _IGNORED:
        if name not in target:
            given.pop(name, None)
    misshapen = {
        name: f"{name} {list(given[name].shape)} for {list(target[name].shape)}"
        for name in target
        if name in given and given[name].shape != target[name].shape
    }
    fitting = {name: given[name] for name in target if name in given and name not in misshapen}
    missing = [name for name in target if name not in given]
    unexpected = [name for name in given if name not in target]
    report = LoadReport(
        str(source), tuple(fitting), tuple(missing), tuple(unexpected), tuple(misshapen.values())
    )
    gaps = report._replace(
        missing=tuple(_unmatched(missing, (*allow_missing, _NOTHING_LEARNED))),
        unexpected=tuple(_unmatched(unexpected, allow_unexpected)),
        misshapen=tuple(misshapen[name] for name in _unmatched(misshapen, allow_missing)),
    )
    if gaps.missing or gaps.unexpected or gaps.misshapen:
        raise MisfitError(f"Weights do not fit {type(module).__name__}. {gaps}", gaps)
    if report.misshapen:
        logger.warning("%s: not loaded, as allowed: %s.", source, "; ".join(report.misshapen))
    _warn_of_damage(fitting, source)
    module.load_state_dict(fitting, strict=False)
    return report


def rename_to_fit(state: Mapping[str, Tensor], known: Collection[str], *, source: str | Path) -> StateDict:
    """Remove the prefixes that wrappers added to a module's names.

    Names that the module has do not change. Other names lose leading prefixes such as `module.`, `model.` and
    `_orig_mod.`, as many as make the most names fit. They also lose `_orig_mod.` anywhere, and the `module.`
    of a wrapped tower, as in `audio.module.conv1.weight`.

    Args:
        state: tensors keyed by name.
        known: names that the module has.
        source: origin of the tensors, for messages.

    Raises:
        WeightsError: Two entries would get the same name.
    """
    own = {name: name for name in state if name in known or name not in _ADDED_BY_WRAPPERS}
    candidates = list(_without_outer_wrappers(own, known))
    fits = [len(set(candidate.values()).intersection(known)) for candidate in candidates]
    renamed = candidates[fits.index(max(fits)) if any(fits) else -1]
    twice = [name for name, count in Counter(renamed.values()).items() if count > 1]
    if twice:
        raise WeightsError(
            f'{source}: two of its entries are "{twice[0]}" without their wrappers\' prefixes. Remove one.'
        )
    return {name: state[original] for original, name in renamed.items()}


def _without_outer_wrappers(names: dict[str, str], known: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the names, keyed by original name, without 0, 1, 2 ... outer wrappers' prefixes."""
    while True:
        yield {original: _without_inner_wrappers(name, known) for original, name in names.items()}
        wrappers = Counter(name.partition(".")[0] for name in names.values() if "." in name)
        wrapper = max(_OUTER_WRAPPERS, key=lambda prefix: wrappers[prefix])
        if not wrappers[wrapper]:
            return
        names = {original: name.removeprefix(f"{wrapper}.") for original, name in names.items()}


def _without_inner_wrappers(name: str, known: Collection[str]) -> str:
    """Remove wrappers' parts from within a name, unless the module has that name."""
    if name in known:
        return name
    plain = ".".join(part for part in name.split(".") if part not in _TORCH_WRAPPERS)
    return plain if plain in known else re.sub(r"^(\w+)\.module\.", r"\1.", plain)


def _unmatched(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    compiled = [re.compile(pattern) for pattern in patterns]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in compiled)]


def _warn_of_damage(state: Mapping[str, Tensor], source: str | Path) -> None:
    damaged = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not tensor.float().isfinite().all()  # float8 lacks isfinite
    ]
    if damaged:
        logger.warning(
            "%s: %d tensors contain NaN or infinite values, such as %s; so will the embeddings.",
            source, len(damaged), damaged[0],
        )  # fmt: skip
