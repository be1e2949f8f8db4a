"""Models in the hub's layout are saved, loaded, and fetched from a server on this machine."""

import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from model.audioclip import AudioCLIP
from model.weights.hub import is_hub_layout
from model.weights.releases import WeightsError


@pytest.fixture(scope="module")
def saved(small_model: AudioCLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    small_model.save_pretrained(folder)
    return folder


def test_a_saved_model_is_loaded_in_eval_mode(small_model: AudioCLIP, saved: Path) -> None:
    loaded = AudioCLIP.from_pretrained(saved)
    assert not loaded.training
    expected, found = small_model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_config_describes_the_network_and_names_no_other_weights(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["embed_dim"] == 16 and config["vision_layers"] == [1, 1, 1, 1]
    assert not {"pretrained", "assets"} & config.keys()


def test_a_config_cannot_make_another_file_be_read(saved: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained": "/etc/passwd"}))
    assert AudioCLIP.from_pretrained(tmp_path).weights_files == ()


def test_a_missing_tensor_is_named_in_the_error(saved: Path, tmp_path: Path) -> None:
    state = load_file(saved / "model.safetensors")
    del state["audio.fc.bias"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    with pytest.raises(WeightsError, match=r"audio\.fc\.bias"):
        AudioCLIP.from_pretrained(tmp_path)


def test_repositories_are_distinguished_from_files(saved: Path, tmp_path: Path) -> None:
    assert is_hub_layout(saved) and is_hub_layout("someone/audioclip-v1.0")
    others: list[str | Path] = [
        "AudioCLIP-Full-Training",
        "assets/AudioCLIP-Full-Training.pt",
        "a/b/c",
        tmp_path,
    ]
    assert not any(map(is_hub_layout, others))


def test_a_missing_run_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for source in ("results/Quickstart", "assets/mine", "mine/Quickstart"):
        with pytest.raises(WeightsError, match=f"{source}: no such file or folder of runs"):
            AudioCLIP.from_pretrained(source)


def test_an_invalid_config_is_named(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(WeightsError, match=r"its config\.json is not JSON .* Fetch it again"):
        AudioCLIP.from_pretrained(tmp_path)


class _Hub(SimpleHTTPRequestHandler):
    """Serves files as a hub does: `/owner/name/resolve/revision/file`."""

    def translate_path(self, path: str) -> str:
        return str(Path(self.directory) / path.rpartition("/")[2])

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{Path(self.path).name}"')
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hub, directory=str(saved)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_repository_is_fetched_from_a_hub(small_model: AudioCLIP, tmp_path: Path) -> None:
    loaded = AudioCLIP.from_pretrained("someone/small-audioclip", cache_dir=tmp_path)
    assert torch.equal(loaded.audio.fc.weight, small_model.audio.fc.weight)


def test_the_error_for_a_missing_repository_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match="someone/absent: no such folder, and not in the cache of the Hugging Face Hub"
    ) as error:
        AudioCLIP.from_pretrained("someone/absent", cache_dir=tmp_path, local_files_only=True)
    assert "config.json and model.safetensors" in str(error.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_the_files_of_a_saved_model_have_the_permissions_of_any_new_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    modes = {path.name: path.stat().st_mode for path in saved.iterdir()}
    assert modes == dict.fromkeys(modes, (tmp_path / "file").stat().st_mode)


def test_a_misspelt_source_of_a_model_is_answered_with_random_weights_too() -> None:
    with pytest.raises(WeightsError, match=r"AudioCLIP\(pretrained=False\)\.eval\(\)\.$"):
        AudioCLIP.from_pretrained("untrained")
