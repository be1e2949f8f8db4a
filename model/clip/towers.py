"""CLIP from open_clip: builds the image and text towers, and encodes tokens.

open_clip is imported where it is used: that takes ten seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from .image_input import ImagePreprocessing


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
    if hasattr(clip, "text"):  # a tower of its own, with its projection
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
        if hasattr(clip, name):
            getattr(clip, name).set_grad_checkpointing(True)
    if hasattr(clip, "transformer"):
        cast(Any, clip).transformer.grad_checkpointing = True


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
