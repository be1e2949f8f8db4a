"""Builds image and text towers with open_clip, from the published arguments or an open_clip model's name.

Importing open_clip takes ten seconds, so the functions that use it import it.
"""

# ruff: noqa: PLC0415

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ..weights.releases import RANDOM_INSTEAD, WeightsError, nearest
from .image_input import ImagePreprocessing


class ClipTowers(NamedTuple):
    """An image tower and a text tower that share an embedding space.

    Attributes:
        network: open_clip's CLIP with random weights.
        embed_dim: dimension D of the embedding space.
        context_length: number of tokens per text, including start and end.
        preprocessing: preprocessing of images for the image tower.
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
    """Build OpenAI's CLIP with QuickGELU and random weights; `AudioCLIP` documents the arguments.

    Raises:
        ValueError: The arguments describe neither a ResNet nor a vision transformer, or the number of heads
            does not divide the width.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    resnet = isinstance(vision_layers, Sequence)
    if resnet == (vision_patch_size is not None):
        raise ValueError(
            f"vision_layers is {vision_layers!r} and vision_patch_size {vision_patch_size!r}: a ResNet has a "
            "list of its four stages' numbers of blocks and no patch size; a vision transformer has a number "
            "of layers and a patch size."
        )
    if isinstance(vision_layers, Sequence) and len(vision_layers) != 4:
        raise ValueError(
            f"vision_layers is {list(vision_layers)}; expected four numbers, for a ResNet's four stages."
        )
    if transformer_width % transformer_heads:
        raise ValueError(
            f"transformer_heads is {transformer_heads}; it must divide transformer_width, which is "
            f"{transformer_width}."
        )
    vision = CLIPVisionCfg(layers=vision_layers, width=vision_width, image_size=image_resolution)
    if vision_patch_size is not None:
        vision.patch_size = vision_patch_size
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


def build_named_clip(name: str) -> ClipTowers:
    """Build an open_clip model with random weights.

    Args:
        name: name from `open_clip.list_models()`, such as "ViT-B-32-quickgelu"; `open_clip.add_model_config`
            can add to that list.

    Raises:
        ValueError: There is no such model, or a library that the model needs is not installed.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    config = _config(name)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if config.pop("multimodal_cfg", None):  # drop the caption decoder
        custom_text = True
        config["vision_cfg"]["output_tokens"] = config["text_cfg"]["output_tokens"] = False
    for part, library in (("vision_cfg", "timm_model_name"), ("text_cfg", "hf_model_name")):
        if library in config[part]:  # otherwise the library would fetch weights
            config[part][library.replace("_name", "_pretrained")] = False
    try:
        network: nn.Module = (CustomTextCLIP if custom_text else CLIP)(**config)
    except (RuntimeError, OSError, ImportError) as error:
        raise ValueError(f'clip is "{name}", which cannot be built: {error}') from error
    context_length = cast(int, network.context_length)
    return ClipTowers(network, config["embed_dim"], context_length, image_preprocessing(name, network))


def image_preprocessing(name: str, network: nn.Module | None = None) -> ImagePreprocessing:
    """Return the image preprocessing for an open_clip model.

    Args:
        name: name of the model.
        network: the model itself, if it has been built. It knows its image size even where open_clip's config
            leaves the size to a library.

    Raises:
        ValueError: There is no such model.
    """
    size = _config(name)["vision_cfg"].get("image_size", 224)
    if network is not None:
        size = getattr(network.visual, "image_size", size)
    height, width = (size, size) if isinstance(size, int) else size
    return _preprocessing_of_weights(_usual_weights(name))._replace(size=(int(height), int(width)))


def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of an open_clip model.

    Raises:
        ValueError: There is no such model, or its tokenizer cannot be fetched from the Hugging Face Hub.
    """
    from open_clip import get_tokenizer

    _config(name)
    try:
        return get_tokenizer(name)
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(
            f'clip is "{name}", whose tokenizer is not part of open_clip and cannot be fetched: {error}'
        ) from None


