"""Which model a demo runs, and what cannot be done with it; networks and loading are model/'s."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from demo.training import labels_of_run, limits_of_run, templates_of_run
from model.audioclip import AudioCLIP
from model.weights.built_from import arguments_for
from model.weights.hub import CONFIG, WEIGHTS, is_hub_layout
from model.weights.releases import DEFAULT_ASSETS, RELEASES, WeightsError, find_weights

RELEASED = "AudioCLIP-Full-Training"
UNTRAINED = "untrained"
SEED = 0
_LISTED = 12  # labels; more are only counted

LIMITS = (
    "The weights are random, as none are there. A text then says nothing about a sound or a picture, nor a "
    "picture about a sound: such rankings, and all zero-shot classification, are arbitrary. What still means "
    "something is likeness within one kind, sounds like a sound and pictures like a picture, and that is far "
    "from what a trained model does. The released weights (537 MB) come with: "
    f"python -m utils.fetch {RELEASED}"
)
"""What the demos say where a model is untrained."""


@dataclass(frozen=True)
class Weights:
    """The weights of a demo, found but not loaded.

    Attributes:
        name: what they are called on pages and at the terminal.
        source: path that `AudioCLIP.from_pretrained` takes; None: random weights.
        files: that a change of them makes another model of.
        arguments: of the network's constructor, those that are not the published ones.
        limits: what cannot be done with them; None: nothing that is known.
        trained_labels: classes of the run that the weights are from; empty if that is not known.
        trained_templates: texts that it put them into, `{}` stands for the label.
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
        """The sentence that says which labels the weights were trained on; "" where that is not known."""
        labels, templates = self.trained_labels, self.trained_templates
        if not labels:
            return ""
        put_into = "" if templates == ("{}",) else f' in the text "{_listed(templates)}"'
        return f"These weights come from a run on {len(labels)} labels{put_into}: {_listed(labels)}."

    @property
    def trained_texts(self) -> list[str]:
        """The trained labels in the trained templates."""
        return [
            template.replace("{}", label)
            for template in self.trained_templates
            for label in self.trained_labels
        ]

    def caveat(self, labels: Sequence[str], template: str = "{}") -> str | None:
        """Say which labels, in the template, are none of the trained texts, and what their figures are worth.

        Returns:
            One line; None if all are, or those of the run are not known.
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
        """What embeddings depend on besides the content of `files`, as JSON types."""
        about: dict[str, Any] = {"arguments": json.loads(json.dumps(self.arguments))}
        if self.source is None:
            about["random"] = {"seed": SEED, "torch": torch.__version__}
        return about

    def load(self) -> AudioCLIP:
        """Build the model on the GPU, if there is one, in eval mode.

        Raises:
            WeightsError: the weights do not fit.
        """
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.source is not None:
            return AudioCLIP.from_pretrained(self.source, device=device, **self.arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return AudioCLIP(**{**self.arguments, "pretrained": False}).to(device).eval()


def find_demo_weights(source: str | None = None, *, assets: Path = DEFAULT_ASSETS) -> Weights:
    """Find the weights to use; nothing is downloaded unless it is named.

    Args:
        source: None: the released weights if `assets` has them, else random ones. "untrained": random ones.
            The name of a released file, which is fetched if it is not there; the path of a file of weights;
            the folder of a run, or of all runs of a protocol; a folder that `AudioCLIP.save_pretrained`
            wrote.
        assets: folder of the released weights.

    Raises:
        WeightsError: they are not there, or are those of another model than an AudioCLIP.
    """
    if source is None:
        release = RELEASES[RELEASED]
        path = assets / release.file
        there = path.is_file() and path.stat().st_size == release.size_bytes
        source = RELEASED if there else UNTRAINED
    if source == UNTRAINED:
        return Weights(UNTRAINED, None, limits=LIMITS)
    if is_hub_layout(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"{source}: not a folder. Of the Hugging Face hub, download it first.")
        return Weights(folder.name, folder, files=(folder / CONFIG, folder / WEIGHTS))
    path = find_weights(source, assets=assets, others=(UNTRAINED,))
    return Weights(
        path.stem,
        path,
        files=(path,),
        arguments=arguments_for(AudioCLIP, path),
        limits=limits_of_run(path),
        trained_labels=labels_of_run(path),
        trained_templates=templates_of_run(path),
    )


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    return f"{', '.join(labels[:_LISTED])}{more}"


def _plain(label: str) -> str:
    """A label as it is compared: case, underscores and spaces around it make no other label."""
    return label.lower().replace("_", " ").strip()
