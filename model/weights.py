"""Weights into modules: compare, load; nothing missing or left over in silence. Files: weight_files.py."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from model.releases import WeightsError
from model.weight_files import read_state_dict

__all__ = ["LoadReport", "MisfitError", "load_weights", "read_state_dict"]

logger = logging.getLogger(__name__)

_IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of CLIP archives
_NOTHING_LEARNED = r"(.*\.)?(window|fbsp\.bias|num_batches_tracked)"  # a missing one keeps its right value
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
