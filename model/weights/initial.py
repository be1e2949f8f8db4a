"""Initial weights of an AudioCLIP and its audio tower, chosen by the argument `pretrained`.

Files are found, and fetched if necessary, before a network is built; they are loaded into it afterwards.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import nn
from torchvision.models import ResNeXt50_32X4D_Weights

from .built_from import warn_of_other_arguments
from .fetch import FetchError, RemoteFile, fetch
from .loading import MisfitError, load_weights, read_state_dict, rename_to_fit
from .releases import DEFAULT_ASSETS, RANDOM_INSTEAD, RELEASES, WeightsError, find_weights

Pretrained: TypeAlias = bool | str | Path | Mapping[str, str | Path]
"""Initial weights of an AudioCLIP; see its argument `pretrained`."""

IMAGENET = "imagenet"
"""Value of `pretrained` for ImageNet weights, from which the published tower's training started."""

_RELEASED = {"clip": "CLIP", "audio": "ESRNXFBSP"}
_BIASES = r"logit_bias(_a[it])?"  # keep their initial value if weights were trained without them
_AUDIO = (r"audio\..*", "logit_scale_a[it]", _BIASES)
_NOT_IN_IMAGENET_WEIGHTS = (r"att\d\..*", r"fbsp\..*", r"fc\..*", "window")
_CAPTION_DECODER = (r"text_decoder\..*",)


class Sources(NamedTuple):
    """Files of initial weights; parts without a file stay random."""

    everything: Path | None = None
    """Weights for all three towers."""
    clip: Path | None = None
    """Weights for the image and text towers."""
    audio: Path | None = None
    """Weights for the audio tower."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files."""
        return tuple(file for file in self if file is not None)


def find_sources(pretrained: Pretrained, *, clip: str | None, assets: str | Path | None) -> Sources:
    """Resolve an AudioCLIP's argument `pretrained` to files, and fetch missing files.

    Raises:
        ValueError: A mapping is empty or has a part other than "clip" and "audio", or `pretrained` is True
            although `clip` names a model.
        WeightsError: A file is missing and cannot be fetched.
    """
    if pretrained is True:
        if clip is not None:
            raise ValueError(
                f'pretrained is true, which means the released weights; they do not fit "{clip}". Use '
                'false, the path of a file, or for example {"clip": an open_clip tag, "audio": "ESRNXFBSP"}.'
            )
        pretrained = _RELEASED
    if pretrained is False:
        return Sources()
    if not isinstance(pretrained, Mapping):
        return Sources(everything=find_weights(pretrained, assets=assets, instead=RANDOM_INSTEAD))
    unknown = sorted(pretrained.keys() - _RELEASED.keys())
    if unknown or not pretrained:
        found = f'has "{unknown[0]}"' if unknown else "is empty"
        raise ValueError(f'pretrained {found}; the allowed parts are "clip" and "audio".')
    clip_source, audio_source = pretrained.get("clip"), pretrained.get("audio")
    return Sources(
        clip=None if clip_source is None else _find_clip(clip_source, clip=clip, assets=assets),
        audio=None if audio_source is None else find_initial_weights(audio_source, assets=assets),
    )


