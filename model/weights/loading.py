"""Weights into modules: compare, load; nothing missing or left over in silence. Files: weight_files.py."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .files import StateDict, read_state_dict
from .releases import WeightsError

__all__ = ["LoadReport", "MisfitError", "load_weights", "read_state_dict", "rename_to_fit"]

logger = logging.getLogger(__name__)

_IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of CLIP archives
_NOTHING_LEARNED = r"(.*\.)?(window|fbsp\.bias|num_batches_tracked)"  # a missing one keeps its right value
_TORCH_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # around any module
_OUTER_WRAPPERS = ("module", "model", "net", "network", "_forward_module", *_TORCH_WRAPPERS)
"""Around parallel, averaged or Lightning models, among others."""
_ADDED_BY_WRAPPERS = {"n_averaged"}  # by AveragedModel
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
        state: tensors by name; names with prefixes of wrappers fit, too (see `rename_to_fit`).
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
    renamed = rename_to_fit(state, target, source=source)
    given = {name: tensor for name, tensor in renamed.items() if name in target or name not in _IGNORED}
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
    damaged = [
        name
        for name in sorted(fitting)
        if given[name].is_floating_point()
        and not given[name].float().isfinite().all()  # float8 has no isfinite
    ]
    if damaged:
        logger.warning(
            "%s: %d tensors have NaN or infinite values, such as %s; so will the embeddings.",
            source, len(damaged), damaged[0],
        )  # fmt: skip
    if report.misshapen:
        logger.warning("%s: not taken, as allowed: %s.", source, "; ".join(report.misshapen))
    module.load_state_dict({name: given[name] for name in fitting}, strict=False)
    return report


def rename_to_fit(state: Mapping[str, Tensor], known: Collection[str], *, source: str | Path) -> StateDict:
    """Take off the prefixes that wrappers added to the names of a module, as far as they do not fit.

    Names that fit stay, even if they look like those of a wrapper. Otherwise `module.`, `model.`,
    `_orig_mod.` and the like are taken off the names that begin with them, until most names fit; then, name
    by name, `_orig_mod.` anywhere, and `module.` of a single tower, as in `audio.module.conv1.weight`.

    Args:
        state: tensors by name.
        known: names that the module has.
        source: where the state is from, for messages.

    Raises:
        WeightsError: two entries would have one name.
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
    """Yield the names that fit with 0, 1, 2 ... prefixes of wrappers taken off, where names have them."""
    while True:
        yield {original: _without_inner_wrappers(name, known) for original, name in names.items()}
        wrappers = Counter(name.partition(".")[0] for name in names.values() if "." in name)
        wrapper = max(_OUTER_WRAPPERS, key=lambda one: wrappers[one])
        if not wrappers[wrapper]:
            return
        names = {original: name.removeprefix(f"{wrapper}.") for original, name in names.items()}


def _without_inner_wrappers(name: str, known: Collection[str]) -> str:
    """Take off what is not at the beginning, unless the module has the name as it is."""
    if name in known:
        return name
    plain = ".".join(part for part in name.split(".") if part not in _TORCH_WRAPPERS)
    return plain if plain in known else re.sub(r"^(\w+)\.module\.", r"\1.", plain)


def _unmatched(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    compiled = [re.compile(pattern) for pattern in patterns]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in compiled)]
