"""Image and text towers by the names that open_clip gives them: built, their input, their weights.

open_clip is imported where it is used: that takes ten seconds.
"""

import copy
from pathlib import Path
from typing import Any, cast

from torch import nn

from ..nearest import nearest
from ..weights.releases import RANDOM_INSTEAD, WeightsError
from .image_input import ImagePreprocessing
from .towers import ClipTowers


def build_named_clip(name: str) -> ClipTowers:
    """Build the model that open_clip knows by a name, with random weights.

    Args:
        name: such as "ViT-B-32-quickgelu"; `open_clip.list_models()` has them all, and what
            `open_clip.add_model_config` added.

    Raises:
        ValueError: there is no such model, or what it is built of is not installed.
    """
    from open_clip.model import CLIP, CustomTextCLIP  # noqa: PLC0415

    config = _config(name)
    custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if config.pop("multimodal_cfg", None):  # of a decoder that writes captions, which nothing here uses
        custom_text = True
        config["vision_cfg"]["output_tokens"] = config["text_cfg"]["output_tokens"] = False
    for part, library in (("vision_cfg", "timm_model_name"), ("text_cfg", "hf_model_name")):
        if library in config[part]:  # the library would fetch weights of its own
            config[part][library.replace("_name", "_pretrained")] = False
    try:
        network: nn.Module = (CustomTextCLIP if custom_text else CLIP)(**config)
    except (RuntimeError, OSError, ImportError) as error:
        raise ValueError(f'clip is "{name}", which cannot be built: {error}') from error
    context_length = cast(int, network.context_length)
    return ClipTowers(network, config["embed_dim"], context_length, image_preprocessing(name, network))


def image_preprocessing(name: str, network: nn.Module | None = None) -> ImagePreprocessing:
    """How the pictures of a model of open_clip are prepared.

    Args:
        name: of the model.
        network: the model, if it is built: it knows the size of its input, which its config may leave to a
            library.

    Raises:
        ValueError: there is no such model.
    """
    size = _config(name)["vision_cfg"].get("image_size", 224)
    if network is not None:
        size = getattr(network.visual, "image_size", size)
    height, width = (size, size) if isinstance(size, int) else size
    return _preprocessing_of_weights(_usual_weights(name))._replace(size=(int(height), int(width)))


def tokenizer_of(name: str) -> Any:
    """The tokenizer of a model of open_clip.

    Raises:
        ValueError: there is no such model; or its tokenizer is of the Hugging Face hub, and cannot be had.
    """
    from open_clip import get_tokenizer  # noqa: PLC0415

    _config(name)
    try:
        return get_tokenizer(name)
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(
            f'clip is "{name}", whose tokenizer is not part of open_clip and cannot be had: {error}'
        ) from None


def find_tagged_weights(name: str, tag: str, *, folder: Path | None = None) -> Path:
    """Fetch the weights that open_clip knows by a tag, unless they are there.

    Args:
        name: of the model.
        tag: such as "openai", "laion2b_s34b_b79k".
        folder: where to keep them; None: where open_clip does.

    Raises:
        WeightsError: the model has no such tag; the weights cannot be fetched; or they were trained on
            pictures prepared in another way than those of the model's other tags.
    """
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg  # noqa: PLC0415

    weights = get_pretrained_cfg(name, tag)
    if not weights:
        raise WeightsError(
            f'pretrained.clip is "{tag}": no file, and {name} has no weights by that name; there are '
            f"{', '.join(_tags(name)) or 'none'}."
        )
    if _preprocessing_of_weights(weights) != _preprocessing_of_weights(_usual_weights(name)):
        raise WeightsError(
            f'pretrained.clip is "{tag}", whose pictures are prepared otherwise than those of {name} usually '
            "are. Choose other weights."
        )
    where = weights.get("hf_hub") or weights.get("url")
    try:
        return Path(download_pretrained(weights, cache_dir=str(folder) if folder else None))
    except Exception as error:  # of several libraries
        raise WeightsError(
            f'The weights "{tag}" of {name} cannot be fetched from {where}: {error}. Fetch the file where '
            f"there is a network, and name its path instead. {RANDOM_INSTEAD}"
        ) from None


def _config(name: str) -> dict[str, Any]:
    from open_clip import get_model_config, list_models  # noqa: PLC0415

    known = list_models()
    if name not in known:  # a name can also be an address, from which nothing is to be fetched
        near = nearest(name, known, count=3) or ["RN50", "ViT-B-32", "ViT-B-32-quickgelu"]
        raise ValueError(
            f'clip is "{name}", no model of open_clip; near it are {", ".join(near)}. '
            f"open_clip.list_models() has all {len(known)}."
        )
    return copy.deepcopy(get_model_config(name))


def _tags(name: str) -> list[str]:
    from open_clip.pretrained import list_pretrained_tags_by_model  # noqa: PLC0415

    return list(list_pretrained_tags_by_model(name))


def _usual_weights(name: str) -> dict[str, Any]:
    """What open_clip knows of the first weights of a model; nothing if there are none."""
    from open_clip.pretrained import get_pretrained_cfg  # noqa: PLC0415

    tags = _tags(name)
    weights: dict[str, Any] = get_pretrained_cfg(name, tags[0]) if tags else {}
    return weights


def _preprocessing_of_weights(weights: dict[str, Any]) -> ImagePreprocessing:
    usual = ImagePreprocessing()
    return ImagePreprocessing(
        usual.size,
        tuple(weights.get("mean", usual.mean)),
        tuple(weights.get("std", usual.std)),
        weights.get("interpolation", usual.interpolation),
        weights.get("resize_mode", usual.resize_mode),
    )
