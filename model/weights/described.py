"""Finds weights and describes what they were trained on and their limits, before they are loaded."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..audioclip import AudioCLIP
from . import releases
from .built_from import arguments_for
from .fetch import hash_of
from .files import read_entries
from .hub import CONFIG, WEIGHTS, is_hub_layout
from .releases import DEFAULT_ASSETS, WeightsError, find_weights
from .run_folders import best_checkpoint

RELEASED = "AudioCLIP-Full-Training"
DOWNLOAD_SIZE = f"{releases.RELEASES[RELEASED].size_bytes / 1e6:.0f} MB"
UNTRAINED = "untrained"
SEED = 0
PREPROCESSING_VERSION = 1
"""Increase it if the embedding of a file changes by more than rounding, so that kept embeddings expire."""

LIMITS = (
    "The weights are random. Rankings between texts, sounds and images, and all zero-shot classification, "
    "are therefore arbitrary. Only similarities among sounds or among images mean something, and far less "
    f"than with a trained model. Name {RELEASED} as the weights to download the released ones "
    f"({DOWNLOAD_SIZE})."
)
"""What random weights are good for."""

_RANDOM_INSTEAD = f'Random weights need no file: name them "{UNTRAINED}".'
_SCORE = "score: "
_ABOUT = {"image": "images", "text": "texts that are not training labels", "audio": "sounds"}
# By tower: its key in `AudioCLIP`'s argument `pretrained`, and a pattern of its weights' names.
_TOWERS = {
    "image": ("clip", re.compile(r"visual\..+")),
    "text": ("clip", re.compile(r"(text|transformer|token_embedding|ln_final)\..+|positional_embedding")),
    "audio": ("audio", re.compile(r"audio\..+")),
}
_PARTS = {part for part, _ in _TOWERS.values()}
# Suffixes of entries that are not parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "window", "fbsp.bias")


@dataclass(frozen=True)
class DescribedWeights:
    """Weights that are found but not loaded.

    Attributes:
        name: name to show.
        source: path for `AudioCLIP.from_pretrained`; None for random weights.
        files: files whose contents define the model.
        arguments: arguments of the network's constructor that differ from the published model's.
        limits: sentence about the limits of these weights; None if there are none.
        trained_labels: classes of the run that trained the weights; empty if unknown.
        trained_templates: prompt templates of that run, with `{}` where the label goes.
    """

    name: str
    source: Path | None
    files: tuple[Path, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limits: str | None = None
    trained_labels: tuple[str, ...] = ()
    trained_templates: tuple[str, ...] = ("{}",)

    @property
    def trained_on(self) -> str:
        """Sentence that lists the training labels; "" if they are unknown."""
        labels, templates = self.trained_labels, self.trained_templates
        if not labels:
            return ""
        around = "" if templates == ("{}",) else f' in the text "{_listing(templates)}"'
        return f"These weights come from a run on {len(labels)} labels{around}: {_listing(labels)}."

    @property
    def trained_texts(self) -> list[str]:
        """Training texts: every training label in every prompt template."""
        return [text.replace("{}", label) for text in self.trained_templates for label in self.trained_labels]

    def caveat(self, labels: Sequence[str], template: str = "{}") -> str | None:
        """Return a one-line warning about labels that do not form training texts in this template.

        Returns:
            The warning, or None if all texts are training texts or the run's labels are unknown.
        """
        known = set(map(_plain, self.trained_texts))
        texts = [template.replace("{}", label) for label in labels]
        others = [text for text in texts if _plain(text) not in known]
        if not known or not others:
            return None
        them = "them" if self.trained_templates == ("{}",) else "these texts"
        return (
            f"{self.trained_on} Not among {them}: {_listing(others)}. Their scores are far less reliable, "
            "however high."
        )

    @property
    def description(self) -> dict[str, Any]:
        """Everything besides the contents of `files` that determines the embeddings, as JSON types."""
        arguments = json.loads(json.dumps(self.arguments))
        about: dict[str, Any] = {"arguments": arguments, "preprocessing": PREPROCESSING_VERSION}
        if self.source is None:
            about["random"] = {"seed": SEED, "torch": torch.__version__}
        return about

    def load(self) -> AudioCLIP:
        """Build the model in eval mode, on a GPU if possible; raise WeightsError if the weights misfit."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.source is not None:
            return AudioCLIP.from_pretrained(self.source, device=device, **self.arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return AudioCLIP(**{**self.arguments, "pretrained": False}).to(device).eval()


def released_or_untrained(*, assets: Path = DEFAULT_ASSETS) -> str:
    """Return the name of the released weights if they are in `assets`, and otherwise "untrained"."""
    return RELEASED if is_fetched(RELEASED, assets=assets) else UNTRAINED


def is_fetched(name: str, *, assets: Path = DEFAULT_ASSETS) -> bool:
    """Return whether a release is in `assets`, judged by its size."""
    release = releases.RELEASES[name]
    path = assets / release.file
    return path.is_file() and path.stat().st_size == release.size_bytes


def describe_weights(source: str, *, assets: Path = DEFAULT_ASSETS) -> DescribedWeights:
    """Find weights and describe them; a missing release is downloaded.

    Args:
        source: name of a release, a weights file, a run folder, a folder with all runs of a protocol, or a
            folder written by `AudioCLIP.save_pretrained`; "untrained" for random weights.
        assets: folder of the released weights.

    Raises:
        WeightsError: The weights do not exist, or do not belong to an AudioCLIP.
    """
    if source == UNTRAINED:
        return DescribedWeights(UNTRAINED, None, limits=LIMITS)
    if is_hub_layout(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"{source}: not a folder. Download it from the Hugging Face Hub first.")
        return DescribedWeights(folder.name, folder, files=(folder / CONFIG, folder / WEIGHTS))
    path = find_weights(source, assets=assets, others=(UNTRAINED,), instead=_RANDOM_INSTEAD)
    return DescribedWeights(
        path.stem,
        path,
        files=(path,),
        arguments=arguments_for(AudioCLIP, path),
        limits=_limits_of_run(path),
        trained_labels=_labels_of_run(path),
        trained_templates=_templates_of_run(path),
    )


def _labels_of_run(path: Path) -> tuple[str, ...]:
    """Return the classes in the score columns of the run's `predictions.csv`, or () without this file."""
    table = path.resolve().parent.parent / "predictions.csv"
    if path.resolve().parent.name != "checkpoints" or not table.is_file():
        return ()
    with table.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return tuple(name.removeprefix(_SCORE) for name in header if name.startswith(_SCORE))


def _templates_of_run(path: Path) -> tuple[str, ...]:
    """Return the prompt templates of the run's task."""
    given = _args_of_run(path, "Task").get("template", "{}")
    return tuple(map(str, given if isinstance(given, list) else [given])) or ("{}",)


def _limits_of_run(path: Path) -> str | None:
    """Return a sentence about the towers with random weights; None if there are none or this is unknown."""
    towers = _random_towers(path)
    if not towers:
        return None
    have = "towers have" if len(towers) > 1 else "tower has"
    return (
        f"The {' and '.join(towers)} {have} random weights, which the run did not train: results for "
        f"{' and '.join(_ABOUT[tower] for tower in towers)} are arbitrary."
    )


def _random_towers(path: Path) -> list[str]:
    """List the towers whose weights are still random: neither this run nor those before it trained them."""
    given = _args_of_run(path, "Model").get("pretrained", True)
    frozen = path.resolve().with_name("frozen_weights.pt")
    if given is True or not frozen.is_file():
        return []
    try:
        kept, entries = set(read_entries(frozen, mapped=True)), read_entries(path, mapped=True)
        names = {*entries.get("model", entries), *kept}  # a state omits the frozen weights
    except (WeightsError, TypeError, AttributeError):
        return []
    sources = given if isinstance(given, dict) else dict.fromkeys(_PARTS, given)
    parts = {part: source for part, source in sources.items() if source}
    trained = [name for name in names - kept if not name.endswith(_STATISTICS)]
    untrained = [tower for tower, (_, own) in _TOWERS.items() if not any(map(own.fullmatch, trained))]
    earlier = {part: untrained and _random_in_earlier_run(source, path) for part, source in parts.items()}
    return [tower for tower in untrained if tower in earlier.get(_TOWERS[tower][0], _TOWERS)]


def _random_in_earlier_run(source: str, path: Path) -> list[str]:
    """List the random towers of the file that a run started from; [] if that file is gone or another."""
    try:
        file = Path(source).expanduser()
        file = best_checkpoint(file) if file.is_dir() else file
        result = json.loads((path.resolve().parent.parent / "result.json").read_text(encoding="utf-8"))
        hashes = {weights["sha256"] for weights in result["weights"]}
        return _random_towers(file) if hash_of(file) in hashes else []
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _args_of_run(path: Path, section: str) -> dict[str, Any]:
    """Return the arguments in a section of the run's protocol, or {} without a readable protocol."""
    folder = path.resolve().parent
    try:
        args = json.loads((folder.parent / "protocol.json").read_text(encoding="utf-8-sig"))[section]["args"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return args if isinstance(args, dict) and folder.name == "checkpoints" else {}


def _listing(names: Sequence[str], *, most: int = 16) -> str:
    """Join at most `most` names, and count the rest."""
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    return ", ".join([*names[:most], *more])


def _plain(label: str) -> str:
    """Normalise a label for comparison: case, underscores and surrounding spaces do not matter."""
    return label.lower().replace("_", " ").strip()
