"""Initial weights of the audio tower: released ones, a file, or torchvision's, trained on ImageNet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models import ResNeXt50_32X4D_Weights

from ..weights.built_from import warn_of_other_arguments
from ..weights.fetch import FetchError, RemoteFile, fetch
from ..weights.files import StateDict
from ..weights.loading import LoadReport, load_weights, read_state_dict, rename_to_fit
from ..weights.releases import DEFAULT_ASSETS, RANDOM_INSTEAD, WeightsError, find_pretrained

IMAGENET = "imagenet"
"""A value of `pretrained`: start as the published tower did."""

_NOT_OF_THE_BACKBONE = (r"att\d\..*", r"fbsp\..*", r"fc\..*", "window")


def find_initial_weights(
    pretrained: bool | str | Path, *, assets: str | Path | None = None
) -> tuple[Path, ...]:
    """Resolve the argument `pretrained` of an `ESResNeXt` to files, fetched unless they are there.

    Raises:
        WeightsError: a file is not there and cannot be fetched; the message says what to put where.
    """
    if pretrained == IMAGENET:
        return (_find_imagenet(assets),)
    return find_pretrained(pretrained, together=("ESRNXFBSP",), assets=assets, others=(IMAGENET,))


def load_initial_weights(
    tower: nn.Module,
    pretrained: bool | str | Path,
    files: tuple[Path, ...],
    *,
    built_with: Mapping[str, Any],
    other_head: bool,
) -> None:
    """Load files that `find_initial_weights` found; warn if they were trained with other arguments.

    Args:
        tower: an `ESResNeXt`.
        pretrained: what they were found by.
        files: none, or one: of the tower alone, or of an AudioCLIP.
        built_with: arguments of the tower, without the number of outputs.
        other_head: whether `fc` may stay random where the file has another number of outputs.

    Raises:
        WeightsError: a file does not fit.
    """
    for file in files:
        if pretrained == IMAGENET:
            load_imagenet_weights(tower, file)
            continue
        warn_of_other_arguments(type(tower), built_with, file)
        head = (r"fc\..*",) if other_head or pretrained in (True, "ESRNXFBSP") else ()
        load_weights(tower, _read_tower(file, tower), source=file, allow_missing=head)


def load_imagenet_weights(tower: nn.Module, path: Path) -> LoadReport:
    """Load what is of the backbone: `conv1` to `layer4`, under the same names.

    The three bands of the spectrogram take the places of red, green and blue. The 1000 classes are left out;
    head, gates and wavelets stay as they are.

    Raises:
        WeightsError: the file is of another network.
    """
    state = rename_to_fit(read_state_dict(path), tower.state_dict(), source=path)
    backbone = {name: value for name, value in state.items() if not name.startswith("fc.")}
    return load_weights(tower, backbone, source=path, allow_missing=_NOT_OF_THE_BACKBONE)


def imagenet_file() -> RemoteFile:
    """Where torchvision has these weights; their name ends with the beginning of their sha256."""
    url = ResNeXt50_32X4D_Weights.IMAGENET1K_V1.url
    name = url.rpartition("/")[2]
    return RemoteFile(name, url, digest=f"sha256:{Path(name).stem.rpartition('-')[2]}")


def _find_imagenet(assets: str | Path | None) -> Path:
    file = imagenet_file()
    folder = DEFAULT_ASSETS if assets is None else Path(assets)
    try:
        return fetch(file, folder / file.name)
    except FetchError as error:
        raise WeightsError(f"{error} {RANDOM_INSTEAD}") from None


def _read_tower(file: Path, tower: nn.Module) -> StateDict:
    """Read the audio tower's part of a file, of the tower or of an AudioCLIP, under the tower's own names."""
    names = tower.state_dict().keys()
    known = {*names, *(f"audio.{name}" for name in names)}
    state = rename_to_fit(read_state_dict(file), known, source=file)
    own = {name.removeprefix("audio."): value for name, value in state.items() if name.startswith("audio.")}
    return own or state
