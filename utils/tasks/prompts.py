"""What is said of labels: templates around them, other words for them, and the embeddings of the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ignite_trainer.api.findings import Finding
from model.audioclip import AudioCLIP
from model.clip.texts import TextTooLong
from model.clip.towers import text_parameters
from model.losses import normalised
from model.recompute import CachedValue

Labels = Sequence[Sequence[str]]

_MOST_KNOWN = 100_000
"""Texts whose features are remembered: 0.4 GB of 1024 numbers each. There can be millions."""

_MARKS = 2  # tokens at the beginning and the end of a text


class Prompts:
    """Texts of label lists, encoded, and remembered while the text tower is frozen.

    Args:
        templates: one or several; `{}` stands for the labels. The embeddings of several are averaged.
        class_texts: words to be used instead of a label.
        shorten: of a text that is too long for the tower, leave out labels, the last first, and of a single
            one words; otherwise it is an error.

    Raises:
        ValueError: there is no template, or one lacks its `{}`.
    """

    def __init__(
        self,
        templates: str | Sequence[str],
        class_texts: Mapping[str, str] | None = None,
        *,
        shorten: bool = False,
    ) -> None:
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
        self._shorten = shorten
        self._known: CachedValue[dict[tuple[str, ...], Tensor]] = CachedValue()

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

    def too_long(self, model: AudioCLIP) -> Callable[[str, Sequence[str]], Iterator[Finding]]:
        """Make what finds texts that the tower cannot take whole.

        It is called with the place of a sample, and its labels or the one text that describes it.
        """
        room = model.context_length - _MARKS - max(len(template.encode()) for template in self._templates)
        known: dict[tuple[str, ...], int] = {}  # tokens of those that are too long, else 0

        def find(place: str, labels: Sequence[str]) -> Iterator[Finding]:
            text = tuple(self._worded([labels])[0])
            if len(", ".join(text).encode()) <= room:  # a token has at least one byte
                return
            if text not in known:
                known[text] = max(_tokens_beyond(model, [*text], template) for template in self._templates)
            if known[text]:
                where = f"{place} ({known[text]} tokens)"
                yield _too_long(where, cut=self._shorten, context=model.context_length)

        return find

    def encode(self, model: AudioCLIP, labels: Labels) -> Tensor:
        """Normalised features `[B, D]`, with gradient unless the tower is frozen."""
        if not model.text_is_frozen:
            return self._embed(model, labels)
        # Kept for training steps too, so no inference tensors; computed once, so in full precision.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(model.device.type, enabled=False),
        ):
            known = self._known.get(dict, text_parameters(model))
            if len(known) > _MOST_KNOWN:
                known.clear()
            texts = [tuple(sample) for sample in labels]
            new = [text for text in dict.fromkeys(texts) if text not in known]
            if new:
                known.update(zip(new, self._embed(model, new), strict=True))
            return torch.stack([known[text] for text in texts])

    def _embed(self, model: AudioCLIP, labels: Labels) -> Tensor:
        """Average over the templates on the unit sphere: normalised, added, normalised."""
        texts = self._worded(labels)
        features = []
        for template in self._templates:
            fitting = [_fitting(model, text, template) for text in texts] if self._shorten else texts
            features.append(normalised(model.encode_text(fitting, template)))
        return features[0] if len(features) == 1 else normalised(torch.stack(features).sum(dim=0))

    def _worded(self, labels: Labels) -> list[list[str]]:
        return [[self._class_texts.get(label, label) for label in sample] for sample in labels]


def _too_long(place: str, *, cut: bool, context: int) -> Finding:
    what = f"A text is longer than the text tower takes, {context} tokens with both marks"
    if cut:
        return Finding(
            severity="warning",
            what=f"{what}: its end is cut off.",
            where=place,
            remedy="Shorten it, if its end matters.",
        )
    return Finding(severity="error", what=f"{what}.", where=place, remedy="Shorten it, or the template.")


def _fitting(model: AudioCLIP, text: list[str], template: str) -> list[str]:
    """What of a text the tower takes; the template alone is not too long."""
    while _tokens_beyond(model, text, template):
        words = text[0].split(" ")
        if len(text) > 1:
            text = text[:-1]
        elif len(words) > 1:
            text = [" ".join(words[:-1])]
        else:
            break  # the tower says what is wrong
    return text


def _tokens_beyond(model: AudioCLIP, text: list[str], template: str) -> int:
    """Return how many tokens a text has that the tower does not take whole; 0 for one that it takes."""
    try:
        model.tokenize([text], template)
    except TextTooLong as error:
        return error.tokens
    return 0
