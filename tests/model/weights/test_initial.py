"""Initial weights of the audio tower: from ImageNet, another tower or a complete model."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnext50_32x4d

from model.audioclip import AudioCLIP
from model.esresnet import ESResNeXt
from model.weights import initial
from model.weights.fetch import RemoteFile
from model.weights.initial import imagenet_file
from model.weights.releases import WeightsError
from tests.small_backbone import SMALL_AUDIOCLIP

if TYPE_CHECKING:
    from tests.conftest import Web

pytestmark = pytest.mark.usefixtures("published_audio_towers")

AUDIO: dict[str, Any] = {"n_fft": 256, "hop_length": 100, "win_length": 200}


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Make a state dict like torchvision's, with other values."""
    torch.manual_seed(3)
    state: dict[str, Tensor] = resnext50_32x4d(weights=None).state_dict()
    return state


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory, published: dict[str, Tensor]) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    torch.save(published, folder / "resnext50_32x4d-7cdf4587.pth")
    return folder


def tower(**options: Any) -> ESResNeXt:
    torch.manual_seed(0)
    return ESResNeXt(**{**AUDIO, "num_classes": 1000, **options})


def check_backbone(started: ESResNeXt, random: ESResNeXt, published: dict[str, Tensor]) -> None:
    taken = {name for name in published if not name.startswith("fc.")}
    assert {"conv1.weight", "bn1.running_mean", "layer4.2.bn3.weight"} <= taken
    for name, value in started.state_dict().items():
        expected = published[name] if name in taken else random.state_dict()[name]
        assert torch.equal(value, expected), name
        taken.discard(name)
    assert not taken, "every tensor of the backbone is loaded"


def test_imagenet_weights_fill_the_backbone_and_nothing_else(
    assets: Path, published: dict[str, Tensor]
) -> None:
    started = tower(pretrained="imagenet", assets=assets)  # the head has the same size, but is not loaded
    check_backbone(started, tower(), published)
    assert started.weights_files == (assets / "resnext50_32x4d-7cdf4587.pth",)


def test_the_audio_tower_of_an_audioclip_can_start_from_imagenet_weights(
    assets: Path, published: dict[str, Tensor]
) -> None:
    models = []
    for pretrained in (False, {"audio": "imagenet"}):
        torch.manual_seed(0)
        models.append(AudioCLIP(**SMALL_AUDIOCLIP, pretrained=pretrained, assets=assets))
    random, started = models
    check_backbone(started.audio, random.audio, published)
    assert torch.equal(started.state_dict()["text_projection"], random.state_dict()["text_projection"])


def test_offline_the_error_says_which_file_to_put_where(tmp_path: Path) -> None:
    url = "https://download.pytorch.org/models/resnext50_32x4d-7cdf4587.pth"
    with pytest.raises(WeightsError) as caught:
        tower(pretrained="imagenet", assets=tmp_path)
    for part in (str(tmp_path / "resnext50_32x4d-7cdf4587.pth"), url, "sha256 7cdf4587"):
        assert part in str(caught.value)


def test_imagenet_weights_are_checked_by_the_hash_in_their_name(
    tmp_path: Path, web: Web, published: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert imagenet_file().digest == "sha256:7cdf4587"
    file = io.BytesIO()
    torch.save(published, file)
    beginning = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    for name, whole in ((f"resnext-{beginning}.pth", True), ("resnext-00000000.pth", False)):
        remote = RemoteFile(name, "unused", digest=f"sha256:{Path(name).stem[-8:]}")
        web.files[name] = file.getvalue()
        monkeypatch.setenv("AUDIOCLIP_MIRROR", web.url)
        monkeypatch.setattr(initial, "imagenet_file", lambda remote=remote: remote)
        if whole:
            started = tower(pretrained="imagenet", assets=tmp_path)
            assert torch.equal(started.conv1.weight, published["conv1.weight"])
        else:
            with pytest.raises(WeightsError, match="the downloaded file has the wrong sha256"):
                tower(pretrained="imagenet", assets=tmp_path)
            assert not (tmp_path / name).exists()


def test_a_file_of_another_network_is_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save({**published, "layer5.weight": torch.zeros(1)}, tmp_path / "resnext50_32x4d-7cdf4587.pth")
    with pytest.raises(WeightsError, match=r"1 unexpected: layer5\.weight"):
        tower(pretrained="imagenet", assets=tmp_path)


def test_a_tower_can_start_from_the_file_of_a_complete_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    started = tower(num_classes=16, pretrained=tmp_path / "whole.pt")
    for name, value in started.state_dict().items():
        assert torch.equal(value, whole.audio.state_dict()[name]), name
    with pytest.raises(WeightsError, match=r"fc\.weight \[16, 2048\] for \[7, 2048\]"):
        tower(num_classes=7, pretrained=tmp_path / "whole.pt")
