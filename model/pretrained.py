"""Initial weights of an AudioCLIP: one file for all towers, or one for each part."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from .esresnet.esresnext import ESResNeXt
from .esresnet.initial_weights import find_initial_weights, load_initial_weights
from .weights.built_from import warn_of_other_arguments
from .weights.loading import load_weights, read_state_dict, rename_to_fit
from .weights.releases import RANDOM_INSTEAD, RELEASES, find_weights

Pretrained: TypeAlias = bool | str | Path | Mapping[str, str | Path]
"""False: random. True: the released CLIP.pt and ESRNXFBSP.pt. A path or a released name: all towers. A
mapping: "clip" (image and text towers), "audio", or both, each by a path, a name, or what else it has."""

_RELEASED = {"clip": "CLIP", "audio": "ESRNXFBSP"}
_OF_AUDIO = (r"audio\..*", "logit_scale_a[it]")


class Sources(NamedTuple):
    """Files of weights; where there is none, weights stay random.

    Attributes:
        everything: of all towers.
        clip: of the image and the text tower.
        audio: of the audio tower.
        audio_by: what that was found by.
    """

    everything: tuple[Path, ...] = ()
    clip: tuple[Path, ...] = ()
    audio: tuple[Path, ...] = ()
    audio_by: str | Path = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.everything, *self.clip, *self.audio)


def find_sources(pretrained: Pretrained, *, clip: str | None, assets: str | Path | None) -> Sources:
    """Resolve an AudioCLIP's argument `pretrained`, fetching what is not there, before anything is built.

    Args:
        pretrained: see `Pretrained`. Of "clip" it may also be one of open_clip's tags, and of "audio"
            "imagenet".
        clip: name of a model of open_clip; None: that of the released weights.
        assets: folder of the released weights; None: the repository's `assets/`.

    Raises:
        ValueError: there are other parts than these two.
        WeightsError: a file is not there and cannot be fetched, or is none of these towers.
    """
    if pretrained is True:
        if clip is not None:
            raise ValueError(
                f'pretrained is true, which means the released weights, and those are not of "{clip}". Write '
                'false, the path of a file, or {"clip": one of open_clip\'s tags, "audio": "ESRNXFBSP"}, say.'
            )
        pretrained = _RELEASED
    if pretrained is False:
        return Sources()
    if not isinstance(pretrained, Mapping):
        return Sources(everything=(find_weights(pretrained, assets=assets, instead=RANDOM_INSTEAD),))
    unknown = sorted(pretrained.keys() - _RELEASED.keys())
    if unknown or not pretrained:
        found = f'has "{unknown[0]}"' if unknown else "is empty"
        raise ValueError(f'pretrained {found}; its parts are "clip" and "audio".')
    of_clip, of_audio = pretrained.get("clip"), pretrained.get("audio")
    return Sources(
        clip=() if of_clip is None else (_find_clip(of_clip, clip=clip, assets=assets),),
        audio=() if of_audio is None else find_initial_weights(of_audio, assets=assets),
        audio_by=of_audio or "",
    )


def load_sources(
    model: nn.Module, audio: ESResNeXt, sources: Sources, *, clip_args: Mapping[str, Any]
) -> None:
    """Load files into an AudioCLIP, and into its audio tower; warn if they were trained with other arguments.

    Of a file for one part what belongs to others is left out. The tower's head stays random where it has
    another number of outputs.

    Args:
        model: an AudioCLIP.
        audio: its audio tower.
        sources: the files.
        clip_args: arguments of the image and the text tower.

    Raises:
        WeightsError: a file does not fit.
    """
    for file in sources.everything:
        warn_of_other_arguments(type(model), {**clip_args, **audio.arguments}, file)
        load_weights(model, read_state_dict(file), source=file)
    for file in sources.clip:
        warn_of_other_arguments(type(model), clip_args, file)
        state = rename_to_fit(read_state_dict(file), model.state_dict(), source=file)
        of_clip = {name: value for name, value in state.items() if not _is_of_audio(name)}
        load_weights(model, of_clip, source=file, allow_missing=_OF_AUDIO, allow_unexpected=_DECODER)
    load_initial_weights(audio, sources.audio_by, sources.audio, built_with=audio.arguments, other_head=True)


_DECODER = (r"text_decoder\..*",)  # of models that write captions


def _find_clip(source: str | Path, *, clip: str | None, assets: str | Path | None) -> Path:
    path = Path(source).expanduser()
    is_path = path.is_file() or len(path.parts) > 1 or path.suffix
    if clip is None or is_path or path.name in RELEASES:
        return find_weights(source, assets=assets, instead=RANDOM_INSTEAD)
    from .clip.open_clip_models import find_tagged_weights  # noqa: PLC0415 - open_clip takes seconds

    return find_tagged_weights(clip, str(source), folder=Path(assets) if assets else None)


def _is_of_audio(name: str) -> bool:
    return name.startswith(("audio.", "logit_scale_a"))
