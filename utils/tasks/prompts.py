"""Prompts for labels: templates, replacement texts, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ignite_trainer.api.findings import Finding
from model.clip.texts import TextTooLong
from model.interfaces import AudioTextModel
from model.losses import normalised
from model.recompute import CachedValue

Labels = Sequence[Sequence[str]]

_MOST_KNOWN = 100_000
"""Maximum number of texts in the cache: 0.4 GB with 1024 values each. There can be millions of texts."""

_MARKS = 2  # start and end tokens of a text


class Prompts:
    """Embeddings of the prompts for lists of labels, cached for each model whose text tower is frozen.

    Args:
        templates: one or several prompt templates, with `{}` where the labels go; the embeddings of several
            templates are averaged.
        class_texts: texts that replace labels, by label.
        shorten: whether to shorten a text that is too long for the tower, by dropping the last labels and
            then the last words of a single label; if not, such a text is an error.

    Raises:
        ValueError: There is no template, or one lacks its `{}`.
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
            raise ValueError(f"template or class_texts contains {wrong!r}, which is not a text.")
        if not self._templates:
            raise ValueError('template is an empty list; give one or several templates, such as "{}".')
        for template in self._templates:
            if "{}" not in template:
                raise ValueError(f'template is "{template}"; it needs a {{}} where the labels go.')
        self._class_texts = dict(class_texts or {})
        self._shorten = shorten
        self._classes: list[tuple[str, ...]] = []
        self._known: WeakKeyDictionary[AudioTextModel, CachedValue[dict[tuple[str, ...], Tensor]]]
        self._known = WeakKeyDictionary()

    def check(self, model: AudioTextModel, class_names: Sequence[str]) -> None:
        """Remember the classes; raise ValueError for a text too long for the tower or of an unknown class."""
        unknown = sorted(self._class_texts.keys() - set(class_names))
        if unknown:
            raise ValueError(
                f'class_texts has a text for "{unknown[0]}", which is not a class of the data set; '
                f"the classes are {', '.join(class_names[:60])}."
            )
        for template in self._templates:
            model.tokenize(self._worded([[name] for name in class_names]), template)
        self._classes = [(name,) for name in class_names]

    def too_long(self, model: AudioTextModel) -> Callable[[str, Sequence[str]], Iterator[Finding]]:
        """Return a function that finds texts that are too long for the tower.

        Its arguments are a sample's place, and its labels or its single description.
        """
        context = model.context_length
        room = context - _MARKS - max(len(template.encode()) for template in self._templates)
        known: dict[tuple[str, ...], int] = {}  # number of tokens if the text is too long, otherwise 0
        what = f"A text exceeds the text tower's limit of {context} tokens, including start and end tokens"
        if self._shorten:
            fault = Finding(
                severity="warning", what=f"{what}, and is cut off.", remedy="Shorten it if its end matters."
            )
        else:
            fault = Finding(severity="error", what=f"{what}.", remedy="Shorten it or the template.")

        def find(place: str, labels: Sequence[str]) -> Iterator[Finding]:
            text = tuple(self._worded([labels])[0])
            if len(", ".join(text).encode()) <= room:  # a token has at least one byte
                return
            if text not in known:
                known[text] = max(_excess_tokens(model, [*text], template) for template in self._templates)
            if known[text]:
                yield replace(fault, where=f"{place} ({known[text]} tokens)")

        return find

    def encode(self, model: AudioTextModel, labels: Labels) -> Tensor:
        """Return normalised features `[B, D]`, with gradients unless the tower is frozen."""
        if not model.text_is_frozen:
            return self._embed(model, labels)
        # Training steps reuse these, so they cannot be inference tensors; full precision costs little once.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            cached = self._known.setdefault(model, CachedValue())
            known = cached.get(dict, model.text_parameters())
            if len(known) > _MOST_KNOWN:
                known.clear()
            texts = [tuple(sample) for sample in labels]
            # On some CPUs, the rounding of a matrix product depends on the number of rows. The classes are
            # embedded together, so that a resumed run does not see other features than an uninterrupted one.
            wanted = texts if known else [*self._classes, *texts]
            new = [text for text in dict.fromkeys(wanted) if text not in known]
            if new:
                known.update(zip(new, self._embed(model, new), strict=True))
            return torch.stack([known[text] for text in texts])

    def _embed(self, model: AudioTextModel, labels: Labels) -> Tensor:
        """Average over the templates on the unit sphere: normalise, add, normalise."""
        texts = self._worded(labels)
        features = []
        for template in self._templates:
            fitting = [_fitting(model, text, template) for text in texts] if self._shorten else texts
            features.append(normalised(model.encode_text(fitting, template)))
        return features[0] if len(features) == 1 else normalised(torch.stack(features).sum(dim=0))

    def _worded(self, labels: Labels) -> list[list[str]]:
        return [[self._class_texts.get(label, label) for label in sample] for sample in labels]


def _fitting(model: AudioTextModel, text: list[str], template: str) -> list[str]:
    """Shorten a text until it fits the tower; the template alone always fits."""
    while _excess_tokens(model, text, template):
        words = text[0].split(" ")
        if len(text) > 1:
            text = text[:-1]
        elif len(words) > 1:
            text = [" ".join(words[:-1])]
        else:
            break  # the tower raises the error
    return text


def _excess_tokens(model: AudioTextModel, text: list[str], template: str) -> int:
    """Return the number of tokens if a text is too long for the tower, and otherwise 0."""
    try:
        model.tokenize([text], template)
    except TextTooLong as error:
        return error.tokens
    return 0
