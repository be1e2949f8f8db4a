"""Weights into modules: every entry that is missing, unexpected or misshapen is an error unless allowed."""

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
_NOTHING_LEARNED = r"(.*\.)?(window|fbsp\.bias|num_batches_tracked)"  # right without the file, too
_TORCH_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of any submodule
_OUTER_WRAPPERS = ("module", "model", "net", "network", "_forward_module", *_TORCH_WRAPPERS)
"""Of whole models, by data parallelism, averaging or Lightning, for instance."""
_ADDED_BY_WRAPPERS = {"n_averaged"}  # by AveragedModel
_SHOWN = 5  # names of each kind in a report


class LoadReport(NamedTuple):
    """Comparison of the entries of a file and of a module."""

    source: str
    loaded: tuple[str, ...]
    """Entries of both, with equal shapes."""
    missing: tuple[str, ...] = ()
    """Entries of the module only."""
    unexpected: tuple[str, ...] = ()
    """Entries of the file only."""
    misshapen: tuple[str, ...] = ()
    """Entries of both with different shapes, followed by the two shapes."""

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
    """Weights of another model: `gaps` lists all entries that do not fit, the message the first few."""

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
        module: filled in place.
        state: tensors by name, with or without prefixes of wrappers (see `rename_to_fit`).
        source: origin of the tensors, for messages.
        allow_missing: regular expressions for whole names of module entries that may keep their values if
            the file lacks them or has them in another shape.
        allow_unexpected: the same for entries of the file that the module may lack. The numbers in CLIP
            archives (`input_resolution`, `context_length`, `vocab_size`) are always allowed.

    Returns:
        All entries that were loaded, missing, unexpected or misshapen.

    Raises:
        WeightsError: a gap is not allowed; the module is unchanged.
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
    """Remove the prefixes that wrappers added to the names of a module.

    Names that the module has stay as they are. From the others, `module.`, `model.`, `_orig_mod.` and the
    like are removed at the beginning until most names fit; then `_orig_mod.` anywhere, and `module.` of a
    single tower as in `audio.module.conv1.weight`.

    Args:
        state: tensors by name.
        known: names of the module's entries.
        source: origin of the tensors, for messages.

    Raises:
        WeightsError: two entries would get the same name.
    """
    own = {name: name for name in state if name in known or name not in _ADDED_BY_WRAPPERS}
    candidates = list(_without_outer_wrappers(own, known))
    fits = [len(set(candidate.values()).intersection(known)) for candidate in candidates]
    renamed = candidates[fits.index(max(fits)) if any(fits) else -1]
    twice = [name for name, count in Counter(renamed.values()).items() if count > 1]
    if twice:
        raise WeightsError(
            f'{source}: two of its entries are "{twice[0]}" without the prefixes of wrappers. Remove one.'
        )
    return {name: state[original] for original, name in renamed.items()}


def _without_outer_wrappers(names: dict[str, str], known: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the names, by original name, without 0, 1, 2 ... prefixes of outer wrappers."""
    while True:
        yield {original: _without_inner_wrappers(name, known) for original, name in names.items()}
        wrappers = Counter(name.partition(".")[0] for name in names.values() if "." in name)
        wrapper = max(_OUTER_WRAPPERS, key=lambda one: wrappers[one])
        if not wrappers[wrapper]:
            return
        names = {original: name.removeprefix(f"{wrapper}.") for original, name in names.items()}


def _without_inner_wrappers(name: str, known: Collection[str]) -> str:
    """Remove wrappers inside a name, unless the module has the name."""
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
            "%s: %d tensors have NaN or infinite values, such as %s; so will the embeddings.",
            source, len(damaged), damaged[0],
        )  # fmt: skip
