"""Finding weights by path or by name, in the assets or from a server."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model.audioclip import AudioCLIP
from model.weights import releases
from model.weights.initial import find_initial_weights
from model.weights.releases import RELEASES, WeightsError, find_weights, released_hashes

if TYPE_CHECKING:
    from tests.conftest import Web


def test_released_files_are_described() -> None:
    assert set(RELEASES) == {"AudioCLIP-Full-Training", "AudioCLIP-Partial-Training", "CLIP", "ESRNXFBSP"}
    for release in RELEASES.values():
        assert len(release.sha256) == 64
        assert release.size_bytes > 100e6
        assert release.url.endswith(f"/v0.1/{release.file}")
        assert release.remote.url == release.url
        assert release.remote.digest == f"sha256:{release.sha256}"
    urls = "\n".join(f"{x.file} {x.size_bytes} {x.sha256}" for x in RELEASES.values())
    assert hashlib.sha256(urls.encode()).hexdigest()[:8] == "2e8bc515"


@pytest.mark.parametrize("name", ["CLIP", "CLIP.pt"])
def test_offline_the_error_says_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Connection refused") as caught:
        find_weights(name, assets=tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path / "CLIP.pt"), RELEASES["CLIP"].url, "408415159", RELEASES["CLIP"].sha256):
        assert part in message
    assert "pretrained" not in message
    with pytest.raises(WeightsError, match=r"ESRNXFBSP.* need no file: .*--Model\.args\.pretrained false"):
        find_initial_weights("ESRNXFBSP", assets=tmp_path)


def test_offline_a_user_sees_one_traceback_with_the_message_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        AudioCLIP.from_pretrained("AudioCLIP-Full-Training", assets=tmp_path)
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count("AUDIOCLIP_MIRROR") == 1
    assert len(shown.splitlines()) < 20


@pytest.mark.parametrize("pretrained", ["AudioCLIP-Full-Training", {"audio": "imagenet"}, {"clip": "CLIP"}])
def test_offline_a_model_says_that_its_weights_may_be_random(pretrained: Any, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError,
        match=r"AUDIOCLIP_MIRROR to .* contains it\. Random weights need no file: pretrained false",
    ):
        AudioCLIP(pretrained=pretrained, assets=tmp_path)


def test_a_released_file_is_found_in_the_assets(
    tmp_path: Path, take_for_released: Callable[[Path], None]
) -> None:
    (tmp_path / "CLIP.pt").write_bytes(b"weights")
    take_for_released(tmp_path / "CLIP.pt")
    assert find_weights("CLIP", assets=tmp_path) == tmp_path / "CLIP.pt"
    assert find_weights("CLIP.pt", assets=str(tmp_path)) == tmp_path / "CLIP.pt"
    assert find_initial_weights("CLIP", assets=tmp_path) == tmp_path / "CLIP.pt"
    assert find_initial_weights(False) is None


def test_a_released_name_with_a_file_of_another_size_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "CLIP.pt").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match=r"CLIP\.pt has 9 bytes, the published file 408415159: .*again"):
        find_weights("CLIP", assets=tmp_path)


def test_a_path_is_never_fetched(tmp_path: Path) -> None:
    (tmp_path / "CLIP.pt").write_bytes(b"my own")
    assert find_weights(tmp_path / "CLIP.pt") == tmp_path / "CLIP.pt"
    with pytest.raises(WeightsError, match=r"/else/ESRNXFBSP\.pt: no such file .*releases/download"):
        find_weights("/else/ESRNXFBSP.pt", assets=tmp_path)
    names = r"mine\.pt: no such file or folder of runs\. The released weights are AudioCLIP"
    with pytest.raises(WeightsError, match=names):
        find_weights("mine.pt", assets=tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AudioCLIP-Full-Traning", "AudioCLIP-Full-Training"),
        ("audioclip-partial-training", "AudioCLIP-Partial-Training"),
        ("ESRNXFBPS.pt", "ESRNXFBSP"),
        ("assets/AudioCLIP-Ful-Training.pt", "AudioCLIP-Full-Training"),
        ("imagenett", "imagenet"),
        ("runs/Quikstart", "runs/Quickstart"),
        ("runs/mine-beest.pt", "runs/mine-best.pt"),
        ("zzz", None),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(
    name: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/Quickstart").mkdir(parents=True)
    (tmp_path / "runs/mine-best.pt").touch()
    (tmp_path / "runs/mine-beest.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as caught:
        find_initial_weights(name)
    hint = f'; did you mean "{meant}"? ' if meant else ". "
    assert str(caught.value).startswith(f"{name}: no such file or folder of runs{hint}The released weights")


def test_a_missing_released_file_is_fetched(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights" * 1000
    digest = hashlib.sha256(content).hexdigest()
    release = replace(RELEASES["ESRNXFBSP"], size_bytes=len(content), sha256=digest)
    monkeypatch.setattr(releases, "RELEASES", {"ESRNXFBSP": release})
    web.files["ESRNXFBSP.pt"] = content
    monkeypatch.setenv("AUDIOCLIP_MIRROR", web.url)
    found = find_weights("ESRNXFBSP", assets=tmp_path / "new")
    assert found == tmp_path / "new" / "ESRNXFBSP.pt"
    assert found.read_bytes() == content

    found.unlink()
    web.files["ESRNXFBSP.pt"] = content[::-1]
    with pytest.raises(WeightsError, match="the downloaded file has the wrong sha256"):
        find_weights("ESRNXFBSP", assets=tmp_path / "new")
    assert not found.exists()


def test_files_with_the_name_and_size_of_a_release_have_a_known_hash(tmp_path: Path) -> None:
    release, other = tmp_path / "ESRNXFBSP.pt", tmp_path / "CLIP.pt"
    for path in (release, other):
        with path.open("wb") as file:
            file.truncate(RELEASES["ESRNXFBSP"].size_bytes)  # sparse, so it needs no space
    assert released_hashes([release, other]) == {release: RELEASES["ESRNXFBSP"].sha256}
