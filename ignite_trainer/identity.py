"""What makes two protocols one experiment: equal variants may be averaged, equal purposes are one sweep."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ignite_trainer.protocol import LineSpec, Protocol

# Keys that say where things are, how fast they go or which part of an experiment this is, not what it is.
# Data and weights are told apart by their names and hashes.
_PLACES = {
    "Setup": (
        *("name", "suffix", "saved_models_path", "seed", "resume"),
        *("workers_train", "workers_test", "log_interval", "skip_train_evaluation"),
        *("channels_last", "compile", "recompute", "keep_memory"),
        *("save_every_steps", "save_every_minutes"),
    ),
    "Dataset": ("root", "fold", "cache", "progress", "download"),
    "Model": ("pretrained", "assets"),
}
# What changes no figure where nothing is trained.
_OF_TRAINING = ("Parameters", "Optimizer", "Scheduler")
_STEPS_OF_TRAINING = ("batch_train", "accumulate", "chunk", "ema")
_DEFINITION = {"path", "args", "best"}
_NOT_OF_THE_FIGURES = ("$schema", "Visdom", "Reporters", "Faults")
_NOT_OF_THE_DATA = ("cache", "progress", "download")
_WHAT = ("Setup", "Model", "Task", "Parameters", "Optimizer", "Scheduler", "Dataset", "Transforms")


def variant(protocol: Protocol) -> str:
    """Tell experiments apart: 12 hexadecimal digits of what `identity` says."""
    return digest(identity(protocol))


def identity(protocol: Protocol) -> dict[str, Any]:
    """Say what is computed, as JSON types: equal for protocols whose figures may be averaged.

    These are the sections `Setup` to `Transforms` and, as `Metric`, the definition of the metric that tables
    show. Fold, seed, data and weights may differ, and so may whatever says where things are and how fast they
    go; the batch size of evaluation, too, and what belongs to training where there are no epochs.
    """
    content = {name: section for name, section in protocol.to_json().items() if name in _WHAT}
    for name, keys in _PLACES.items():
        section = content[name]
        for place in (section, section.get("args", {})):
            for key in keys:
                place.pop(key, None)
    del content["Setup"]["batch_test"]
    if not protocol.setup.epochs:
        for key in _STEPS_OF_TRAINING:
            del content["Setup"][key]
        for name in _OF_TRAINING:
            del content[name]
    shown = shown_line(protocol)
    content["Metric"] = shown.model_dump(mode="json", by_alias=True, include=_DEFINITION) if shown else None
    return content


def purpose(protocol: Protocol) -> str:
    """Tell sweeps apart: 12 hexadecimal digits, equal for two whose runs reach the same figures.

    Unlike in `variant`, data, weights, fold, seed and the sweep count; where results lie, who writes them
    down and how many processes load the data do not.
    """
    content = {
        name: section for name, section in protocol.to_json().items() if name not in _NOT_OF_THE_FIGURES
    }
    for key in set(_PLACES["Setup"]) - {"seed"}:
        del content["Setup"][key]
    for key in _NOT_OF_THE_DATA:
        content["Dataset"]["args"].pop(key, None)
    return digest(content)


def digest(content: Any) -> str:
    """Hash JSON types, whatever the order of their keys: 12 hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def shown_line(protocol: Protocol) -> LineSpec | None:
    """Return the metric that tables show: the one named, else the first of checkpoints, else the first."""
    lines = list(protocol.lines.values())
    named = [line for line in lines if line.line_label == protocol.table.metric]
    return next(iter([*named, *(line for line in lines if line.is_checkpoint), *lines]), None)
