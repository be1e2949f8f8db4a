"""CLIP from open_clip: its towers built, its tokenizer fed; what AudioCLIP takes over of it.

open_clip is imported where it is used: that takes ten seconds.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

from torch import Tensor, nn

Text: TypeAlias = Sequence[str | Sequence[str]]
"""Entries to encode: each a string, or a list of labels."""


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
) -> nn.Module:
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
    clip: nn.Module = CLIP(embed_dim, vision, text, quick_gelu=True)
    return clip


def tokenize(text: Text, base_str: str = "{}", *, context_length: int = 77) -> Tensor:
    """Turn texts into CLIP's tokens.

    Args:
        text: entries; the labels of a list are joined with ", ".
        base_str: template, `{}` stands for the entry.
        context_length: tokens of a text, start and end included.

    Returns:
        int64 `[B, context_length]`, zeros after the end token.

    Raises:
        ValueError: a text is too long, the template lacks its `{}`, or a bare string was given.
    """
    if isinstance(text, str):
        raise ValueError(f"text is the string {text!r}; expected a list of strings or of label lists.")
    if "{}" not in base_str:
        raise ValueError(f"The template {base_str!r} lacks a {{}} for the text.")
    tokenizer = _tokenizer()
    entries = [
        base_str.replace("{}", entry if isinstance(entry, str) else ", ".join(entry)) for entry in text
    ]
    for entry in entries:
        length = len(tokenizer.encode(entry)) + 2  # start and end
        if length > context_length:
            raise ValueError(f"Text of {length} tokens, the limit is {context_length}: {entry!r}")
    tokens: Tensor = tokenizer(entries, context_length=context_length)
    return tokens


@cache
def _tokenizer() -> Any:
    """Make CLIP's tokenizer, once in a process: its vocabulary takes a while to read."""
    from open_clip.tokenizer import SimpleTokenizer  # noqa: PLC0415

    return SimpleTokenizer()
