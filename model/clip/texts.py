"""Tokenizes texts for CLIP's text towers.

Importing open_clip takes ten seconds, so the function that uses it imports it.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .towers import tokenizer_of

Text: TypeAlias = Sequence[str | Sequence[str]]
"""Entries to encode; each is a string or a list of labels."""

_SHOWN = 80  # maximum characters of a text in a message
_CACHED = 2**16  # tokenized texts in the cache, about 1 kB each


class TextTooLong(ValueError):
    """A text has more tokens than the text tower takes.

    Attributes:
        tokens: number of tokens in the text, including start and end.
    """

    def __init__(self, text: str, tokens: int, *, context_length: int) -> None:
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        super().__init__(
            f"A text has {tokens} tokens including start and end, but the text tower takes at most "
            f"{context_length}: {shown!r}. Shorten it (or the template), or split it into several texts and "
            "average their embeddings."
        )
        self.tokens = tokens


def tokenize(
    text: Text, base_str: str = "{}", *, context_length: int = 77, clip: str | None = None
) -> Tensor:
    """Tokenize texts; the tokens of each text are cached.

    Args:
        text: B entries; the labels in a list are joined with ", ".
        base_str: prompt template, in which each entry replaces `{}`.
        context_length: number of tokens per text, including start and end.
        clip: name of the open_clip model with the tokenizer to use; None for CLIP's tokenizer.

    Returns:
        int64 `[B, context_length]`, padded after the end token (with zeros by CLIP's tokenizer).

    Raises:
        TextTooLong: A text has more than `context_length` tokens.
        ValueError: An entry is not a text, the template lacks `{}`, or `text` is a bare string.
    """
    tokenizer = _tokenizer(clip)
    tokens = torch.empty(len(text), context_length, dtype=torch.int64)
    for row, entry in zip(tokens, fill_template(text, base_str), strict=True):
        padded, length = tokens_of(tokenizer, entry, context_length)
        if length > context_length:
            raise TextTooLong(entry, length, context_length=context_length)
        row.copy_(padded)
    return tokens


def fill_template(text: Text, base_str: str) -> list[str]:
    """Join the labels of each entry with ", " and put each entry into the template.

    Raises:
        ValueError: An entry is not a text, the template lacks `{}`, or `text` is a bare string.
    """
    if isinstance(text, str):
        raise ValueError(f"text is the string {text!r}; expected a list of strings or of label lists.")
    check_texts(text)
    if "{}" not in str(base_str):
        raise ValueError(f"The template {base_str!r} lacks a {{}} for the text.")
    return [base_str.replace("{}", given if isinstance(given, str) else ", ".join(given)) for given in text]


def check_texts(texts: Iterable[object]) -> None:
    """Raise a ValueError for the first entry that is neither a string nor a list of strings."""
    for number, text in enumerate(texts):
        labels = text if isinstance(text, list | tuple) else [text]
        if any(not isinstance(label, str) for label in labels):
            raise ValueError(
                f"Text {number} is {text!r}; expected a string or a list of labels. Remove entries "
                "without text."
            )


@cache
def _tokenizer(clip: str | None) -> Any:
    """Create a tokenizer, once per process because reading its vocabulary takes a while."""
    if clip is not None:
        return tokenizer_of(clip)
    from open_clip.tokenizer import SimpleTokenizer  # noqa: PLC0415

    return SimpleTokenizer()


@lru_cache(maxsize=_CACHED)
def tokens_of(tokenizer: Any, entry: str, context_length: int) -> tuple[Tensor, int]:
    """Tokenize a text; return int64 `[context_length]`, padded or truncated, and the number of all tokens."""
    if not hasattr(tokenizer, "encode"):  # from the Hugging Face Hub
        length = len(tokenizer.tokenizer(tokenizer.clean_fn(entry))["input_ids"])
        return tokenizer([entry], context_length=context_length)[0], length
    tokens = [tokenizer.sot_token_id, *tokenizer.encode(entry), tokenizer.eot_token_id]
    row = torch.zeros(context_length, dtype=torch.int64)
    row[: len(tokens)] = torch.tensor(tokens[:context_length])
    return row, len(tokens)
