"""CLIP from open_clip: its towers built, its tokenizer fed, texts encoded; what AudioCLIP takes over of it.

open_clip is imported where it is used: that takes ten seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from model.image_input import ImagePreprocessing

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


class ClipTowers(NamedTuple):
    """An image and a text tower with one embedding space, and what belongs to their input.

    Attributes:
        network: a CLIP of open_clip, with random weights.
        embed_dim: dimension D of the embedding space.
        context_length: tokens of a text, start and end included.
        preprocessing: of pictures.
    """

    network: nn.Module
    embed_dim: int
    context_length: int
    preprocessing: ImagePreprocessing


def build_clip(
    embed_dim: int,
    *,
    image_resolution: int,
    vision_layers: Sequence[int] | int,
    vision_width: int,
    vision_patch_size: int | None,
    context_length: int,
    vocab_size: int,
    transformer_width: int,
    transformer_heads: int,
    transformer_layers: int,
) -> ClipTowers:
    """Build OpenAI's CLIP, with QuickGELU and random weights; arguments as those of `AudioCLIP`.

    Raises:
        ValueError: `vision_layers` and `vision_patch_size` describe neither a ResNet nor a transformer.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: PLC0415

    resnet = isinstance(vision_layers, Sequence)
    if resnet == (vision_patch_size is not None):
        raise ValueError(
            f"vision_layers is {vision_layers!r} and vision_patch_size {vision_patch_size!r}: a ResNet has a "
            "list of four numbers of blocks and no patch size, a vision transformer one number of layers "
            "and a patch size."
        )
    vision = CLIPVisionCfg(layers=vision_layers, width=vision_width, image_size=image_resolution)
    if vision_patch_size is not None:
        vision.patch_size = vision_patch_size
    if isinstance(vision_layers, Sequence) and len(vision_layers) != 4:
        raise ValueError(f"vision_layers is {list(vision_layers)}; a ResNet has four stages.")
    if transformer_width % transformer_heads:
        raise ValueError(
            f"transformer_heads is {transformer_heads}, which does not divide transformer_width, "
            f"{transformer_width}."
        )
    text = CLIPTextCfg(
        context_length=context_length,
        vocab_size=vocab_size,
        width=transformer_width,
        heads=transformer_heads,
        layers=transformer_layers,
    )
    return ClipTowers(
        CLIP(embed_dim, vision, text, quick_gelu=True),
        embed_dim,
        context_length,
        ImagePreprocessing(size=(image_resolution, image_resolution)),
    )


def refuse_both(clip: str, published: Mapping[str, object], defaults: Mapping[str, object]) -> None:
    """Raise a ValueError where arguments of `build_clip` describe towers, and `clip` names some."""
    as_given = {name: tuple(value) if isinstance(value, list) else value for name, value in published.items()}
    given = [name for name, value in as_given.items() if value != defaults[name]]
    if given:
        raise ValueError(
            f'{given[0]} is {published[given[0]]!r}, and clip is "{clip}", whose towers are as they are. '
            f"Leave out {', '.join(given)}, or clip."
        )


def encode_tokens(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Encode tokens `[B, L]` with the text tower of a module that has one of open_clip's: `[B, D]`."""
    towers = cast(Any, clip)
    if "text" in clip._modules:  # a tower of its own, with its projection
        features = towers.text(tokens)
        encoded: Tensor = features[0] if isinstance(features, tuple) else features
        return encoded
    from open_clip.transformer import text_global_pool  # noqa: PLC0415

    x = towers.token_embedding(tokens) + towers.positional_embedding  # [B, L, width]
    x = towers.ln_final(towers.transformer(x, attn_mask=towers.attn_mask))
    pooled = text_global_pool(x, tokens, towers.text_pool_type, towers.text_eos_id)
    projection = towers.text_projection
    projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected


def recompute_transformers(clip: nn.Module) -> None:
    """Have transformers of the towers keep, in training, only what enters their blocks."""
    for name in ("visual", "text"):
        if name in clip._modules:
            cast(Any, clip._modules[name]).set_grad_checkpointing(True)
    if "transformer" in clip._modules:
        cast(Any, clip._modules["transformer"]).grad_checkpointing = True


def text_parameters(clip: nn.Module) -> list[nn.Parameter]:
    """The parameters of the text tower of a module that has one of open_clip's."""
    parts = [getattr(clip, name) for name in _TEXT_TOWER if hasattr(clip, name)]
    return [
        weight for part in parts for weight in (part.parameters() if isinstance(part, nn.Module) else [part])
    ]


_TEXT_TOWER = (
    *("text", "transformer", "token_embedding", "ln_final"),
    *("positional_embedding", "text_projection"),
)


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
        from model.open_clip_models import tokenizer_of  # noqa: PLC0415 - which imports this module

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