def load_sources(
    model: nn.Module,
    audio: nn.Module,
    sources: Sources,
    *,
    clip_args: Mapping[str, Any],
    audio_args: Mapping[str, Any],
) -> None:
    """Load files into an AudioCLIP; warn if they were trained with different arguments.

    If a file supplies only one part of the model, its entries for other parts are ignored. If the audio
    tower's file has a different number of outputs, the tower's head stays random.

    Args:
        model: AudioCLIP to load into, with the audio tower `audio`.
        sources: files from `find_sources`.
        clip_args, audio_args: constructor arguments of the towers.

    Raises:
        WeightsError: A file does not fit.
    """
    if (file := sources.everything) is not None:
        warn_of_other_arguments(type(model), {**clip_args, **audio_args}, file)
        try:
            load_weights(model, read_state_dict(file), source=file, allow_missing=(_BIASES,))
        except MisfitError as error:
            if not any(re.fullmatch(_BIASES, name) for name in error.gaps.unexpected):
                raise
            remedy = (
                "Its similarities have biases: set logit_bias (in a protocol, Model.args.logit_bias) to -10."
            )
            raise MisfitError(f"{error}\n{remedy}", error.gaps) from None
    if (file := sources.clip) is not None:
        warn_of_other_arguments(type(model), clip_args, file)
        state = rename_to_fit(read_state_dict(file), model.state_dict(), source=file)
        of_audio = ("audio.", "logit_scale_a", "logit_bias_a")
        clip_state = {k: v for k, v in state.items() if not k.startswith(of_audio)}
        load_weights(model, clip_state, source=file, allow_missing=_AUDIO, allow_unexpected=_CAPTION_DECODER)
    if (file := sources.audio) is not None:
        load_initial_weights(audio, file, arguments=audio_args, allow_other_head=True)


def find_initial_weights(pretrained: bool | str | Path, *, assets: str | Path | None = None) -> Path | None:
    """Resolve an ESResNeXt's argument `pretrained` to a file, fetched if missing; return None for False.

    Raises:
        WeightsError: The file is missing and cannot be fetched; the message says which file to put where.
    """
    if pretrained is False:
        return None
    if pretrained != IMAGENET:
        source = _RELEASED["audio"] if pretrained is True else pretrained
        return find_weights(source, assets=assets, others=(IMAGENET,), instead=RANDOM_INSTEAD)
    file = imagenet_file()
    folder = DEFAULT_ASSETS if assets is None else Path(assets)
    try:
        return fetch(file, folder / file.name)
    except FetchError as error:
        raise WeightsError(f"{error} {RANDOM_INSTEAD}") from None


def load_initial_weights(
    tower: nn.Module, file: Path, *, arguments: Mapping[str, Any], allow_other_head: bool
) -> None:
    """Load a file from `find_initial_weights`; warn if it was trained with other arguments.

    ImageNet weights fill `conv1` to `layer4`, where the spectrogram's bands replace red, green and blue. The
    head, gates and wavelets keep their values.

    Args:
        tower: ESResNeXt to load into.
        file: weights of an ESResNeXt or an AudioCLIP, or torchvision's ImageNet weights.
        arguments: the tower's constructor arguments, except the number of outputs.
        allow_other_head: let `fc` keep its values if the file has a different number of outputs.

    Raises:
        WeightsError: The file does not fit.
    """
    names = tower.state_dict().keys()
    if file.name == imagenet_file().name:
        state = rename_to_fit(read_state_dict(file), names, source=file)
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
        load_weights(tower, state, source=file, allow_missing=_NOT_IN_IMAGENET_WEIGHTS)
        return
    warn_of_other_arguments(type(tower), arguments, file)
    known = {*names, *(f"audio.{name}" for name in names)}
    state = rename_to_fit(read_state_dict(file), known, source=file)
    audio_state = {k.removeprefix("audio."): v for k, v in state.items() if k.startswith("audio.")}
    head = (r"fc\..*",) if allow_other_head else ()
    load_weights(tower, audio_state or state, source=file, allow_missing=head)


def imagenet_file() -> RemoteFile:
    """Return torchvision's file of ResNeXt-50 weights; its name ends with the start of its sha256."""
    url = ResNeXt50_32X4D_Weights.IMAGENET1K_V1.url
    name = url.rpartition("/")[2]
    return RemoteFile(name, url, digest=f"sha256:{Path(name).stem.rpartition('-')[2]}")


def _find_clip(source: str | Path, *, clip: str | None, assets: str | Path | None) -> Path:
    path = Path(source).expanduser()
    is_path = path.is_file() or len(path.parts) > 1 or path.suffix
    if clip is None or is_path or path.name in RELEASES:
        return find_weights(source, assets=assets, instead=RANDOM_INSTEAD)
    from ..clip.towers import find_tagged_weights  # noqa: PLC0415 - avoids importing PIL

    return find_tagged_weights(clip, str(source), folder=Path(assets) if assets else None)
