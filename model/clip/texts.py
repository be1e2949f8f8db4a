"""Texts to tokens for CLIP's text towers.

open_clip is imported where it is used: that takes ten seconds.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .open_clip_models import tokenizer_of

Text: TypeAlias = Sequence[str | Sequence[str]]
"""Entries to encode: each a string, or a list of labels."""

_SHOWN = 80  # characters of a text that a message shows
_MOST_REMEMBERED = 2**16  # texts whose tokens are kept, about 1 kB each


class TextTooLong(ValueError):
    """A text has more tokens than the text tower takes.

    Attributes:
        tokens: their number, start and end included.
    """

    def __init__(self, text: str, tokens: int, *, context_length: int) -> None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        super().__init__(
            f"A text has {tokens} tokens with its start and its end, and the text tower takes "
            f"{context_length}: {shown!r}. Shorten it (or the template), or split it into several texts and "
            "average their embeddings."
        )
        self.tokens = tokens


def tokenize(
    text: Text, base_str: str = "{}", *, context_length: int = 77, clip: str | None = None
) -> Tensor:
    """Turn texts into tokens; the tokens of each text are cached.

    Args:
        text: entries; the labels of a list are joined with ", ".
        base_str: template, `{}` stands for the entry.
        context_length: tokens of a text, start and end included.
        clip: name of a model of open_clip, whose tokenizer is used; None: CLIP's.

    Returns:
        int64 `[B, context_length]`, filled up (with zeros by CLIP's tokenizer) after the end token.

    Raises:
        TextTooLong: a text has more tokens than that.
        ValueError: an entry is no text, the template lacks its `{}`, or a bare string was given.
    """
    if isinstance(text, str):
        raise ValueError(f"text is the string {text!r}; expected a list of strings or of label lists.")
    check_texts(text)
    if "{}" not in str(base_str):
        raise ValueError(f"The template {base_str!r} lacks a {{}} for the text.")
    tokenizer = _tokenizer(clip)
    tokens = torch.empty(len(text), context_length, dtype=torch.int64)
    for row, given in zip(tokens, text, strict=True):
        entry = base_str.replace("{}", given if isinstance(given, str) else ", ".join(given))
        known, length = tokens_of(tokenizer, entry, context_length)
        if length > context_length:
            raise TextTooLong(entry, length, context_length=context_length)
        row.copy_(known)
    return tokens


def check_texts(texts: Iterable[object]) -> None:
    """Raise a ValueError that names the first entry that is neither a string nor a list of strings."""
    for number, text in enumerate(texts):
        labels = text if isinstance(text, list | tuple) else [text]
        if any(not isinstance(label, str) for label in labels):
            raise ValueError(
                f"Text {number} is {text!r}; expected a string or a list of labels. Leave out entries "
                "without a text."
            )


@cache
def _tokenizer(clip: str | None) -> Any:
    """Make a tokenizer, once in a process: its vocabulary takes a while to read."""
    if clip is not None:
        return tokenizer_of(clip)
    from open_clip.tokenizer import SimpleTokenizer  # noqa: PLC0415

    return SimpleTokenizer()


@lru_cache(maxsize=_MOST_REMEMBERED)
def tokens_of(tokenizer: Any, entry: str, context_length: int) -> tuple[Tensor, int]:
    """Return the tokens of a text, int64 `[context_length]`, and their number before truncation."""
    if not hasattr(tokenizer, "encode"):  # of the Hugging Face hub
        length = len(tokenizer.tokenizer(tokenizer.clean_fn(entry))["input_ids"])
        return tokenizer([entry], context_length=context_length)[0], length
    tokens = [tokenizer.sot_token_id, *tokenizer.encode(entry), tokenizer.eot_token_id]
    row = torch.zeros(context_length, dtype=torch.int64)
    row[: len(tokens)] = torch.tensor(tokens[:context_length])
    return row, len(tokens)
