"""What is said of labels: templates around them, other words for them, and the embeddings of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from model.audioclip import AudioCLIP
from model.similarity import normalised

Labels = Sequence[Sequence[str]]


class Prompts:
    """Texts of label lists, encoded, and remembered while the text tower is frozen.

    Args:
        templates: one or several; `{}` stands for the labels. The embeddings of several are averaged.
        class_texts: words to be used instead of a label.

    Raises:
        ValueError: there is no template, or one lacks its `{}`.
    """

    def __init__(self, templates: str | Sequence[str], class_texts: Mapping[str, str] | None = None) -> None:
        self._templates = [templates] if isinstance(templates, str) else list(templates)
        texts: list[object] = [*self._templates, *(class_texts or {}).values()]  # from JSON
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(f"template or class_texts has {wrong!r}; texts are expected.")
        if not self._templates:
            raise ValueError('template is an empty list; write one text or several, such as "{}".')
        for template in self._templates:
            if "{}" not in template:
                raise ValueError(f'template is "{template}"; it needs a {{}} where the labels go.')
        self._class_texts = dict(class_texts or {})
        self._known: dict[tuple[str, ...], Tensor] = {}

    def check(self, model: AudioCLIP, class_names: Sequence[str]) -> None:
        """Raise a ValueError for a text that the tower cannot take, or words for a class that is none."""
        unknown = sorted(self._class_texts.keys() - set(class_names))
        if unknown:
            raise ValueError(
                f'class_texts has words for "{unknown[0]}", which is no class of the data set; those are '
                f"{', '.join(class_names[:60])}."
            )
        for template in self._templates:
            model.tokenize(self._worded([[name] for name in class_names]), template)

    def encode(self, model: AudioCLIP, labels: Labels) -> Tensor:
        """Normalised features `[B, D]`, with gradient unless the tower is frozen."""
        if not model.text_is_frozen:
            self._known.clear()
            return self._embed(model, labels)
        keys = [tuple(sample) for sample in labels]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            # Kept for training steps too, so no inference tensors; computed once, so in full precision.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast(model.device.type, enabled=False),
            ):
                self._known.update(zip(new, self._embed(model, new), strict=True))
        return torch.stack([self._known[key] for key in keys])

    def _embed(self, model: AudioCLIP, labels: Labels) -> Tensor:
        """Average over the templates on the unit sphere: normalised, added, normalised."""
        texts = self._worded(labels)
        features = [normalised(model.encode_text(texts, template)) for template in self._templates]
        return features[0] if len(features) == 1 else normalised(torch.stack(features).sum(dim=0))

    def _worded(self, labels: Labels) -> list[list[str]]:
        return [[self._class_texts.get(label, label) for label in sample] for sample in labels]