def find_tagged_weights(name: str, tag: str, *, folder: Path | None = None) -> Path:
    """Return the path of an open_clip model's pretrained weights; fetch the file if it is missing.

    Args:
        name: name of the model.
        tag: open_clip's tag for the weights, such as "openai" or "laion2b_s34b_b79k".
        folder: folder for the file; None for open_clip's cache.

    Raises:
        WeightsError: The model has no such tag, the weights cannot be fetched, or they need different image
            preprocessing from the model's first weights in open_clip.
    """
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    weights = get_pretrained_cfg(name, tag)
    if not weights:
        raise WeightsError(
            f'pretrained.clip is "{tag}": no such file, and {name} has no weights by that name. It has '
            f"{', '.join(_tags(name)) or 'none'}."
        )
    if _preprocessing_of_weights(weights) != _preprocessing_of_weights(_usual_weights(name)):
        raise WeightsError(
            f'pretrained.clip is "{tag}", which needs different image preprocessing from the usual weights '
            f"of {name}. Choose other weights."
        )
    where = weights.get("hf_hub") or weights.get("url")
    try:
        return Path(download_pretrained(weights, cache_dir=str(folder) if folder else None))
    except Exception as error:  # several libraries raise their own types
        raise WeightsError(
            f'The weights "{tag}" of {name} cannot be fetched from {where}: {error}. Fetch the file on a '
            f"machine with a network and give its path instead. {RANDOM_INSTEAD}"
        ) from None


def _config(name: str) -> dict[str, Any]:
    from open_clip import get_model_config, list_models

    known = list_models()
    if name not in known:  # also refuses URLs, from which open_clip would fetch
        near = nearest(name, known, count=3) or ["RN50", "ViT-B-32", "ViT-B-32-quickgelu"]
        raise ValueError(
            f'clip is "{name}", which is not a model of open_clip; similar names are {", ".join(near)}. '
            f"open_clip.list_models() lists all {len(known)}."
        )
    return copy.deepcopy(get_model_config(name))


def _tags(name: str) -> list[str]:
    from open_clip.pretrained import list_pretrained_tags_by_model

    return list(list_pretrained_tags_by_model(name))


def _usual_weights(name: str) -> dict[str, Any]:
    """Return open_clip's config of a model's first pretrained weights; {} if it has none."""
    from open_clip.pretrained import get_pretrained_cfg

    tags = _tags(name)
    weights: dict[str, Any] = get_pretrained_cfg(name, tags[0]) if tags else {}
    return weights


def _preprocessing_of_weights(weights: dict[str, Any]) -> ImagePreprocessing:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in weights.items()
        if key in ("mean", "std", "interpolation", "resize_mode")
    }
    return ImagePreprocessing(**given)


def encode_tokens(clip: nn.Module, tokens: Tensor) -> Tensor:
    """Encode tokens `[B, L]` with the text tower of an open_clip model or an AudioCLIP; return `[B, D]`."""
    towers = cast(Any, clip)
    if hasattr(clip, "text"):  # the text tower is one module, which includes the projection
        features = towers.text(tokens)
        encoded: Tensor = features[0] if isinstance(features, tuple) else features
        return encoded
    from open_clip.transformer import text_global_pool

    x = towers.token_embedding(tokens) + towers.positional_embedding  # [B, L, width]
    x = towers.ln_final(towers.transformer(x, attn_mask=towers.attn_mask))
    pooled = text_global_pool(x, tokens, towers.text_pool_type, towers.text_eos_id)
    projection = towers.text_projection
    projected: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return projected


def recompute_transformers(clip: nn.Module) -> None:
    """Make the towers' transformers keep only their blocks' inputs for the backward pass."""
    for name in ("visual", "text"):
        if hasattr(clip, name):
            getattr(clip, name).set_grad_checkpointing(True)
    if hasattr(clip, "transformer"):
        cast(Any, clip).transformer.grad_checkpointing = True
