"""Choose the model of a demo, and say what it cannot do; model/ builds and loads it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.audioclip import AudioCLIP
from model.weights.built_from import arguments_for
from model.weights.files import read_entries
from model.weights.hub import CONFIG, WEIGHTS, is_hub_layout
from model.weights.releases import DEFAULT_ASSETS, RELEASES, WeightsError, find_weights

RELEASED = "AudioCLIP-Full-Training"
UNTRAINED = "untrained"
SEED = 0
_LISTED = 12  # labels; more are only counted

LIMITS = (
    "The weights are random. A text then says nothing about a sound or picture, nor a picture about a sound: "
    "such rankings, and all zero-shot classification, are arbitrary. Only similarity within a kind, among "
    "sounds or among pictures, means something, and far less than with a trained model. To get the released "
    f"weights (537 MB): python -m utils.fetch {RELEASED}"
)
"""Message of the demos if the model is untrained."""

_SCORE = "score: "
_ABOUT = {"image": "pictures", "text": "texts that are not trained labels", "audio": "sounds"}
# For each tower, its part of `AudioCLIP`'s argument `pretrained`, and the names of its weights.
_TOWERS = {
    "image": ("clip", re.compile(r"visual\..+")),
    "text": ("clip", re.compile(r"(text|transformer|token_embedding|ln_final)\..+|positional_embedding")),
    "audio": ("audio", re.compile(r"audio\..+")),
}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "window", "fbsp.bias")  # no parameters


@dataclass(frozen=True)
class Weights:
    """The weights of a demo, found but not loaded.

    Attributes:
        name: shown on pages and in the terminal.
        source: path for `AudioCLIP.from_pretrained`; None for random weights.
        files: whose contents define the model.
        arguments: of the network's constructor, other than the published ones.
        limits: what cannot be done with them, or None.
        trained_labels: classes of the run that trained them; empty if unknown.
        trained_templates: texts around these labels, with `{}` in their place.
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
        """A sentence that names the trained labels; "" if they are unknown."""
        labels, templates = self.trained_labels, self.trained_templates
        if not labels:
            return ""
        around = "" if templates == ("{}",) else f' in the text "{_listed(templates)}"'
        return f"These weights come from a run on {len(labels)} labels{around}: {_listed(labels)}."

    @property
    def trained_texts(self) -> list[str]:
        """The trained labels in the trained templates."""
        return [text.replace("{}", label) for text in self.trained_templates for label in self.trained_labels]

    def caveat(self, labels: Sequence[str], template: str = "{}") -> str | None:
        """Warn, in one line, about labels that are not trained texts in this template.

        Returns:
            The warning, or None if all were trained or the run's labels are unknown.
        """
        known = set(map(_plain, self.trained_texts))
        texts = [template.replace("{}", label) for label in labels]
        others = [text for text in texts if _plain(text) not in known]
        if not known or not others:
            return None
        them = "them" if self.trained_templates == ("{}",) else "these texts"
        return (
            f"{self.trained_on} Not among {them}: {_listed(others)}. Their figures are far less reliable, "
            "however high."
        )

    @property
    def description(self) -> dict[str, Any]:
        """What embeddings depend on besides the contents of `files`, as JSON types."""
        about: dict[str, Any] = {"arguments": json.loads(json.dumps(self.arguments))}
        if self.source is None:
            about["random"] = {"seed": SEED, "torch": torch.__version__}
        return about

    def load(self) -> AudioCLIP:
        """Build the model in eval mode, on a GPU if possible; raise a WeightsError if they do not fit."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.source is not None:
            return AudioCLIP.from_pretrained(self.source, device=device, **self.arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return AudioCLIP(**{**self.arguments, "pretrained": False}).to(device).eval()


def find_demo_weights(source: str | None = None, *, assets: Path = DEFAULT_ASSETS) -> Weights:
    """Find the weights to use; downloads only weights that are named.

    Args:
        source: None for the released weights if `assets` has them, and otherwise random ones; "untrained" for
            random ones; the name of a released file; the path of a file of weights; the folder of a run, or
            of all runs of a protocol; or a folder written by `AudioCLIP.save_pretrained`.
        assets: folder of the released weights.

    Raises:
        WeightsError: they do not exist, or belong to another model than an AudioCLIP.
    """
    if source is None:
        release = RELEASES[RELEASED]
        path = assets / release.file
        source = RELEASED if path.is_file() and path.stat().st_size == release.size_bytes else UNTRAINED
    if source == UNTRAINED:
        return Weights(UNTRAINED, None, limits=LIMITS)
    if is_hub_layout(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"{source}: not a folder. Download it from the Hugging Face hub first.")
        return Weights(folder.name, folder, files=(folder / CONFIG, folder / WEIGHTS))
    path = find_weights(source, assets=assets, others=(UNTRAINED,))
    return Weights(
        path.stem,
        path,
        files=(path,),
        arguments=arguments_for(AudioCLIP, path),
        limits=_limits_of_run(path),
        trained_labels=_labels_of_run(path),
        trained_templates=_templates_of_run(path),
    )


def _labels_of_run(path: Path) -> tuple[str, ...]:
    """Return the classes named by the scores in the run's `predictions.csv`, if it exists."""
    table = path.resolve().parent.parent / "predictions.csv"
    if path.resolve().parent.name != "checkpoints" or not table.is_file():
        return ()
    with table.open(encoding="utf-8", newline="") as file:
        header = next(csv.reader(file), [])
    return tuple(name.removeprefix(_SCORE) for name in header if name.startswith(_SCORE))


def _templates_of_run(path: Path) -> tuple[str, ...]:
    """Return the templates of the run's task."""
    given = _args_of_run(path, "Task").get("template", "{}")
    return tuple(map(str, given if isinstance(given, list) else [given])) or ("{}",)


def _limits_of_run(path: Path) -> str | None:
    """Say which towers have random weights; None if none has, or if this is unknown."""
    towers = _random_towers(path)
    if not towers:
        return None
    have = "towers have" if len(towers) > 1 else "tower has"
    return (
        f"The {' and '.join(towers)} {have} random weights, which the run did not train: results for "
        f"{' and '.join(_ABOUT[tower] for tower in towers)} are arbitrary."
    )


def _random_towers(path: Path) -> list[str]:
    """Name the towers that a run neither trained nor loaded from a file."""
    given = _args_of_run(path, "Model").get("pretrained", True)
    frozen = path.resolve().with_name("frozen_weights.pt")
    if given is True or not frozen.is_file():
        return []
    try:
        kept, entries = set(read_entries(frozen, mapped=True)), read_entries(path, mapped=True)
        names = {*entries.get("model", entries), *kept}  # a state omits the frozen weights
    except (WeightsError, TypeError, AttributeError):
        return []
    parts = given if isinstance(given, dict) else {} if given is False else {"clip", "audio"}
    trained = [name for name in names - kept if not name.endswith(_STATISTICS)]
    return [
        tower
        for tower, (part, own) in _TOWERS.items()
        if part not in parts and not any(map(own.fullmatch, trained))
    ]


def _args_of_run(path: Path, section: str) -> dict[str, Any]:
    """Return the arguments in a section of the run's protocol, or none without a readable protocol."""
    folder = path.resolve().parent
    try:
        args = json.loads((folder.parent / "protocol.json").read_text(encoding="utf-8-sig"))[section]["args"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return args if isinstance(args, dict) and folder.name == "checkpoints" else {}


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return f"{', '.join(labels[:_LISTED])}{more}"


def _plain(label: str) -> str:
    """Normalise a label for comparison: case, underscores and surrounding spaces do not matter."""
    return label.lower().replace("_", " ").strip()
